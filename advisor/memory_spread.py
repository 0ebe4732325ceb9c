"""How far a forecast may be off: what is resident is known from storage formats, what comes and goes is not always.

Two things widen the bands of an estimate. A framework or a model whose layers were not traced: its activations are
those of traced layers within a factor of two. A loss that writes whole logits: the allocator keeps blocks that do not
fit each other's places. It frees them before it gives up, so a run that is called tight for them alone may well pass.
"""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.memory_case import Case
from lora_advise.memory_layers import traced
from lora_advise.memory_stages import Stage

FACTOR = 2.0
"""Activations of layers that were not traced: within this factor of the traced ones. Set after seeing LitGPT's and
torchtune's published peaks (docs/memory-accuracy.md)."""
LOGITS = 1.0
"""Reserved beyond allocated under a loss that writes whole logits: as much again as the loss takes, since its blocks of
2 and 4 B per entry, and of other lengths, do not fit each other's places. Set after seeing nvidia-smi in the A100
benchmark, and ms-swift's published figures (docs/memory-accuracy.md)."""
RESIDENT = frozenset(
    (
        "weights",
        "adapters",
        "saved",
        "optimizer",
        "buffers",
        "workspaces",
        "caches",
        "gradients",
        "step",
        "unit",
        "copies",
    )
)
"""Terms whose size follows from formats and counts."""


class Spread(NamedTuple):
    """What widens an estimate's bands, bytes."""

    low: int
    """Allocated at the least; at the most is ``high``."""
    high: int
    blocks: int
    """What the allocator may keep beside it in blocks that do not fit."""
    resident: int
    """The part of ``low`` that depends neither on batch nor length."""


def spread(case: Case, found: tuple[Stage, ...]) -> Spread:
    """The spread of an estimate whose step has these stages."""
    peak = max(_scaled(stage, 1) for stage in found)
    low, high, whole = peak, peak, 1.0
    if not (case.stack.traced and traced(case)):
        whole = FACTOR
        low = max(_scaled(stage, 1 / FACTOR) for stage in found)
        high = max(_scaled(stage, FACTOR) for stage in found)
    blocks = 0.0
    if case.stack.loss == "full":
        blocks = LOGITS * whole * max(t.bytes for stage in found for t in stage.terms if t.name == "loss")
    resident = max(_scaled(stage, 0) for stage in found)
    return Spread(round(low), round(high), round(blocks), round(resident))


def _scaled(stage: Stage, factor: float) -> float:
    return sum(round(term.bytes) * (1 if term.name in RESIDENT else factor) for term in stage.terms)
