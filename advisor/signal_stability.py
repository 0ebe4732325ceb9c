"""Signals about the shape of the training loss while it should fall: rises, spikes, explosions, learning-rate jumps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import ceil, exp, inf, isfinite, log, nan, sqrt

from lora_advise.curve import differences, finite, median, spread
from lora_advise.finding import Severity
from lora_advise.signal_curves import SHAPE_POINTS, Curves, Signal, shown

SPIKE_SIGMA = 6
"""Robust standard deviations above the rolling median; OLMo's stability monitor uses 6 standard deviations of 128
values."""


@dataclass(frozen=True, slots=True)
class Excursion:
    """The largest climb of the smoothed ln(loss) above its best so far. ``start`` and ``top`` index ``shape``."""

    size: float
    start: int
    top: int
    best: float


@lru_cache(maxsize=4)
def excursion(c: Curves) -> Excursion | None:
    """The largest climb, when there are at least five points of a loss that is a likelihood."""
    levels = c.smoothed
    if len(levels) < 5 or not c.positive or not finite(levels):
        return None
    best = list(accumulate((v if isfinite(v) else inf for v in levels), min))
    climb = [v - b if isfinite(v) and isfinite(b) else 0.0 for v, b in zip(levels, best, strict=True)]
    top = max(range(len(climb)), key=climb.__getitem__)
    start = next((i for i in range(top, -1, -1) if climb[i] <= 0.05), 0)
    return Excursion(climb[top], start, top, best[top])


def _significant(c: Curves, climb: Excursion) -> bool:
    """Six standard errors of the running median; with few points there is no smoothing to test against."""
    return climb.size > 6 * c.noise / sqrt(max(1.0, c.width / 2))


def _diverges(c: Curves, climb: Excursion) -> bool:
    few = len(c.shape) < 12
    return climb.size > log(2 if few else 1.5) and (few or _significant(c, climb))


def _while_warming(c: Curves, climb: Excursion) -> bool:
    """Whether the climb began before the peak rate was reached and the rate still grew on the way."""
    rate = c.shape.learning_rate
    if not c.rates_known or not c.peak_rate > 0:
        return False
    peak = max(range(len(rate)), key=rate.__getitem__)
    early = climb.start < peak + max(2, 0.05 * len(rate))
    grows = rate[climb.top] > 1.2 * rate[climb.start]
    return early and grows and rate[climb.start] < 0.9 * c.peak_rate and climb.size < log(4)


def diverges(c: Curves) -> Signal | None:
    """The smoothed loss climbs more than 1.5 times (2 times below 12 entries) above its best."""
    climb = excursion(c)
    if climb is None or not _diverges(c, climb) or _while_warming(c, climb):
        return None
    return Signal(f"{_climb_words(c, climb)}.", c.shape.step[climb.start], Severity.ERROR)


def rate_too_high(c: Curves) -> Signal | None:
    """The loss rises while the learning rate is near its peak, and only there."""
    climb = excursion(c)
    if climb is None:
        return None
    step = c.shape.step
    if _diverges(c, climb):
        if not _while_warming(c, climb):
            return None
        worked = c.shape.learning_rate[climb.start]
        return Signal(
            f"{_climb_words(c, climb)} while the learning rate was still warming up; the largest rate at which "
            "the loss "
            f"still fell is {worked:.2g}, the peak was {c.peak_rate:.2g}.",
            step[climb.start],
        )
    planned = c.planned_steps or c.last_step
    hump = climb.size > log(1.08) and _significant(c, climb) and len(c.shape) >= 15 and step[climb.top] < 0.6 * planned
    falls_after = c.smoothed[-1] < c.smoothed[climb.top] - log(1.1)
    lowest = min((i for i, v in enumerate(c.smoothed) if isfinite(v)), key=c.smoothed.__getitem__)
    if not (hump and falls_after and lowest > climb.top):
        return None
    return Signal(
        f"The smoothed loss rose {exp(climb.size) - 1:.0%} ({shown(climb.best)} to "
        f"{shown(c.smoothed[climb.top])}) up to step "
        f"{step[climb.top]} and recovered only later in the schedule: the peak learning rate is too high.",
        step[climb.top],
    )


def _climb_words(c: Curves, climb: Excursion) -> str:
    return (
        f"The smoothed loss rose to {exp(climb.size):.1f} times its best ({shown(climb.best)} to "
        f"{shown(c.smoothed[climb.top])}) between steps {c.shape.step[climb.start]} and {c.shape.step[climb.top]}"
    )


def _partial_batch(c: Curves, i: int) -> bool:
    """Whether this entry may be the short last batch of an epoch: logged alone, exactly at a whole epoch."""
    epoch = c.raw.epoch[i]
    return c.logging_steps == 1 and isfinite(c.last_epoch) and epoch > 0 and abs(epoch - round(epoch)) < 1e-6


@lru_cache(maxsize=4)
def _spikes(c: Curves) -> list[tuple[int, float]]:
    """Entries far above the rolling median of what came before, with their height in ln(loss).

    The window is an eighth of the run, 8 to 128 entries. Its median is renewed every ceil(n / 2000) entries.
    """
    y, n = c.raw.log_loss, c.count
    window, stride = min(128, max(8, n // 8)), ceil(n / SHAPE_POINTS)
    found: list[tuple[int, float]] = []
    level = scale = nan
    renewed = -stride
    for i in range(max(5, min(window, 8)), n):
        if i - renewed >= stride:
            history = finite(y[max(0, i - window) : i])
            level = median(history) if len(history) >= 5 else nan
            own = spread(differences(history)) / sqrt(2) if len(history) > 6 else c.noise
            scale, renewed = max(own, c.noise, 0.02), i
        height = y[i] - level
        if height > max(SPIKE_SIGMA * scale, log(1.5)) and not _partial_batch(c, i):
            found.append((i, height))
    return found


def spikes(c: Curves) -> Signal | None:
    """Single losses that leap out: three or more making half a percent of the log, or few that are very high."""
    if not c.positive:
        return None
    found = _spikes(c)
    high = [i for i, height in found if height > log(3)]
    often = len(found) >= 3 and len(found) >= 0.005 * c.count
    if not (often or len(high) >= 2 or (high and c.count <= 60)):
        return None
    first = c.raw.step[(high or [found[0][0]])[0]]
    return Signal(
        f"{len(found)} loss spikes in {c.count} entries (spike score {len(found) / c.count:.1%}), {len(high)} of "
        "them more "
        f"than three times the rolling median; first at step {first}.",
        first,
    )


def gradient_explodes(c: Curves) -> Signal | None:
    """Gradient norms above 100 and above 100 times the run's median."""
    norms = [v for v in c.raw.grad_norm if isfinite(v) and v > 0]
    if len(norms) < 5:
        return None
    usual = median(norms)
    hot = [i for i, v in enumerate(c.raw.grad_norm) if v > 100 * usual and v > 100]
    if not hot:
        return None
    first = c.raw.step[hot[0]]
    serious = len(hot) >= 2 or c.count < 30
    return Signal(
        f"{len(hot)} of {c.count} gradient norms exceed 100 times the median {usual:.3g} (largest "
        f"{max(norms):.4g}), first at "
        f"step {first}" + ("." if serious else "; a single one is what clipping is for."),
        first,
        Severity.WARNING if serious else Severity.NOTE,
    )


