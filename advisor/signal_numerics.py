"""Signals that are facts about single entries: not finite, zero, impossible, never changing."""

from __future__ import annotations

from functools import lru_cache
from itertools import compress
from math import isfinite, isnan, log

from lora_advise.curve import median, period
from lora_advise.finding import Severity
from lora_advise.signal_curves import Curves, Signal

LN2 = log(2)
LARGEST_CHANCE = 12.5
"""ln of the largest vocabularies, 262,144 tokens: what guessing costs at most."""


def eval_nan(c: Curves) -> Signal | None:
    """An evaluation loss that is not a number: some evaluation batch has no supervised token."""
    bad = [s for s, e in zip(c.eval_step, c.eval_loss, strict=True) if isnan(e)]
    if not bad:
        return None
    return Signal(
        f"{len(bad)} of {len(c.eval_loss)} evaluation losses are not finite, first at step {bad[0]}: an evaluation "
        "batch has no supervised token, or the weights are already NaN.",
        bad[0],
        Severity.ERROR,
    )


def contradicts_accuracy(c: Curves) -> Signal | None:
    """A loss too small for its token accuracy: a token that argmax misses has p <= 1/2, so errors <= loss / ln 2."""
    both = [i for i in range(c.count) if isfinite(c.accuracy[i]) and isfinite(c.raw.loss[i])]
    broken = [i for i in both if 1 - c.accuracy[i] > c.raw.loss[i] / LN2 + 0.05]
    if not broken or len(broken) < max(2, 0.3 * len(both)):
        return None
    i = broken[0]
    return Signal(
        f"At {len(broken)} of {len(both)} entries the loss is too small for the token accuracy: loss "
        f"{c.raw.loss[i]:.3g} allows at most {c.raw.loss[i] / LN2:.1%} wrong tokens, the log says "
        f"{1 - c.accuracy[i]:.1%}. "
        "The loss is averaged over the wrong number of tokens.",
        c.raw.step[i],
        Severity.ERROR,
    )


def repeats(c: Curves) -> Signal | None:
    """Losses that come again digit for digit, pass after pass: no weight is changing."""
    if not 8 <= c.count <= 5_000 or not all(map(isfinite, c.raw.loss)):
        return None
    lag = period(c.raw.loss)
    if lag is None:
        return None
    return Signal(
        f"The losses repeat digit for digit every {lag} entries, from step {c.raw.step[lag]}: no weight is changing.",
        c.raw.step[lag],
        Severity.ERROR,
    )


def rate_zero(c: Curves) -> Signal | None:
    """A learning rate that is zero at every entry."""
    if c.count < 3 or not c.rates_known or any(c.raw.learning_rate):
        return None
    return Signal(
        f"The learning rate is 0 at all {c.count} logged entries: nothing is trained.", c.raw.step[0], Severity.ERROR
    )


def gradient_zero(c: Curves) -> Signal | None:
    """Gradient norms that are exactly zero: nothing reaches the adapter in these steps."""
    zero = [i for i in range(c.count) if c.grad_logged[i] and c.raw.grad_norm[i] == 0]
    if not zero or (len(zero) <= 0.2 * c.count and c.count >= 20):
        return None
    return Signal(
        f"The gradient norm is exactly 0 at {len(zero)} of {c.count} entries, first at step {c.raw.step[zero[0]]}: "
        "these batches have no supervised token, or the adapter gets no gradient.",
        c.raw.step[zero[0]],
        Severity.ERROR if len(zero) == c.count and c.count >= 3 else Severity.WARNING,
    )


def not_finite(c: Curves) -> Signal | None:
    """Training losses that are NaN or infinite: at least three, or more than 2 % of the entries."""
    bad = [i for i, v in enumerate(c.raw.loss) if not isfinite(v)]
    if not bad or (len(bad) < 3 and len(bad) <= 0.02 * c.count):
        return None
    first = c.raw.step[bad[0]]
    return Signal(
        f"{len(bad)} of {c.count} training losses are NaN or infinite, first at step {first}.", first, Severity.ERROR
    )


@lru_cache(maxsize=4)
def reads_zero(c: Curves) -> Signal | None:
    """Losses of exactly 0.0 that do not come from a loss that had become small: the trainer prints NaN as 0.0."""
    zero: list[int] = []
    before = float("inf")
    for i, value in enumerate(c.raw.loss):
        # A loss that has really shrunk is rounded to 0.0 by the log, which is no alarm.
        if value == 0 and (before >= 0.01 or _nan_gradient(c, i)):
            zero.append(i)
        elif isfinite(value) and value != 0:
            before = abs(value)
    if len(zero) < 2:
        return None
    hidden = any(_nan_gradient(c, i) for i in zero)
    first = c.raw.step[zero[0]]
    return Signal(
        f"{len(zero)} training losses read exactly 0.0, first at step {first}"
        + (", with a gradient norm that is NaN" if hidden else "")
        + ": transformers prints a NaN loss as 0.0 unless logging_nan_inf_filter is off.",
        first,
        Severity.ERROR,
    )


