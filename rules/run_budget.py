"""Rules about how far a run went: too short to judge, stopped too early, hardly moved."""

from __future__ import annotations

from collections.abc import Iterator

import lora_advise.signal_budget as seen
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.run_facts import Run
from lora_advise.signal_curves import curves, hits


@rule("loss-still-falls", "RUN051", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def loss_still_falls(run: Run) -> Iterator[Hit]:
    """The loss still falls by more than a tenth per doubling of the budget when the run ends.

    Why: the budget is the sum of learning rate times steps, so a decaying rate does not fake a plateau. What the slope
    promises for twice the budget is what stopping now gives away.
    Example: {"step": [50, 100, 200, 300, 400, 500], "loss": [3.0, 2.5, 1.9, 1.6, 1.4, 1.25],
        "eval_loss": [2.9, 2.4, 1.85, 1.6, 1.42, 1.28]}
    Instead: {"step": [50, 100, 200, 300, 400, 500], "loss": [1.9, 1.6, 1.5, 1.47, 1.46, 1.45],
        "eval_loss": [1.8, 1.6, 1.53, 1.51, 1.5, 1.5]}
    Evidence: healthy labelled runs gain 0 to 10 % per doubling (median 2.6 %), runs that stopped too early 14 to 62 %.
    One pair of runs with 6 and 8 epochs: 38 % foretold, 37 % found.
    Known problems: the slope is that of this data; a second epoch gains less than new rows. Flat and high is not seen
    here.
    """
    yield from hits(
        seen.still_improving(curves(run)), "train.num_train_epochs", "train.max_steps", "train.learning_rate"
    )


@rule("loss-hardly-moves", "RUN052", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus", "e2-metric"))
def loss_hardly_moves(run: Run) -> Iterator[Hit]:
    """The loss moved by less than 5 % in at least 100 steps and is still above 1.

    Why: the rate is too low for this alpha, or too few parameters are trained to make a difference.
    Example: {"step": [50, 100, 150, 200, 250, 300], "loss": [2.3, 2.3, 2.29, 2.29, 2.28, 2.28]}
    Instead: {"step": [50, 100, 150, 200, 250, 300], "loss": [2.3, 1.9, 1.8, 1.78, 1.77, 1.77]}
    Evidence: labelled runs with too low a rate or very few trainable parameters.
    Known problems: data that the model already knows does not move either.
    """
    yield from hits(seen.hardly_moves(curves(run)), "train.learning_rate", "lora.lora_alpha", "lora.target_modules")


@rule("few-updates", "RUN053", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus", "tinker-docs"))
def few_updates(run: Run) -> Iterator[Hit]:
    """At most 150 optimizer steps that moved the loss by less than a fifth.

    Why: with a large effective batch several epochs can still be only a few dozen updates.
    Example: {"step": [10, 20, 30, 40, 50], "loss": [2.0, 1.84, 1.76, 1.74, 1.73]}
    Instead: {"step": [100, 200, 300, 400, 500], "loss": [2.0, 1.84, 1.76, 1.74, 1.73]}
    Evidence: a labelled run with 7 epochs in 50 steps.
    Known problems: counted only where nothing was evaluated.
    """
    yield from hits(seen.few_updates(curves(run)), "train.num_train_epochs", "train.gradient_accumulation_steps")


@rule("log-too-short", "RUN061", Severity.NOTE, Confidence.MEASURED, ("diagnosis-corpus",))
def log_too_short(run: Run) -> Iterator[Hit]:
    """The log is too short to judge.

    Why: below four losses or 25 steps the curve is warmup and noise.
    Example: {"step": [10, 20, 30], "loss": [1.5, 1.4, 1.39]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39]}
    Evidence: the labelled logs that people could not judge either.
    Known problems: none known.
    """
    yield from hits(seen.too_short(curves(run)), "train.logging_steps", "train.max_steps")


@rule("run-interrupted", "RUN062", Severity.NOTE, Confidence.FACT, ("arithmetic",))
def run_interrupted(run: Run) -> Iterator[Hit]:
    """The log ends before nine tenths of the planned steps.

    Why: a judgement of the part is not one of the whole: the schedule had not decayed yet.
    Example: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "max_steps": 1000}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "max_steps": 200}
    Evidence: arithmetic.
    Known problems: early stopping on purpose looks the same.
    """
    yield from hits(seen.interrupted(curves(run)), "train.max_steps")


BUDGET_RULES = (loss_still_falls, loss_hardly_moves, few_updates, log_too_short, run_interrupted)
