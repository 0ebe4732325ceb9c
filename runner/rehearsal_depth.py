"""Which depths to trace so that a straight line through them gives the whole model."""

from __future__ import annotations

from typing import Any, NamedTuple

from lora_advise.facts import Facts
from lora_advise.runner.meta_model import Blueprint, build, layers_of, signature
from lora_advise.runner.rehearsal_step import Traced
from lora_advise.runner.storage_trace import Peak


class Depths(NamedTuple):
    """The model's own depth, the depths to trace, and after how many layers its pattern repeats."""

    layers: int
    traced: tuple[int, ...]
    lead: int
    """Layers before the pattern begins."""
    period: int

    def grouped(self, traced: Traced) -> dict[str, Peak]:
        """The peaks of the stages, with the layers of the backward pass in two groups: where it begins and ends."""
        found: dict[str, Peak] = {}
        for stage, peak in traced.peaks.items():
            name = self._group(stage, traced.depth)
            if name not in found or peak.bytes > found[name].bytes:
                found[name] = peak
        return found

    def _group(self, stage: str, depth: int) -> str:
        word, _, index = stage.partition(" ")
        if word != "backward" or not index.isdecimal():
            return stage
        if int(index) >= depth - self.period:
            return "backward, last layers"
        return "backward, first layers" if int(index) < self.lead + self.period else "backward"


def depths_of(plan: Blueprint, facts: Facts, *, full: bool) -> Depths:
    """Two depths that are one period of the layers' pattern apart, or the full depth where there is no shorter way.

    Each holds two periods at least, so that the first and the last layers of the backward pass are different ones.
    """
    kinds = [signature(layer) for layer in layers_of(build(plan, facts, plan.layers), plan.layers)]
    lead, period = _pattern(kinds) if kinds else (0, plan.layers)
    rest = (plan.layers - lead) % period if period else 0
    low = lead + rest + 2 * period
    if full or not kinds or low + period >= plan.layers:
        return Depths(plan.layers, (plan.layers,), lead, max(1, period))
    return Depths(plan.layers, (low, low + period), lead, period)


def _pattern(kinds: list[Any]) -> tuple[int, int]:
    """How many layers come before the repetition, and its period; the last layer may be one of its own.

    The smallest depth that holds two periods wins; where nothing repeats the period is the whole model.
    """
    best = (0, len(kinds))
    body = kinds[:-1] if len(kinds) > 2 else kinds
    for period in range(1, len(body) // 2 + 1):
        lead = next((k for k in range(len(body) - period, -1, -1) if k == 0 or body[k - 1] != body[k - 1 + period]), 0)
        if lead + 2 * period <= len(body) and lead + 3 * period < best[0] + 3 * best[1]:
            best = (lead, period)
    return best
