"""Rules about single entries of a training log: not finite, zero, impossible, never changing."""

from __future__ import annotations

from collections.abc import Iterator

import lora_advise.signal_numerics as seen
from lora_advise.facts import Facts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.run_facts import Run
from lora_advise.signal_curves import curves, hits


@rule("eval-loss-nan", "RUN001", Severity.ERROR, Confidence.FACT, ("transformers-code", "diagnosis-corpus"))
def eval_loss_nan(run: Run) -> Iterator[Hit]:
    """An evaluation loss is not a finite number.

    Why: the mean over zero supervised tokens is 0/0. Truncation that cuts the answer off, or a template that masks
    every token, does it; no learning rate mends it.
    Example: {"step": [50, 100, 150, 200], "loss": [1.9, 1.6, 1.55, 1.54], "eval_loss": [NaN, NaN, NaN, NaN]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.9, 1.6, 1.55, 1.54], "eval_loss": [1.7, 1.6, 1.58, 1.58]}
    Evidence: arithmetic; one labelled log shows it.
    Known problems: weights that became NaN give it too; then the training loss reads NaN or 0.0 as well.
    """
    yield from hits(seen.eval_nan(curves(run)), "train.max_length", "train.loss_on", "data.path")


@rule(
    "loss-contradicts-accuracy",
    "RUN002",
    Severity.ERROR,
    Confidence.FACT,
    ("arithmetic", "trl-code", "diagnosis-corpus"),
)
def loss_contradicts_accuracy(run: Run) -> Iterator[Hit]:
    """The loss is too small for the token accuracy that stands beside it.

    Why: a token that the arg max misses has a probability of at most 1/2 and costs at least ln 2, so the share of wrong
    tokens is at most loss / ln 2. Where that fails, the loss was divided by the wrong number of tokens.
    Example: {"step": [50, 100, 150, 200], "loss": [0.03, 0.025, 0.024, 0.024], "mean_token_accuracy": [0.5, 0.55, 0.6,
    0.6]}
    Instead: {"step": [50, 100, 150, 200], "loss": [0.93, 0.88, 0.87, 0.87], "mean_token_accuracy": [0.7, 0.75, 0.76,
    0.76]}
    Evidence: an exact bound; five points of tolerance; at least 30 % of the entries must break it.
    Known problems: label smoothing and losses with further terms are only larger, so the bound holds for them too.
    """
    yield from hits(seen.contradicts_accuracy(curves(run)), "stack.versions", "train.gradient_accumulation_steps")


@rule("loss-repeats", "RUN003", Severity.ERROR, Confidence.FACT, ("arithmetic", "diagnosis-corpus"))
def loss_repeats(run: Run) -> Iterator[Hit]:
    """The losses come again digit for digit: no weight is changing.

    Why: two passes over the same rows in the same order give the same losses only when the weights stand still.
    Activation checkpointing without input gradients, or an adapter that the optimizer does not hold, does it.
    Example: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200],
        "loss": [0.91, 0.74, 0.88, 0.79, 0.83, 0.91, 0.74, 0.88, 0.79, 0.83]}
    Instead: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200],
        "loss": [0.91, 0.74, 0.78, 0.71, 0.73, 0.71, 0.70, 0.72, 0.70, 0.71]}
    Evidence: at least five pairs equal to four digits; one labelled log shows it.
    Known problems: with dropout or shuffling a frozen run does not repeat; then a flat loss is all there is to see.
    """
    yield from hits(seen.repeats(curves(run)), "train.activation_checkpointing", "lora.target_modules")


