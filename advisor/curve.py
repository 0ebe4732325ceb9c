"""Robust arithmetic on short, noisy curves, in plain Python: medians, noise, smoothing, slopes.

Curves are lists of floats in which ``nan`` stands for a value that is missing or not finite.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isfinite, nan, sqrt
from typing import TypeVar

MAD_TO_SD = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""

_T = TypeVar("_T")

SLOPE_POINTS = 300
"""At most this many evenly spaced points enter a Theil-Sen slope: its pairs grow with the square."""


def finite(values: Iterable[float]) -> list[float]:
    """The finite ones among the values."""
    # v - v is 0 for finite numbers only; calling isfinite on every value takes three times as long.
    return [v for v in values if v - v == 0]


def median(values: Iterable[float]) -> float:
    """The median of the finite values; ``nan`` when there is none."""
    ordered = sorted(finite(values))
    if not ordered:
        return nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Iterable[float]) -> float:
    """The robust standard deviation (scaled median absolute deviation) of the finite values."""
    known = finite(values)
    centre = median(known)
    return MAD_TO_SD * median(abs(v - centre) for v in known)


def differences(values: Sequence[float]) -> list[float]:
    """Each value minus the one before it."""
    return [b - a for a, b in pairwise(values)]


def noise(values: Iterable[float], least: int = 8) -> float:
    """Noise of one entry from second differences, in which a straight trend cancels; ``nan`` below ``least`` values.

    The second difference of independent noise has a variance of 1 + 4 + 1 = 6 times that of one entry.
    """
    known = finite(values)
    if len(known) < least:
        return nan
    return spread(differences(differences(known))) / sqrt(6)


def smooth(values: Sequence[float], width: int) -> list[float]:
    """The running median over ``width`` entries, cut at both ends."""
    if width <= 1:
        return list(values)
    half = width // 2
    return [median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The piecewise linear curve through the points at ``x``; constant beyond its ends, points without a value left
    out."""
    points = [(a, b) for a, b in zip(xs, ys, strict=True) if isfinite(a) and isfinite(b)]
    if not points:
        return nan
    i = bisect_left([a for a, _ in points], x)
    if i == 0:
        return points[0][1]
    if i == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y1 if x1 <= x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def evenly(values: Sequence[_T], count: int = SLOPE_POINTS) -> Sequence[_T]:
    """At most ``count`` of the values, evenly spaced, first and last among them."""
    last = len(values) - 1
    return values if last < count else [values[round(i * last / (count - 1))] for i in range(count)]


def slope(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Theil-Sen slope with the ends of its 90 % interval by Kendall's variance; ``nan`` below three usable pairs."""
    points = evenly([(a, b) for a, b in zip(xs, ys, strict=True) if isfinite(a) and isfinite(b)])
    n = len(points)
    slopes = sorted(
        (points[j][1] - points[i][1]) / (points[j][0] - points[i][0])
        for i in range(n)
        for j in range(i + 1, n)
        if points[j][0] > points[i][0]
    )
    count = len(slopes)
    if count < 3:
        return nan, nan, nan
    reach = 1.645 * sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, int((count - reach) / 2))
    high = min(count - 1, int((count + reach) / 2) + 1)
    return median(slopes), slopes[low], slopes[high]


def period(values: Sequence[float], digits: int = 4, pairs: int = 5) -> int | None:
    """The shortest lag at which the curve repeats itself digit for digit over at least ``pairs`` entries, if any."""
    rounded = [round(v, digits) for v in values]
    count = len(rounded)
    for lag in range(2, min(count // 2 + 4, count - pairs + 1)):
        # Comparing two entries first rejects almost every lag at once.
        if rounded[lag] != rounded[0] or rounded[-1] != rounded[-1 - lag]:
            continue
        if rounded[lag:] == rounded[:-lag] and max(rounded[:-lag]) - min(rounded[:-lag]) > 10 ** (1 - digits):
            return lag
    return None
