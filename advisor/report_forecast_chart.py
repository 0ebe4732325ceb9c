"""The chart of a memory forecast as numbers: one stacked bar for each trainer against the device."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.facts import GIB
from lora_advise.memory_report import MemoryReport, title_of
from lora_advise.memory_stack import TITLES
from lora_advise.plan import MemoryEstimate
from lora_advise.report_words import gib, gib_band, plain

COLOURS = 8
"""Colours of the style sheet; beyond the seven largest, parts share the last one."""
OTHER = "Smaller parts"


class Part(NamedTuple):
    """One stretch of a bar in GiB; ``colour`` counts from 0."""

    colour: int
    label: str
    start: float
    size: float


class Bar(NamedTuple):
    """One trainer's forecast. Sizes in GiB; ``low`` and ``high`` are what nvidia-smi will show."""

    label: str
    chosen: bool
    parts: tuple[Part, ...]
    low: float
    high: float
    tensors: str
    device: str
    fit: str


class Key(NamedTuple):
    """One line of the legend: the colour, the part and its size in the first bar."""

    colour: int
    label: str
    size: str
    note: str


class Chart(NamedTuple):
    """Everything that is drawn. ``top`` is the end of the axis, ``ticks`` its marks, in GiB."""

    device: str
    capacity: float
    top: float
    ticks: tuple[float, ...]
    bars: tuple[Bar, ...]
    keys: tuple[Key, ...]
    shown: str
    """Who shows the band: nvidia-smi, or the process where the memory is the host's."""
    beyond: str
    """What lies between the tensors and the band."""


def chart_of(report: MemoryReport) -> Chart:
    """Arrange the report as bars: the run itself first, then the same run in the other stacks."""
    verdict = report.verdict
    stacks = [(title_of(row.framework), row.estimate, row.fit) for row in report.stacks]
    first = (_own_title(verdict.estimate), verdict.estimate, verdict.fit)
    rows = [first, *(row for row in stacks if row[1].stack != verdict.estimate.stack)]
    colours = _colours([estimate for _, estimate, _ in rows])
    bars = tuple(_bar(title, found, fit, colours, chosen=not place) for place, (title, found, fit) in enumerate(rows))
    top = 1.04 * max(verdict.memory_gib, *(bar.high for bar in bars))
    host = verdict.estimate.reserved == verdict.estimate.device
    count = f"{verdict.count} x " if verdict.count > 1 else ""
    return Chart(
        device=plain(f"{count}{verdict.hardware}"), capacity=verdict.memory_gib, top=top, ticks=_ticks(top), bars=bars,
        keys=_keys(verdict.estimate, colours, [estimate for _, estimate, _ in rows]),
        shown="the process" if host else "nvidia-smi", beyond="Allocator" if host else "Allocator and CUDA context",
    )  # fmt: skip


def _own_title(made: MemoryEstimate) -> str:
    known = [title for title in TITLES.values() if made.stack.startswith(title)]
    return max(known, key=len) if known else plain(made.stack.split(",", 1)[0])


def _colours(rows: list[MemoryEstimate]) -> dict[str, int]:
    """The colour of each part: the seven that are largest anywhere have their own, in the order of the first bar."""
    largest: dict[str, int] = {}
    for made in rows:
        for part in made.parts:
            largest[part.name] = max(largest.get(part.name, 0), part.bytes)
    own = set(sorted(largest, key=lambda name: -largest[name])[: COLOURS - 1])
    order = [name for name in largest if name in own]
    return {name: order.index(name) if name in own else COLOURS - 1 for name in largest}


def _bar(title: str, made: MemoryEstimate, fit: str, colours: dict[str, int], *, chosen: bool) -> Bar:
    parts: list[Part] = []
    start = 0.0
    for part in sorted(made.parts, key=lambda part: colours[part.name]):
        parts.append(Part(colours[part.name], plain(part.label), start, part.bytes / GIB))
        start += part.bytes / GIB
    low, high = (n / GIB for n in made.device)
    return Bar(
        title, chosen, tuple(parts), low, high, gib(made.allocated).removesuffix(" GiB"),
        gib_band(made.device).removesuffix(" GiB"), fit,
    )  # fmt: skip


def _keys(first: MemoryEstimate, colours: dict[str, int], rows: list[MemoryEstimate]) -> tuple[Key, ...]:
    labels = {part.name: plain(part.label) for made in reversed(rows) for part in made.parts}
    sizes = {part.name: part.bytes for part in first.parts}
    notes = {part.name: plain(part.note) for part in first.parts}
    keys = []
    for name, colour in sorted(colours.items(), key=lambda item: item[1]):
        if colour < COLOURS - 1:
            keys.append(
                Key(colour, labels[name], gib(sizes[name]) if name in sizes else "none here", notes.get(name, ""))
            )
    rest = [name for name, colour in colours.items() if colour == COLOURS - 1]
    if rest:
        several = OTHER if len(rest) > 1 else labels[rest[0]]
        words = ", ".join(labels[name] for name in rest) if len(rest) > 1 else notes.get(rest[0], "")
        keys.append(Key(COLOURS - 1, several, gib(sum(sizes.get(name, 0) for name in rest)), words))
    return tuple(keys)


def _ticks(top: float) -> tuple[float, ...]:
    """About six round marks from 0 on."""
    step = next((s * 10**e for e in range(-3, 7) for s in (1, 2, 2.5, 5) if top / (s * 10**e) <= 7), top)
    return tuple(step * n for n in range(int(top / step) + 1))
