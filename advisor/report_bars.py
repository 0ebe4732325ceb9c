"""Memory bars made of characters, for terminals and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_advise.report_memory import MemoryRow

UNICODE_FILLS = ("█", "▓", "▒", "▚", "▞", "▆", "▤", "▦")
ASCII_FILLS = ("#", "=", "+", "%", "o", "*", "x", "~")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of equal cells of a bar; ``index`` is the part (-1: beyond the tensors, -2: free)."""

    index: int
    cells: str


def fill_of(index: int, unicode: bool) -> str:
    """The character of one part: distinct without colour."""
    if index == -1:
        return "░" if unicode else ":"
    fills = UNICODE_FILLS if unicode else ASCII_FILLS
    return fills[index % len(fills)]


def stretches(row: MemoryRow, width: int, unicode: bool) -> tuple[Stretch, ...]:
    """The bar of one verdict in ``width`` cells, which are the whole device; what overflows is marked at the end."""
    done, total, out = 0, 0.0, []
    for segment in row.segments:
        total += segment.share
        cells = min(width, round(total * width)) - done
        if cells > 0:
            out.append(Stretch(segment.index, fill_of(segment.index, unicode) * cells))
            done += cells
    if done < width:
        out.append(Stretch(-2, ("·" if unicode else ".") * (width - done)))
    if total > 1.005:
        out.append(Stretch(-3, "▶" if unicode else ">"))
    return tuple(out)


def bar(row: MemoryRow, width: int) -> str:
    """The bar as plain text with one fill for what is used."""
    used = sum(len(s.cells) for s in stretches(row, width, True) if s.index >= -1)
    return "█" * used + "░" * (width - used) + ("▶" if row.percent > 100 else "")
