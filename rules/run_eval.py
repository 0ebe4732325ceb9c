"""Rules that compare training with evaluation: overfitting, swings, gaps, memorised rows."""

from __future__ import annotations

from collections.abc import Iterator

import lora_advise.signal_eval as seen
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.run_facts import Run
from lora_advise.signal_curves import curves, hits


@rule("eval-loss-rises", "RUN041", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def eval_loss_rises(run: Run) -> Iterator[Hit]:
    """The evaluation loss rises after a minimum while the training loss keeps falling: overfitting.

    Why: from the minimum on the adapter learns the training rows at the expense of others. The minimum is where to
    stop.
    Example: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.9, 1.55, 1.3, 1.1, 1.05, 1.02],
        "eval_loss": [1.7, 1.5, 1.46, 1.55, 1.63, 1.7]}
    Instead: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.9, 1.55, 1.5, 1.46, 1.45, 1.44],
        "eval_loss": [1.7, 1.56, 1.51, 1.5, 1.49, 1.49]}
    Evidence: the median of the last two evaluations lies more than 1 % and 3 standard errors above the minimum, and so
    do four in five of the later ones. Above 3 % moderate, above 10 % severe, below 3 % a note.
    Known problems: the task's own metric may still improve while the loss rises; a labelled run did that by 46 %.
    """
    yield from hits(
        seen.eval_rises(curves(run)), "train.num_train_epochs", "train.load_best_model_at_end", "train.learning_rate"
    )


@rule("eval-loss-swings", "RUN042", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def eval_loss_swings(run: Run) -> Iterator[Hit]:
    """The evaluation loss leaps up by more than a quarter and comes back by half.

    Why: steps so large that each epoch ends somewhere else. It is instability, not overfitting: a lower or decaying
    rate.
    Example: {"step": [50, 100, 150, 200], "loss": [0.55, 0.52, 0.51, 0.5], "eval_loss": [0.43, 0.36, 0.6, 0.42]}
    Instead: {"step": [50, 100, 150, 200], "loss": [0.55, 0.52, 0.51, 0.5], "eval_loss": [0.43, 0.4, 0.39, 0.39]}
    Evidence: one labelled run at a constant rate of 1e-3.
    Known problems: an evaluation set of a few dozen rows swings by itself.
    """
    yield from hits(seen.eval_swings(curves(run)), "train.learning_rate", "train.lr_scheduler_type", "train.eval_share")


@rule("eval-far-above-train", "RUN043", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def eval_far_above_train(run: Run) -> Iterator[Hit]:
    """The only evaluation lies far above the training loss.

    Why: more than five times means that the training rows are known by heart. Less is a gap, which every fine-tuning
    shows and which says nothing about the way it goes.
    Example: {"step": [50, 100, 150, 200, 250], "loss": [0.04, 0.03, 0.03, 0.03, 0.03],
        "eval_loss": [null, null, null, null, 0.33]}
    Instead: {"step": [50, 100, 150, 200, 250], "loss": [0.34, 0.31, 0.31, 0.3, 0.3],
        "eval_loss": [null, null, null, null, 0.33]}
    Evidence: three labelled runs with one evaluation at 9 to 21 times; between 1.5 and 5 it is a note.
    Known problems: dropout raises the training loss and hides part of a gap.
    """
    yield from hits(seen.far_above_train(curves(run)), "train.num_train_epochs", "train.eval_steps", "data.duplicates")


@rule("loss-drops-at-epochs", "RUN044", Severity.NOTE, Confidence.MEASURED, ("diagnosis-corpus",))
def loss_drops_at_epochs(run: Run) -> Iterator[Hit]:
    """The training loss falls in steps at the epoch boundaries.

    Why: rows that were seen before are remembered. It is no proof of harm: of three labelled runs with such stairs the
    evaluation loss still fell in one and rose by 12 and 36 % in two.
    Example: {"every": 10, "epoch_per_step": 0.0125, "loss": [[1.5, 8], [1.3, 8], [1.15, 8]]}
    Instead: {"every": 10, "epoch_per_step": 0.0125, "loss": [[1.5, 2], [1.42, 6], [1.4, 8], [1.39, 8]]}
    Evidence: at half of the boundaries a drop above 5 %, 3 standard errors and twice the change within the epoch.
    Known problems: the loss that rises within each epoch is the mirror of the same thing.
    """
    yield from hits(seen.drops_at_epochs(curves(run)), "train.num_train_epochs", "train.eval_strategy")


@rule("training-set-memorised", "RUN045", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def training_set_memorised(run: Run) -> Iterator[Hit]:
    """The training loss is next to nothing after several epochs and nothing was evaluated.

    Why: a loss of 0.02 on rows that were seen many times shows memory, and only an evaluation shows what it cost.
    Example: {"step": [50, 100, 150, 200, 250], "epoch": [10, 11, 12, 13, 14], "loss": [0.03, 0.02, 0.02, 0.02, 0.02]}
    Instead: {"step": [50, 100, 150, 200, 250], "epoch": [0.2, 0.4, 0.6, 0.8, 1.0], "loss": [1.5, 1.42, 1.4, 1.39,
    1.39]}
    Evidence: below 0.05 after more than three epochs, or with stairs that explain a fall of three quarters.
    Known problems: we do not call it overfitting: the training loss alone cannot show that.
    """
    yield from hits(seen.memorised(curves(run)), "train.num_train_epochs", "train.eval_strategy", "train.eval_share")


@rule("rows-repeat-within-epoch", "RUN046", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def rows_repeat_within_epoch(run: Run) -> Iterator[Hit]:
    """Inside one epoch the loss stays level and then falls by a third while the gradients grow.

    Why: within an epoch every row is new, so the loss of a settled run stays level. A late fall with growing gradients
    is recognition: rows come twice, or overlap.
    Example: {"every": 5, "epoch_per_step": 0.001, "loss": [[1.5, 49], [0.9, 71]], "grad_norm": [[0.3, 49], [0.9, 71]],
        "learning_rate": [[2e-4, 120]]}
    Instead: {"every": 5, "epoch_per_step": 0.001, "loss": [[1.9, 3], [1.5, 117]], "grad_norm": [[0.3, 120]],
        "learning_rate": [[2e-4, 60], [1e-4, 60]]}
    Evidence: from 100 entries on; level within 10 % early, then 1.5 times lower and gradients doubled.
    Known problems: easy rows at the end of a sorted file do the same: shuffle first.
    """
    yield from hits(seen.memorised_within_epoch(curves(run)), "data.duplicates", "data.path")


EVAL_RULES = (
    eval_loss_rises, eval_loss_swings, eval_far_above_train, loss_drops_at_epochs, training_set_memorised,
    rows_repeat_within_epoch,
)  # fmt: skip