def _nan_gradient(c: Curves, i: int) -> bool:
    return c.grad_logged[i] and not isfinite(c.raw.grad_norm[i])


def _nan_gradients(c: Curves) -> list[int]:
    """Entries with a NaN gradient norm and a loss that reads well; those with loss 0.0 belong to ``reads_zero``."""
    found = [i for i in range(c.count) if _nan_gradient(c, i)]
    return [] if any(c.raw.loss[i] == 0 for i in found) else found


def _skipped(c: Curves, found: list[int]) -> bool:
    """Whether the learning rate stood still at most of these steps: fp16's loss scaler skipped the update."""
    rate = c.raw.learning_rate
    still = [i for i in found if (i + 1 < c.count and rate[i + 1] == rate[i]) or (i > 0 and rate[i] == rate[i - 1])]
    return len(still) >= 0.5 * len(found) and len(found) < 0.2 * c.count


def gradient_nan(c: Curves) -> Signal | None:
    """NaN gradient norms that fp16's loss scaler does not explain."""
    found = _nan_gradients(c)
    if not found or _skipped(c, found):
        return None
    first = c.raw.step[found[0]]
    if len(found) <= 0.02 * c.count and len(found) < 3:
        return Signal(
            f"{len(found)} of {c.count} gradient norms is NaN, at step {first}, while the loss stays finite: "
            "harmless if "
            "the trainer dropped that update.",
            first,
            Severity.NOTE,
        )
    return Signal(f"{len(found)} of {c.count} gradient norms are NaN, first at step {first}.", first, Severity.ERROR)


def steps_skipped(c: Curves) -> Signal | None:
    """NaN gradient norms at which the learning rate did not advance: fp16's loss scaler at work."""
    found = _nan_gradients(c)
    if not found or not _skipped(c, found):
        return None
    return Signal(
        f"{len(found)} gradient norms are NaN while the learning rate stood still: fp16's loss scaler skipped these "
        "updates, which is how it finds its scale.",
        c.raw.step[found[0]],
        Severity.NOTE,
    )


def starts_above_chance(c: Curves, vocabulary: int | None = None) -> Signal | None:
    """A first loss above ln(vocabulary), which is what guessing gives; of an unknown vocabulary, above the largest one's."""
    first = next((i for i, v in enumerate(c.raw.loss) if isfinite(v)), None)
    chance = log(vocabulary) if vocabulary and vocabulary > 1 else LARGEST_CHANCE
    if first is None or c.count < 5 or c.raw.loss[first] < chance or c.raw.step[0] > 20:
        return None
    guessing = f"ln({vocabulary:,}) = {chance:.1f}" if vocabulary else f"ln(vocabulary), {chance:.1f} at most"
    return Signal(
        f"The first logged loss is {c.raw.loss[first]:.1f}; guessing among all tokens gives {guessing}. "
        "Labels that contain padding or image tokens, a wrong template or weights that were not loaded do this.",
        c.raw.step[first],
    )


def trivial_labels(c: Curves) -> Signal | None:
    """Training and evaluation loss both below 0.01: the supervised tokens can be copied or guessed."""
    losses = c.evaluations[1]
    if c.count < 10 or not losses or not (losses[-1] < 0.01 and c.tail_loss < 0.01):
        return None
    small = list(compress(c.raw.step, (v < 0.01 for v in c.raw.loss)))
    return Signal(
        f"The training loss ends at {c.tail_loss:.2g} and the evaluation loss at {losses[-1]:.2g}: held-out text "
        "cannot be "
        "that predictable, so the labels hold padding, the prompt or the answer itself.",
        small[0] if small else None,
    )


def not_a_likelihood(c: Curves) -> Signal | None:
    """A loss that goes below zero: a policy-gradient objective, whose level says nothing."""
    if c.positive or c.count == 0:
        return None
    share = sum(v < 0 for v in c.raw.loss) / c.count
    return Signal(
        f"{share:.0%} of the training losses are negative, so this is not a likelihood but a policy objective (median "
        f"{median(c.raw.loss):.3g}): its curve cannot be judged, the reward can.",
        None,
        Severity.NOTE,
    )
