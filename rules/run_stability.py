"""Rules about a training loss that should fall and does something else, and about the learning rate behind it."""

from __future__ import annotations

from collections.abc import Iterator

import lora_advise.signal_stability as seen
from lora_advise.facts import TrainFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.run_facts import Run
from lora_advise.signal_curves import curves, hits


@rule("loss-diverges", "RUN021", Severity.ERROR, Confidence.MEASURED, ("diagnosis-corpus",))
def loss_diverges(run: Run) -> Iterator[Hit]:
    """The smoothed training loss climbs far above its best.

    Why: the steps left the region where the gradient points downhill, mostly by too high a learning rate.
    Example: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.9, 1.5, 1.4, 2.2, 3.9, 4.4]}
    Instead: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.9, 1.5, 1.4, 1.38, 1.37, 1.36]}
    Evidence: 1.5 times the best of the running median and six standard errors (2 times below 12 entries): every
    labelled run that diverged, no healthy one.
    Known problems: a change of data in mid-run (a curriculum, a second dataset) climbs too.
    """
    yield from hits(seen.diverges(curves(run)), "train.learning_rate", "train.warmup_steps", "train.max_grad_norm")


@rule("loss-spikes", "RUN022", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus", "olmo-spike-score"))
def loss_spikes(run: Run) -> Iterator[Hit]:
    """Single losses leap far above what came before.

    Why: a bad batch met a rate or a state that could not take it. Many spikes waste the steps around them.
    Example: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280],
        "loss": [1.52, 1.48, 1.5, 1.46, 1.47, 1.45, 1.46, 1.44, 1.45, 6.3, 1.45, 1.44, 1.45, 1.44]}
    Instead: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280],
        "loss": [1.52, 1.48, 1.5, 1.46, 1.47, 1.45, 1.46, 1.44, 1.45, 1.47, 1.45, 1.44, 1.45, 1.44]}
    Evidence: six robust standard deviations and 1.5 times the rolling median; three spikes and 0.5 % of the entries,
    or few above three times. The short last batch of an epoch does not count.
    Known problems: batches grouped by length swing by themselves.
    """
    yield from hits(seen.spikes(curves(run)), "train.learning_rate", "train.max_grad_norm", "data.path")


@rule("gradient-explodes", "RUN023", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def gradient_explodes(run: Run) -> Iterator[Hit]:
    """Gradient norms above 100 and above 100 times the usual.

    Why: clipping bounds the step, not the damage: its direction is that of one batch or of a kernel that overflowed.
    Example: {"step": [25, 50, 100, 150, 200], "loss": [1.5, 1.45, 1.4, 1.4, 1.39], "grad_norm": [0.5, 0.4, 900.0, 0.4,
    0.4]}
    Instead: {"step": [25, 50, 100, 150, 200], "loss": [1.5, 1.45, 1.4, 1.4, 1.39], "grad_norm": [0.5, 0.4, 0.9, 0.4,
    0.4]}
    Evidence: relative to the run's own median, since healthy runs of the corpus sit anywhere from 0.05 to 5.
    Known problems: one such step in a long log is only a note.
    """
    yield from hits(
        seen.gradient_explodes(curves(run)), "train.attn_implementation", "train.max_grad_norm", "train.learning_rate"
    )


@rule("gradient-mostly-clipped", "RUN024", Severity.NOTE, Confidence.CONVENTION, ("convention",))
def gradient_mostly_clipped(run: Run, train: TrainFacts) -> Iterator[Hit]:
    """More than half of the steps are clipped.

    Why: then every step has the length that max_grad_norm gives it. AdamW forgives that, plain SGD does not.
    Example: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240],
        "loss": [1.5, 1.42, 1.4, 1.39, 1.38, 1.37, 1.36, 1.36, 1.36, 1.35, 1.35, 1.35],
        "grad_norm": [3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2]}
    Instead: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240],
        "loss": [1.5, 1.42, 1.4, 1.39, 1.38, 1.37, 1.36, 1.36, 1.36, 1.35, 1.35, 1.35],
        "grad_norm": [3, 2, 1, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]}
    Evidence: a convention; the first tenth of the run is left out.
    Known problems: healthy QLoRA runs with max_grad_norm 0.3 are often clipped throughout.
    """
    if train.max_grad_norm:
        yield from hits(
            seen.mostly_clipped(curves(run), train.max_grad_norm), "train.max_grad_norm", "train.learning_rate"
        )


@rule("learning-rate-too-high", "RUN031", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus", "tinker-sweep"))
def learning_rate_too_high(run: Run) -> Iterator[Hit]:
    """The loss rises while the learning rate is high and falls again only when it decays.

    Why: near its peak the rate is beyond what the loss surface takes; the run spends its best steps on recovering.
    Example: {"step": [50, 100, 150, 200, 250, 300, 350, 400], "loss": [0.9, 0.4, 0.38, 0.55, 0.85, 0.9, 0.9, 0.89],
        "learning_rate": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 5.8e-4, 5.6e-4]}
    Instead: {"step": [50, 100, 150, 200, 250, 300, 350, 400], "loss": [0.9, 0.45, 0.4, 0.39, 0.38, 0.38, 0.37, 0.37],
        "learning_rate": [1e-4, 2e-4, 2e-4, 1.8e-4, 1.5e-4, 1e-4, 5e-5, 1e-5]}
    Evidence: a rise of 1.5 times during warmup, or a hump of 8 % in the first 60 % of the plan that the end undercuts
    by 10 %.
    Known problems: harder rows in the middle of a sorted dataset make a hump too.
    """
    yield from hits(seen.rate_too_high(curves(run)), "train.learning_rate", "lora.lora_alpha", "train.warmup_steps")


@rule(
    "learning-rate-restarts", "RUN032", Severity.WARNING, Confidence.MEASURED, ("transformers-code", "diagnosis-corpus")
)
def learning_rate_restarts(run: Run) -> Iterator[Hit]:
    """The learning rate jumps up after it had decayed.

    Why: resuming with more epochs or another max_steps recomputes the whole schedule, and a rate that is suddenly high
    again undoes what the decay had settled.
    Example: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.6, 1.45, 1.42, 1.41, 1.41, 1.4],
        "learning_rate": [2e-4, 1.2e-4, 4e-5, 1e-5, 1e-4, 5e-5]}
    Instead: {"step": [50, 100, 150, 200, 250, 300], "loss": [1.6, 1.45, 1.42, 1.41, 1.41, 1.4],
        "learning_rate": [2e-4, 1.7e-4, 1.2e-4, 8e-5, 4e-5, 1e-5]}
    Evidence: a jump of a tenth of the peak after it, or of a quarter in mid-run.
    Known problems: schedules with restarts on purpose are known by three or more equal, evenly spaced jumps.
    """
    yield from hits(
        seen.rate_restarts(curves(run)), "train.lr_scheduler_type", "train.num_train_epochs", "train.max_steps"
    )


STABILITY_RULES = (
    loss_diverges,
    loss_spikes,
    gradient_explodes,
    gradient_mostly_clipped,
    learning_rate_too_high,
    learning_rate_restarts,
)
