"""The memory forecast as reports show it: one bar per device and method, the parts of the chosen one, the ways out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lora_advise.facts import GIB
from lora_advise.plan import MemoryVerdict
from lora_advise.report_words import gib, gib_band, plain

LEGEND = (
    "The first row is the plan, the others take one row at a time. A bar is one whole device; micro-batch: the largest "
    "that fits; longest: tokens at micro-batch 1."
)
"""What the columns of the memory table mean, in every format of the report."""
_METHODS = {"lora": "LoRA", "qlora": "QLoRA", "full": "Full"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a bar: one part of the memory and its share of the device, from 0 to 1 (more when it overflows)."""

    index: int
    label: str
    share: float


class MemoryRow(NamedTuple):
    """One verdict. ``percent`` is the upper end of the device band over the device's memory."""

    device: str
    method: str
    fit: str
    peak: str
    memory: str
    percent: int
    micro_batch: str
    longest: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class PartRow:
    """One term of the peak; ``index`` is the colour that it has in the bars."""

    index: int
    label: str
    size: str
    note: str


class WayRow(NamedTuple):
    """One change that lowers the memory."""

    change: str
    saves: str
    costs: str
    enough: bool


def memory_rows(verdicts: tuple[MemoryVerdict, ...]) -> tuple[MemoryRow, ...]:
    """A row per verdict; a part has the same index in every row."""
    order: dict[str, int] = {}
    for verdict in verdicts:
        for part in verdict.estimate.parts:
            order.setdefault(part.name, len(order))
    return tuple(_row(verdict, order) for verdict in verdicts)


def _row(verdict: MemoryVerdict, order: dict[str, int]) -> MemoryRow:
    capacity = max(1.0, verdict.memory_gib * GIB)
    estimate = verdict.estimate
    segments = [
        Segment(order[part.name], plain(part.label), part.bytes / capacity) for part in estimate.parts if part.bytes > 0
    ]
    beyond = estimate.device[1] - estimate.allocated
    if beyond > 0:
        segments.append(Segment(-1, BEYOND, beyond / capacity))
    count = f"{verdict.count} x " if verdict.count > 1 else ""
    sharding = f", {verdict.sharding}" if verdict.sharding != "none" else ""
    return MemoryRow(
        device=plain(f"{count}{verdict.hardware}{sharding}"),
        method=_METHODS[verdict.method],
        fit=verdict.fit,
        peak=gib_band(estimate.device),
        memory=f"{verdict.memory_gib:.4g} GiB",
        percent=round(100 * estimate.device[1] / capacity),
        micro_batch=f"{verdict.micro_batch:,}" if verdict.micro_batch else "none",
        longest=f"{verdict.longest:,}" if verdict.longest else "none",
        segments=tuple(segments),
    )


BEYOND = "Allocator slack and context"
"""The part of a bar between what tensors take and what nvidia-smi will show."""


def part_rows(verdict: MemoryVerdict) -> tuple[PartRow, ...]:
    """The terms of the first verdict, and what lies between their sum and the device band."""
    estimate = verdict.estimate
    rows = [
        PartRow(index, plain(part.label), gib(part.bytes), plain(part.note))
        for index, part in enumerate(estimate.parts)
    ]
    slack = (max(0, estimate.device[0] - estimate.allocated), max(0, estimate.device[1] - estimate.allocated))
    on_cpu = verdict.hardware == "CPU"
    between = (
        "between what tensors take and what the process holds"
        if on_cpu
        else "between max_memory_allocated and nvidia-smi"
    )
    rows.append(PartRow(-1, "Allocator slack" if on_cpu else BEYOND, gib_band(slack), between))
    return tuple(row for row in rows if row.size != "0.00 GiB" or row.note)


def way_rows(verdict: MemoryVerdict) -> tuple[WayRow, ...]:
    """What would lower the memory of the first verdict, in the order in which to try it."""
    return tuple(
        WayRow(
            plain(way.change),
            gib(way.saves) if way.saves else "nothing, it has more room",
            plain(way.costs),
            way.enough,
        )
        for way in verdict.ways_out
    )
