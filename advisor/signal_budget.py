"""Signals about how far the run went: still improving, hardly moving, too short to judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import exp, inf, isfinite, log, nan

from lora_advise.curve import evenly, finite, interpolate, median, slope
from lora_advise.finding import Severity
from lora_advise.signal_curves import Curves, Signal
from lora_advise.signal_eval import eval_rise, stairs

GAIN = 0.10
"""Relative fall of the loss per doubling of the budget from which going on pays. Measured on labelled logs: healthy
runs -0 to 10 % (median 2.6 %), runs stopped too early 14 to 62 %."""

LITTLE = 0.02
"""A doubling that brings less than this share of what the run has brought is not worth it, however steep in relative
terms: near zero every fall is steep. Own convention; no labelled log comes near it."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Relative fall of the loss when the budget doubles: estimate and 90 % interval."""

    estimate: float
    low: float
    high: float
    on: str
    """Which loss: ``evaluation`` or ``training``."""


def _budget(c: Curves) -> list[float]:
    """The sum of learning rate x steps up to each point: unlike steps, it does not fake a plateau when the rate
    decays."""
    rate = c.shape.learning_rate if c.rates_known and c.peak_rate > 0 else [1.0] * len(c.shape)
    steps = [b - a for a, b in zip([0, *c.shape.step], c.shape.step, strict=False)]
    sums = list(accumulate(r * s for r, s in zip(rate, steps, strict=True)))
    least = next((s for s in sums if s > 0), 1e-12)
    return [max(s, least) for s in sums]


@lru_cache(maxsize=4)
def gain(c: Curves) -> Gain | None:
    """Slope of ln(loss) on ln(budget) over the last 65 % of the budget; evaluation loss from three evaluations on."""
    if len(c.shape) < 4 or not c.positive:
        return None
    budget = _budget(c)
    steps, losses = evenly(c.evaluations[0]), evenly(c.evaluations[1])
    if len(losses) >= 3:
        spent = [interpolate(s, c.shape.step, budget) for s in steps]
        points = [(log(b), log(e)) for b, e in zip(spent, losses, strict=True)]
        late = [p for p in points if p[0] >= log(0.35 * spent[-1])]
        late, on = (late if len(late) >= 3 else points), "evaluation"
    else:
        late = [
            (log(b), y) for b, y in zip(budget, c.shape.log_loss, strict=True) if b >= 0.35 * budget[-1] and isfinite(y)
        ]
        on = "training"
        if len(late) < 4:
            return None
    found, low, high = slope([x for x, _ in late], [y for _, y in late])
    if not isfinite(found):
        return None
    return Gain(1 - 2**found, 1 - 2**high, 1 - 2**low, on)


def _level(c: Curves) -> float:
    """The smoothed loss at the end."""
    value = median(c.shape.log_loss[-max(2, len(c.shape) // 10) :])
    return exp(value) if isfinite(value) else nan


def _moved(c: Curves) -> float:
    """Fall of ln(loss) over the whole run."""
    y = c.shape.log_loss
    return median(y[: max(1, len(y) // 50)]) - median(y[-max(2, len(y) // 10) :])


def _worth(c: Curves, found: Gain) -> float:
    """What doubling the budget would take off the evaluation loss, over what the run took off."""
    losses = c.evaluations[1]
    start = max([losses[0], *(exp(y) for y in c.shape.log_loss[:1] if isfinite(y))])
    taken = start - losses[-1]
    return found.estimate * losses[-1] / taken if taken > 0 else inf


def still_improving(c: Curves) -> Signal | None:
    """The loss still falls by more than a tenth per doubling of the budget when the run ends."""
    found = gain(c)
    if found is None or eval_rise(c) is not None or not (found.estimate > GAIN and found.low > GAIN):
        return None
    if found.on == "evaluation" and _worth(c, found) < LITTLE:
        return None
    steps = stairs(c)
    remembers = steps is not None and steps.share >= 0.5
    if found.on == "training" and (remembers or _level(c) < 0.3):
        return None
    return Signal(
        f"The {found.on} loss still falls {found.estimate:.0%} per doubling of the budget when the log ends (90 % "
        "interval "
        f"{found.low:.0%} to {found.high:.0%}): the run stopped while it paid to go on.",
    )


def hardly_moves(c: Curves) -> Signal | None:
    """Less than 5 % of fall, or less than 10 % of rise, over at least 100 steps at a loss above 1."""
    moved, level = _moved(c), _level(c)
    if len(c.shape) < 4 or not c.positive or not (-0.1 < moved < 0.05 and level > 1 and c.last_step >= 100):
        return None
    norms = finite(c.raw.grad_norm)
    if norms and max(norms) < 0.3:
        return None
    return Signal(
        f"The training loss {'fell' if moved >= 0 else 'rose'} {abs(1 - exp(-moved)):.1%} in {c.last_step} steps "
        f"and still stands at {level:.3g}: the rate is too "
        "low, or too little is trainable.",
    )


def few_updates(c: Curves) -> Signal | None:
    """At most 150 steps that moved the loss by less than 18 %, with no evaluation."""
    moved, level = _moved(c), _level(c)
    if c.eval_loss or c.count < 5 or not c.positive or not (25 <= c.last_step <= 150 and moved < 0.2 and level > 1):
        return None
    return Signal(
        f"{c.last_step} optimizer steps moved the training loss by only {1 - exp(-moved):.0%}; it still stands at "
        f"{level:.3g}.",
    )


def too_short(c: Curves) -> Signal | None:
    """Too few steps or entries to judge."""
    if not c.too_short:
        return None
    planned = f" of {c.planned_steps} planned" if c.planned_steps else ""
    return Signal(
        f"The log has {c.count} training losses over {c.last_step} steps{planned}; a judgement takes 4 losses, 25 "
        "steps and 2 % "
        "of the plan.",
        None,
        Severity.NOTE,
    )


def interrupted(c: Curves) -> Signal | None:
    """The log ends before nine tenths of the planned steps."""
    if not c.planned_steps or c.last_step >= 0.9 * c.planned_steps or c.count == 0:
        return None
    return Signal(
        f"The log ends at step {c.last_step} of {c.planned_steps} ({c.last_step / c.planned_steps:.0%}).",
        c.last_step,
        Severity.NOTE,
    )