def mostly_clipped(c: Curves, limit: float) -> Signal | None:
    """More than half of the steps after the first tenth have a gradient norm above the clipping limit."""
    later = finite(c.raw.grad_norm[c.count // 10 :])
    above = sum(v > limit for v in later)
    if len(later) < 10 or above <= len(later) / 2:
        return None
    return Signal(
        f"{above / len(later):.0%} of the gradient norms exceed max_grad_norm {limit:g} (median "
        f"{median(later):.3g}): clipping "
        "sets the step size instead of the learning rate.",
        None,
        Severity.NOTE,
    )


def rate_restarts(c: Curves) -> Signal | None:
    """The learning rate jumps up by a tenth of its peak after it had decayed, or by a quarter in mid-run."""
    rate, peak = c.raw.learning_rate, c.peak_rate
    if c.count < 5 or not c.rates_known or not peak > 0:
        return None
    top = max(range(c.count), key=rate.__getitem__)
    before = list(accumulate(rate, max))
    jumps = [
        i
        for i in range(1, c.count)
        if (i > top and rate[i] > rate[i - 1] + 0.10 * peak)
        or (
            1 < i <= top
            and rate[i - 1] < 0.2 * peak
            and rate[i] > rate[i - 1] + 0.25 * peak
            and before[i - 1] > 1.5 * rate[i - 1]
        )
    ]
    if not jumps or _periodic(rate, jumps):
        return None
    i = jumps[0]
    return Signal(
        f"The learning rate jumps up after it had decayed, {rate[i - 1]:.2g} to {rate[i]:.2g} at step {c.raw.step[i]}"
        + (f" ({len(jumps)} jumps in all)" if len(jumps) > 1 else "")
        + ": a resume with other epochs or max_steps recomputes the schedule.",
        c.raw.step[i],
    )


def _periodic(rate: list[float], jumps: list[int]) -> bool:
    """Whether the jumps are those of a schedule with hard restarts: three or more, equally far apart, to falling or
    equal tops."""
    gaps = [b - a for a, b in pairwise(jumps)]
    return len(jumps) >= 3 and max(gaps) - min(gaps) <= 2 and max(rate[i] for i in jumps) <= 1.05 * rate[jumps[0]]