@rule("learning-rate-zero", "RUN004", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def learning_rate_zero(run: Run) -> Iterator[Hit]:
    """The learning rate is 0 from the first to the last entry.

    Why: AdamW multiplies every update by the rate. A scheduler that was stepped past its end, or warmup longer than the
    run, leaves it at zero.
    Example: {"step": [50, 100, 150, 200], "loss": [1.52, 1.51, 1.49, 1.37], "learning_rate": [0, 0, 0, 0]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.52, 1.43, 1.4, 1.39], "learning_rate": [2e-4, 1e-4, 5e-5, 1e-5]}
    Evidence: arithmetic.
    Known problems: a log that rounds 1e-7 to 0 looks the same, and then the rate is too low anyway.
    """
    yield from hits(seen.rate_zero(curves(run)), "train.learning_rate", "train.lr_scheduler_type", "train.warmup_steps")


@rule("gradient-zero", "RUN005", Severity.WARNING, Confidence.FACT, ("transformers-code", "diagnosis-corpus"))
def gradient_zero(run: Run) -> Iterator[Hit]:
    """The gradient norm is exactly zero at many entries.

    Why: a gradient is exactly zero only when no supervised token is in the batch or nothing trainable is in the graph.
    Example: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "grad_norm": [0.0, 0.4, 0.0, 0.4]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "grad_norm": [0.5, 0.4, 0.4, 0.4]}
    Evidence: more than a fifth of the entries, or any in a log of fewer than 20.
    Known problems: some trainers log 0 when they do not measure the norm.
    """
    yield from hits(
        seen.gradient_zero(curves(run)), "train.max_length", "train.loss_on", "train.activation_checkpointing"
    )


@rule("labels-trivial", "RUN006", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def labels_trivial(run: Run) -> Iterator[Hit]:
    """Training and evaluation loss are both next to nothing.

    Why: text that nobody has seen is never predicted at 0.01 nats per token. Labels that hold padding, image tokens,
    the prompt, or an answer that stands in the prompt are.
    Example: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200],
        "loss": [0.9, 0.008, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006],
        "eval_loss": [0.02, 0.008, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006, 0.006]}
    Instead: {"step": [20, 40, 60, 80, 100, 120, 140, 160, 180, 200],
        "loss": [1.9, 1.45, 1.4, 1.38, 1.37, 1.36, 1.36, 1.36, 1.36, 1.36],
        "eval_loss": [1.6, 1.45, 1.42, 1.41, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4]}
    Evidence: one labelled log; no healthy one of the corpus ends below 0.01 on both.
    Known problems: a task with one-word answers that are easy reaches 0.01 honestly: look at three decoded rows.
    """
    yield from hits(seen.trivial_labels(curves(run)), "train.loss_on", "data.path")


@rule("loss-starts-above-chance", "RUN007", Severity.NOTE, Confidence.MEASURED, ("arithmetic", "diagnosis-corpus"))
def loss_starts_above_chance(run: Run, facts: Facts) -> Iterator[Hit]:
    """The first loss is as high as guessing.

    Why: guessing among V tokens costs ln V, 10.4 for 32,000 and 12.5 for 262,144. A pretrained model that starts there
    has not seen such text, or the labels, the template or the weights are wrong.
    Example: {"step": [10, 20, 80, 120, 160, 200], "loss": [12.6, 2.0, 1.75, 1.73, 1.72, 1.72]}
    Instead: {"step": [10, 20, 80, 120, 160, 200], "loss": [2.1, 2.0, 1.75, 1.73, 1.72, 1.72]}
    Evidence: two labelled logs start so; one has padding in its labels, one only had a new output head.
    Known problems: a new head or new tokens start there by right. Without a plan the vocabulary is not known, and only
        what lies above the largest one's is reported.
    """
    yield from hits(
        seen.starts_above_chance(curves(run), facts.model.vocab_size if facts.model else None),
        "train.loss_on",
        "data.format",
    )


@rule("loss-not-finite", "RUN011", Severity.ERROR, Confidence.FACT, ("diagnosis-corpus",))
def loss_not_finite(run: Run) -> Iterator[Hit]:
    """Training losses are NaN or infinite.

    Why: one NaN gradient that is applied makes every weight NaN. fp16, a kernel, or rows without a supervised token
    come before the learning rate.
    Example: {"step": [50, 100, 150, 200, 250], "loss": [1.6, 1.5, NaN, NaN, NaN]}
    Instead: {"step": [50, 100, 150, 200, 250], "loss": [1.6, 1.5, 1.48, 1.48, 1.48]}
    Evidence: at least three, or more than 2 % of the entries.
    Known problems: transformers hides it as 0.0 by default: see loss-reads-zero.
    """
    yield from hits(seen.not_finite(curves(run)), "train.dtype", "train.attn_implementation", "train.learning_rate")


@rule("loss-reads-zero", "RUN012", Severity.ERROR, Confidence.FACT, ("transformers-code", "diagnosis-corpus"))
def loss_reads_zero(run: Run) -> Iterator[Hit]:
    """The log says exactly 0.0 where the loss was not small: a NaN that the trainer filtered.

    Why: transformers leaves NaN losses out of the sum that it logs (logging_nan_inf_filter), so a dead run reads 0.0.
    Example: {"step": [50, 100, 150, 200, 250], "loss": [1.6, 1.5, 0.0, 0.0, 0.0], "grad_norm": [0.5, 0.4, NaN, NaN,
    NaN]}
    Instead: {"step": [50, 100, 150, 200, 250], "loss": [1.6, 1.5, 1.48, 1.48, 1.48], "grad_norm": [0.5, 0.4, 0.4, 0.4,
    0.4]}
    Evidence: at least two; a loss that had shrunk below 0.01 first and rounds to 0.0 does not count.
    Known problems: packing with a kernel that ignores the mask has printed 0.0 as well; the run is broken either way.
    """
    yield from hits(seen.reads_zero(curves(run)), "train.dtype", "train.max_length", "train.attn_implementation")


@rule("gradient-nan", "RUN013", Severity.ERROR, Confidence.FACT, ("diagnosis-corpus",))
def gradient_nan(run: Run) -> Iterator[Hit]:
    """Gradient norms are NaN and fp16's loss scaler does not explain them.

    Why: clipping by a NaN norm makes every update NaN unless the trainer drops it.
    Example: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "grad_norm": [NaN, NaN, 0.4, NaN],
        "learning_rate": [2e-4, 1.5e-4, 1e-4, 5e-5]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39], "grad_norm": [0.5, 0.4, 0.4, 0.4],
        "learning_rate": [2e-4, 1.5e-4, 1e-4, 5e-5]}
    Evidence: one or two in a long log with a finite loss are a note: that labelled run was healthy.
    Known problems: none known.
    """
    yield from hits(seen.gradient_nan(curves(run)), "train.dtype", "train.attn_implementation")


@rule("fp16-steps-skipped", "RUN014", Severity.NOTE, Confidence.MEASURED, ("diagnosis-corpus",))
def fp16_steps_skipped(run: Run) -> Iterator[Hit]:
    """NaN gradient norms at which the learning rate stood still: fp16's loss scaler skipped the update.

    Why: the scaler doubles its factor until something overflows, drops that step and halves it. A few are its normal
    work.
    Example: {"step": [40, 80, 120, 160, 200, 240], "loss": [1.5, 1.42, 1.4, 1.39, 1.39, 1.38],
        "grad_norm": [0.5, NaN, 0.4, 0.4, 0.4, 0.4], "learning_rate": [2e-4, 2e-4, 1.5e-4, 1e-4, 5e-5, 1e-5]}
    Instead: {"step": [40, 80, 120, 160, 200, 240], "loss": [1.5, 1.42, 1.4, 1.39, 1.39, 1.38],
        "grad_norm": [0.5, 0.4, 0.4, 0.4, 0.4, 0.4], "learning_rate": [2e-4, 1.9e-4, 1.5e-4, 1e-4, 5e-5, 1e-5]}
    Evidence: two labelled runs did so and were healthy.
    Known problems: with a constant rate a real NaN looks the same; the share is then limited to a fifth.
    """
    yield from hits(seen.steps_skipped(curves(run)), "train.dtype")


@rule("loss-not-a-likelihood", "RUN015", Severity.NOTE, Confidence.FACT, ("arithmetic",))
def loss_not_a_likelihood(run: Run) -> Iterator[Hit]:
    """The training loss is negative: a policy objective whose curve says nothing about progress.

    Why: a cross-entropy is never negative. The objectives of GRPO and PPO hover around zero while the reward grows.
    Example: {"step": [50, 100, 150, 200], "loss": [-0.02, 0.01, -0.03, 0.02]}
    Instead: {"step": [50, 100, 150, 200], "loss": [1.5, 1.42, 1.4, 1.39]}
    Evidence: arithmetic; from one negative entry in twenty on.
    Known problems: an objective that stays positive by chance is not recognised.
    """
    yield from hits(seen.not_a_likelihood(curves(run)), "task.family")


NUMERIC_RULES = (
    eval_loss_nan, loss_contradicts_accuracy, loss_repeats, learning_rate_zero, gradient_zero, labels_trivial,
    loss_starts_above_chance, loss_not_finite, loss_reads_zero, gradient_nan, fp16_steps_skipped, loss_not_a_likelihood,
)  # fmt: skip
