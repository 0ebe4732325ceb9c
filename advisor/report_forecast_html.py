"""The memory forecast as one HTML page that loads nothing: chart, parts, ways out, other stacks, sweep."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise import __version__
from lora_advise.facts import GIB
from lora_advise.memory_report import AXES, GridCell, MemoryReport, span, title_of
from lora_advise.report_forecast import MARKS, NAMES, cited, headline
from lora_advise.report_forecast_svg import draw
from lora_advise.report_memory import part_rows, way_rows
from lora_advise.report_rehearsal import rehearsal_rows, stage_rows
from lora_advise.report_template import environment, resource
from lora_advise.report_words import gib, gib_band, plain


class HeatCell(NamedTuple):
    """One combination of the sweep; ``heat`` is its upper end over the device, in percent."""

    words: str
    title: str
    fit: str
    heat: int


class HeatTable(NamedTuple):
    """The sweep: the last axis runs across, the others down."""

    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[HeatCell, ...]], ...]


def render(report: MemoryReport) -> str:
    """A complete page: light and dark, narrow and wide, fit to print."""
    verdict = report.verdict
    stacks = [
        (title_of(row.framework), gib(row.estimate.allocated), gib_band(row.estimate.device), row.fit, "; ".join(row.differs))
        for row in report.stacks
    ]  # fmt: skip
    made = environment(autoescape=True)
    text = made.get_template("forecast.html.j2").render(
        style=resource("report.css"), tool=f"lora-advise {__version__}", chart=draw(report, whole=False),
        headline=headline(report), fit=verdict.fit, assumed=[plain(words) for words in report.assumed],
        rehearsed=rehearsal_rows(report), stages=stage_rows(report.rehearsal) if report.rehearsal else (),
        parts=part_rows(verdict), ways=way_rows(verdict), stacks=stacks, span=span(report) if report.stacks else "",
        heat=heat_table(report.grid, verdict.memory_gib) if report.grid else None, cited=cited(report),
    )  # fmt: skip
    return text + "\n"


def heat_table(cells: tuple[GridCell, ...], memory_gib: float) -> HeatTable:
    """The sweep as rows of cells. ``memory_gib`` is the device's memory."""
    names = [name for name in AXES if name in cells[0].values]
    across = names[-1]
    columns = list(dict.fromkeys(cell.values[across] for cell in cells))
    lines: dict[tuple[int, ...], dict[int, HeatCell]] = {}
    for cell in cells:
        key = tuple(cell.values[name] for name in names[:-1])
        lines.setdefault(key, {})[cell.values[across]] = _cell(cell, memory_gib)
    return HeatTable(
        head=tuple(NAMES[name] for name in names[:-1]),
        columns=tuple(f"{NAMES[across]} {value:,}" for value in columns),
        rows=tuple((tuple(f"{n:,}" for n in key), tuple(line[c] for c in columns)) for key, line in lines.items()),
    )


def _cell(cell: GridCell, memory_gib: float) -> HeatCell:
    share = cell.device[1] / GIB / max(memory_gib, 1e-9)
    title = f"{cell.fit}: {gib_band(cell.device)}, {share:.0%} of the device"
    return HeatCell(f"{cell.device[1] / GIB:.1f}{MARKS[cell.fit]}", title, cell.fit, min(100, round(100 * share)))
