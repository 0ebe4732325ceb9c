"""The table of traced layers (``data/layers.json``), and which of its models stand for one that was not traced."""

from __future__ import annotations

from functools import cache
from typing import Any

from lora_advise.package_data import read_json

TYPE, HIDDEN, HEADS, KIND = 0, 1, 3, 9
"""Places in the key of a layer."""
FURTHEST = 3.0
"""How often a traced model's own part may count in that of another size."""
Weighted = tuple[tuple[Any, float], ...]
"""Traced models, and how often each one's own part counts."""


@cache
def table() -> dict[str, Any]:
    """What was traced, with the models by type."""
    found: dict[str, Any] = read_json("layers.json")
    types: dict[Any, list[Any]] = {}
    for row in found["models"]:
        types.setdefault(row["key"][TYPE], []).append(row)
    return {**found, "types": types}


@cache
def rows_of(key: tuple[str | int | None, ...]) -> Weighted:
    """The traced model with these dimensions, else those of its type from which its own part is made.

    A Llama of other dimensions needs none: the formula is a Llama's.
    """
    alike = [row for row in table()["types"].get(key[TYPE], ()) if row["key"][KIND] == key[KIND]]
    rows = sorted(alike, key=lambda row: row["key"][HIDDEN])
    exact = [row for row in rows if tuple(row["key"]) == key]
    if exact or not rows or key[TYPE] == "llama":
        return tuple((row, 1.0) for row in exact[:1])
    hidden = int(key[HIDDEN] or 0)
    below = [row for row in rows if row["key"][HIDDEN] <= hidden] or rows[:1]
    above = [row for row in rows if row["key"][HIDDEN] > hidden] or rows[-1:]
    low, high = below[-1], above[0]
    if low is not high and _alike(low, high):
        if (both := _both(key, low, high)) is not None:
            return both
        share = (hidden - low["key"][HIDDEN]) / max(1, high["key"][HIDDEN] - low["key"][HIDDEN])
        if 0.0 < share < 1.0:
            return tuple((row, w * hidden / row["key"][HIDDEN]) for row, w in ((low, 1.0 - share), (high, share)))
    nearest = min((low, high), key=lambda row: abs(row["key"][HIDDEN] - hidden))
    return ((nearest, hidden / nearest["key"][HIDDEN]),)


def _both(key: tuple[str | int | None, ...], low: dict[str, Any], high: dict[str, Any]) -> Weighted | None:
    """Weights with which two models give this one's hidden width and its heads' widths: what norms of both add is linear."""
    heads, shared, width = (int(key[place] or 0) for place in (HEADS, HEADS + 1, HEADS + 2))
    mine = (int(key[HIDDEN] or 0), (heads + shared) * width)
    a, b = ((row["widths"][0], row["widths"][1] + row["widths"][2]) for row in (low, high))
    across = a[0] * b[1] - b[0] * a[1]
    if abs(across) < 0.1 * (a[0] * b[1] + b[0] * a[1]):
        return None
    one = (mine[0] * b[1] - b[0] * mine[1]) / across
    other = (a[0] * mine[1] - mine[0] * a[1]) / across
    return ((low, one), (high, other)) if max(abs(one), abs(other)) <= FURTHEST else None


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows have the same precisions and lines, so that they can be mixed."""
    modes = [mode for mode in ("amp", "nf4") if mode in one]
    return all(mode in other and all(len(one[mode][q]) == len(other[mode][q]) for q in one[mode]) for mode in modes)
