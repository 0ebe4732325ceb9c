"""What a rehearsal found, as the reports show it: label and value, so that every format says the same."""

from __future__ import annotations

from lora_advise.memory_report import MemoryReport
from lora_advise.rehearsal import Rehearsal
from lora_advise.report_page import Page
from lora_advise.report_words import gib, plain

CELLS = 24
"""Cells of the bar of a stage, which is the highest one."""


def rehearsal_rows(report: MemoryReport) -> tuple[tuple[str, str], ...]:
    """Label and value of what was rehearsed; nothing without a rehearsal."""
    found = report.rehearsal
    if found is None:
        return ()
    return (
        ("Libraries", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("Tensors", f"{gib(found.allocated)}, peak in: {found.peak_stage}"),
        ("Reserved", f"{gib(found.reserved)}, with rows of the longest length only{_line(found)}"),
        ("Closed form", closed_form(report, found)),
        ("Trained", f"{found.trainable_params:,} parameters"),
        ("Traced", _depths(found)),
        *(("Note", plain(words)) for words in found.notes),
    )


def _line(found: Rehearsal) -> str:
    return "" if len(found.traced) == 1 else "; a line does less well here, --full-depth replays every layer"


def closed_form(report: MemoryReport, found: Rehearsal) -> str:
    """The forecast without torch beside the rehearsal."""
    made = report.verdict.estimate.allocated
    return f"{gib(made)}, {100 * (made / max(1, found.allocated) - 1):+.2f} %"


def _depths(found: Rehearsal) -> str:
    depths = " and ".join(str(depth) for depth in found.traced)
    if found.traced == (found.layers,):
        return f"all {found.layers} layers"
    return f"{depths} of {found.layers} layers, and a straight line to all of them (--full-depth traces every layer)"


def stage_rows(found: Rehearsal, *, unicode: bool = True) -> tuple[tuple[str, str, str], ...]:
    """Every stage with its peak and a bar of at most CELLS cells."""
    top = max(stage.bytes for stage in found.stages)
    full, empty = ("█", "░") if unicode else ("#", ".")
    rows = []
    for stage in found.stages:
        cells = round(CELLS * stage.bytes / top)
        rows.append((stage.stage, gib(stage.bytes), full * cells + empty * (CELLS - cells)))
    return tuple(rows)


def print_rehearsal(report: MemoryReport, page: Page) -> None:
    """The rehearsal on a terminal page."""
    if report.rehearsal is None:
        return
    page.heading("Rehearsed with the installed libraries")
    for label, value in rehearsal_rows(report):
        page.field(label, value)
    page.gap()
    grid = page.columns(28, 11, None)
    for name, peak, cells in stage_rows(report.rehearsal, unicode=page.unicode):
        grid.add_row(page.text(name), page.text(peak.rjust(10)), page.text(cells, "cyan"))
    page.put(grid)
