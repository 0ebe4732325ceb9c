"""Signals that compare training and evaluation: overfitting, swings, gaps, memorised samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, inf, isfinite, log, sqrt

from lora_advise.curve import finite, interpolate, median, noise
from lora_advise.finding import Severity
from lora_advise.signal_curves import Curves, Signal

EVAL_NOISE_FLOOR = 0.003
"""Relative noise assumed of an evaluation loss when fewer than six evaluations show it."""


@dataclass(frozen=True, slots=True)
class EvalRise:
    """What the evaluation loss did after its minimum. Rises are in ln(loss)."""

    step: int
    """Where the minimum is."""
    lowest: float
    last: float
    rise: float
    noise: float
    swings: bool
    train: tuple[float, float]
    """Smoothed training loss at the minimum and at the last evaluation."""


@lru_cache(maxsize=4)
def eval_rise(c: Curves) -> EvalRise | None:
    """The rise of the evaluation loss after its minimum, when it is beyond noise and the training loss did not rise
    too.

    Beyond noise: the median of the last two evaluations exceeds the minimum by more than 1 % and 3 standard errors, and
    four in five of the later evaluations lie above it. A minimum at the last but one counts from a rise of 20 % on.
    """
    steps, losses = c.evaluations
    if len(losses) < 3 or not finite(c.smoothed):
        return None
    low = min(range(len(losses)), key=losses.__getitem__)
    later = [log(v / losses[low]) for v in losses[low + 1 :]]
    if not later:
        return None
    own = noise([log(v) for v in losses], least=6)
    own = max(own, EVAL_NOISE_FLOOR) if isfinite(own) else EVAL_NOISE_FLOOR
    rise = median([0.0, *later][-2:])
    train = [interpolate(s, c.shape.step, c.smoothed) for s in (steps[low], steps[-1])]
    beyond = rise > max(0.01, 3 * own) and (len(later) >= 2 or rise > 0.10)
    if not beyond or sum(v > 0 for v in later) < 0.8 * len(later) or train[1] >= train[0] + 0.02:
        return None
    swings = len(later) >= 2 and max(later) > 0.25 and later[-1] < 0.5 * max(later)
    return EvalRise(steps[low], losses[low], losses[-1], rise, own, swings, (exp(train[0]), exp(train[1])))


def eval_rises(c: Curves) -> Signal | None:
    """The evaluation loss rises after a minimum while the training loss does not."""
    found = eval_rise(c)
    if found is None or found.swings:
        return None
    degree = "severe" if found.rise > 0.10 else "moderate" if found.rise > 0.03 else "mild"
    return Signal(
        f"The evaluation loss rose from {found.lowest:.4g} at step {found.step} to {found.last:.4g} at the end "
        f"(+{exp(found.rise) - 1:.1%} by the last two, noise {found.noise:.1%}; {degree}) while the training loss went "
        f"{found.train[0]:.3g} to {found.train[1]:.3g}.",
        found.step,
        Severity.NOTE if degree == "mild" else Severity.WARNING,
    )


def eval_swings(c: Curves) -> Signal | None:
    """The evaluation loss leaps by more than a quarter and falls back by half."""
    found = eval_rise(c)
    if found is None or not found.swings:
        return None
    return Signal(
        f"The evaluation loss swings: {found.lowest:.4g} at step {found.step}, then more than {exp(0.25) - 1:.0%} "
        "above it, "
        f"then {found.last:.4g}; the steps are too large for the last epochs.",
        found.step,
    )


def far_above_train(c: Curves) -> Signal | None:
    """With one or two evaluations, an evaluation loss far above the training loss: a gap, not a rise."""
    steps, losses = c.evaluations
    if not 1 <= len(losses) < 3 or c.count < 5 or not c.positive:
        return None
    level = median(c.smoothed[-max(3, len(c.smoothed) // 5) :])
    ratio = losses[-1] / max(exp(level), 1e-6) if isfinite(level) else 0.0
    if ratio <= 1.5:
        return None
    return Signal(
        f"The evaluation loss {losses[-1]:.3g} at step {steps[-1]} is {ratio:.1f} times the training loss "
        f"{exp(level):.3g}; "
        + (
            "the training rows are known by heart."
            if ratio > 5
            else "a gap is not a rise: one evaluation cannot show which way it goes."
        ),
        steps[-1],
        Severity.WARNING if ratio > 5 else Severity.NOTE,
    )


@dataclass(frozen=True, slots=True)
class Stairs:
    """Drops of the training loss at epoch boundaries: how many of how many, and their sum in ln(loss)."""

    hit: int
    boundaries: int
    total: float
    share: float
    """Share of the fall since the end of epoch 1 that happens at the boundaries."""


@lru_cache(maxsize=4)
def stairs(c: Curves) -> Stairs | None:
    """Epoch boundaries at which the loss drops by more than 5 %, 3 standard errors and twice the change within the
    epoch."""
    if not isfinite(c.last_epoch) or c.last_epoch <= 1.5 or len(c.shape) < 9 or not c.positive:
        return None
    epoch, y = c.shape.epoch, c.shape.log_loss
    drops: list[tuple[float, bool]] = []
    for edge in range(1, min(ceil(c.last_epoch), 1_000)):
        before = [v for e, v in zip(epoch, y, strict=True) if edge - 0.34 < e <= edge]
        after = [v for e, v in zip(epoch, y, strict=True) if edge < e <= edge + 0.34]
        if len(before) < 2 or len(after) < 2:
            continue
        drop, half = median(before) - median(after), len(before) // 2
        within = abs(median(before[: max(1, half)]) - median(before[half:]))
        error = c.noise * 1.25 * sqrt(1 / len(before) + 1 / len(after))
        drops.append((drop, drop > max(0.05, 2 * within, 3 * error)))
    hit = [d for d, significant in drops if significant]
    if not hit or len(hit) < 0.5 * len(drops):
        return None
    first_epoch = median(v for e, v in zip(epoch, y, strict=True) if 0.66 < e <= 1)
    start = first_epoch if isfinite(first_epoch) else median(y[:1])
    fall = start - median(y[-max(2, len(y) // 10) :])
    return Stairs(len(hit), len(drops), sum(hit), sum(hit) / max(fall, 1e-6) if isfinite(fall) else inf)


def drops_at_epochs(c: Curves) -> Signal | None:
    """The training loss falls in steps at the epoch boundaries: samples seen before are remembered."""
    found = stairs(c)
    if found is None:
        return None
    return Signal(
        f"The training loss drops at {found.hit} of {found.boundaries} epoch boundaries, by "
        f"{1 - exp(-found.total):.0%} in all: "
        "rows seen before are remembered. The training loss alone cannot say whether that helps.",
        None,
        Severity.NOTE,
    )


def memorised(c: Curves) -> Signal | None:
    """No evaluation, several epochs, and a training loss near zero or explained by epoch boundaries."""
    if c.evaluations[1] or c.eval_loss or not c.positive or not isfinite(c.tail_loss):
        return None
    found = stairs(c)
    stepped = found is not None and (c.tail_loss < 0.05 or found.total > log(4))
    flat = isfinite(c.last_epoch) and c.last_epoch > 3 and c.tail_loss < 0.05 and c.count >= 5
    if not (stepped or flat):
        return None
    return Signal(
        f"The training loss is {c.tail_loss:.2g} after {c.last_epoch:.1f} epochs and nothing was evaluated: the "
        "rows are known by "
        "heart, and whether anything else was learned cannot be seen.",
        None,
    )


def memorised_within_epoch(c: Curves) -> Signal | None:
    """Inside one epoch, a plateau and then a fall of a third with growing gradients: rows that come twice."""
    if c.eval_loss or not isfinite(c.last_epoch) or c.last_epoch >= 1 or len(c.shape) < 100 or not c.rates_known:
        return None
    y, g, fifth = c.shape.log_loss, c.shape.grad_norm, len(c.shape) // 5
    second, half = y[fifth : 2 * fifth], fifth // 2
    flat = abs(median(second[:half]) - median(second[half:])) < 0.10
    middle, end = median(second), median(y[-fifth:])
    early = median(g[fifth : 2 * fifth])
    growth = median(g[-fifth:]) / early if early > 0 else 1.0
    if not (flat and middle - end > log(1.5) and growth > 2):
        return None
    return Signal(
        f"Inside one epoch the loss stays at {exp(middle):.3g} and then falls to {exp(end):.3g} while the "
        "gradient norm grows "
        f"{growth:.1f} times: duplicated or overlapping rows.",
        c.shape.step[2 * fifth],
    )
