"""The report of ``lora-advise memory``: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_advise.facts import GIB
from lora_advise.memory_report import AXES, GridCell, MemoryReport, span, title_of
from lora_advise.report_bars import bar
from lora_advise.report_memory import memory_rows, part_rows, way_rows
from lora_advise.report_page import FITS, Page, as_text, memory_bar, put_parts, put_ways
from lora_advise.report_rehearsal import print_rehearsal, rehearsal_rows, stage_rows
from lora_advise.report_time import time_line, time_sources
from lora_advise.report_words import capital, gib, gib_band, plain, size

if TYPE_CHECKING:
    from rich.console import Console

    from lora_advise.plan import MemoryEstimate

BAR = 40
"""Cells of the bar, which is the whole device."""
MARKS = {"fits": "", "tight": " ~", "does not fit": " !"}
"""Behind a figure of the sweep, so that colour is never all that tells."""
NAMES = {"seq": "max length", "batch": "micro-batch", "r": "rank"}


def headline(report: MemoryReport) -> tuple[tuple[str, str], ...]:
    """Label and value of what is asked first."""
    verdict = report.verdict
    made = verdict.estimate
    count = f"{verdict.count} x " if verdict.count > 1 else ""
    sharding = f", {verdict.sharding}" if verdict.sharding != "none" else ""
    return (
        ("Stack", plain(made.stack)),
        ("Device", plain(f"{count}{verdict.hardware}, {verdict.memory_gib:.4g} GiB each{sharding}")),
        ("Verdict", f"{capital(verdict.fit)}: {plain(verdict.needs)}."),
        *_figures(made),
        ("Largest that fits", _largest(report)),
        ("Time", time_line(report.time, report.no_time)),
        ("Host memory", _host(made)),
        *_saved(made),
    )


def _host(made: MemoryEstimate) -> str:
    files = f"{gib(made.host_load - made.host_copy)} of files pass through it while the base model loads"
    held = f"; {gib(made.host_copy)} must be held besides, for a copy in another number format"
    return files + (held if made.host_copy else " (mapped: the system may drop them again)")


def _saved(made: MemoryEstimate) -> tuple[tuple[str, str], ...]:
    """What lands on the disk."""
    words = f"{size(made.checkpoint_disk)} a checkpoint with the optimizer's states"
    many = f", {made.checkpoints_kept:,} at once at most: {size(made.checkpoint_disk * made.checkpoints_kept)}"
    disk = ("Disk", words + many if made.checkpoints_kept else "no checkpoints are saved")
    if made.method == "full":
        return (disk,)
    return (("Adapter", f"{made.adapter_params:,} parameters, a file of {size(made.adapter_file)}"), disk)


def _figures(made: MemoryEstimate) -> tuple[tuple[str, str], ...]:
    if made.reserved == made.device:  # host or unified memory: no CUDA context
        return (("Tensors", gib(made.allocated)), ("Process", f"{gib_band(made.device)} beside the libraries"))
    return (
        ("Tensors", f"{gib(made.allocated)} (torch.cuda.max_memory_allocated)"),
        ("Reserved", f"{gib_band(made.reserved)} (torch.cuda.max_memory_reserved)"),
        ("nvidia-smi", f"{gib_band(made.device)}, with the CUDA context"),
    )


def _largest(report: MemoryReport) -> str:
    verdict = report.verdict
    batch = (
        f"micro-batch {verdict.micro_batch:,} at this length"
        if verdict.micro_batch
        else "no micro-batch at this length"
    )
    length = f"{verdict.longest:,} tokens at micro-batch 1" if verdict.longest else "no length at micro-batch 1"
    return f"{batch}; {length}"


def cited(report: MemoryReport) -> str:
    """Where the figures come from."""
    found = dict.fromkeys((*report.verdict.estimate.sources, *time_sources(report.time)))
    for row in report.stacks:
        found |= dict.fromkeys(row.estimate.sources)
    if report.rehearsal is not None:
        found |= dict.fromkeys(report.rehearsal.sources)
    return f"Figures from: {', '.join(found)}. Read one with: lora-advise source {next(iter(found))}"


def print_forecast(report: MemoryReport, console: Console) -> None:
    """Print the report on a terminal."""
    page = Page(console)
    page.put(page.text("Memory forecast", "bold"))
    page.gap()
    for label, value in headline(report):
        page.field(label, value, FITS[report.verdict.fit] if label == "Verdict" else "")
    for words in report.assumed:
        page.field("assumption", plain(words), "dim")
    page.gap()
    page.put(memory_bar(page, memory_rows((report.verdict,))[0], BAR))
    put_parts(page, part_rows(report.verdict))
    print_rehearsal(report, page)
    if report.verdict.ways_out:
        page.heading("What lowers it, in this order")
        put_ways(page, way_rows(report.verdict))
    _print_stacks(report, page)
    _print_grid(report, page)
    page.gap()
    page.put(page.text(cited(report), "dim"))
    page.print()


def render(report: MemoryReport, width: int = 100) -> str:
    """The report as plain text of that many columns, for files."""
    return as_text(lambda console: print_forecast(report, console), width)


def _print_stacks(report: MemoryReport, page: Page) -> None:
    if not report.stacks:
        return
    page.heading("The same run elsewhere")
    page.put(page.text(span(report)))
    page.gap()
    grid = page.columns(14, 9, 13, 12, None)
    grid.add_row(*(page.text(t, "dim") for t in ("stack", "tensors", "nvidia-smi", "fit", "because")))
    for row in report.stacks:
        grid.add_row(
            page.text(title_of(row.framework)), page.text(gib(row.estimate.allocated).removesuffix(" GiB")),
            page.text(gib_band(row.estimate.device).removesuffix(" GiB")), page.text(row.fit, FITS[row.fit]),
            page.text("; ".join(row.differs), "dim"),
        )  # fmt: skip
    page.put(grid)


def _print_grid(report: MemoryReport, page: Page) -> None:
    if not report.grid:
        return
    page.heading("Sweep: upper end of nvidia-smi in GiB (~ tight, ! does not fit)")
    head, lines = grid_table(report.grid)
    grid = page.columns(*(max(10, len(cell)) for cell in head))
    for line in (head, *lines):
        grid.add_row(*(page.text(cell) for cell in line))
    page.put(grid, page.width)


def grid_table(cells: tuple[GridCell, ...]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines of the sweep: the last axis runs across, the others down."""
    names = [name for name in AXES if name in cells[0].values]
    across = names[-1]
    columns = list(dict.fromkeys(cell.values[across] for cell in cells))
    head = (*(NAMES[name] for name in names[:-1]), *(f"{NAMES[across]} {value:,}" for value in columns))
    lines: dict[tuple[int, ...], dict[int, str]] = {}
    for cell in cells:
        key = tuple(cell.values[name] for name in names[:-1])
        mark = MARKS[cell.fit]
        lines.setdefault(key, {})[cell.values[across]] = f"{cell.device[1] / GIB:.1f}{mark}"
    return head, [(*(f"{value:,}" for value in key), *(found[c] for c in columns)) for key, found in lines.items()]


def markdown(report: MemoryReport) -> str:
    """The report as Markdown."""
    from lora_advise.report_markdown import escape

    def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
        lines = [head, tuple("---" for _ in head), *rows]
        return ["| " + " | ".join(line) + " |" for line in lines] + [""]

    verdict = report.verdict
    text = ["# Memory forecast", ""]
    text += table(("what", "value"), [(label, escape(value)) for label, value in headline(report)])
    text += [f"- assumption: {escape(plain(words))}" for words in report.assumed] + [""] * bool(report.assumed)
    text += [f"`{bar(memory_rows((verdict,))[0], BAR)}` of {verdict.memory_gib:.4g} GiB", ""]
    text += table(("part", "size", "note"), [(escape(p.label), p.size, escape(p.note)) for p in part_rows(verdict)])
    if report.rehearsal is not None:
        text += ["## Rehearsed with the installed libraries", ""]
        text += table(("what", "value"), [(label, escape(value)) for label, value in rehearsal_rows(report)])
        text += table(("stage", "peak", ""), [(n, p, f"`{c}`") for n, p, c in stage_rows(report.rehearsal)])
    ways = way_rows(verdict)
    if ways:
        text += ["## What lowers it, in this order", ""]
        text += [
            f"{place}. {escape(way.change)}: saves {way.saves}; costs {escape(way.costs)}.{' Then it fits.' * way.enough}"
            for place, way in enumerate(ways, 1)
        ] + [""]
    rows = [
        (
            title_of(s.framework),
            gib(s.estimate.allocated),
            gib_band(s.estimate.device),
            s.fit,
            escape("; ".join(s.differs)),
        )
        for s in report.stacks
    ]
    if rows:
        text += ["## The same run elsewhere", "", span(report), ""]
        text += table(("stack", "tensors", "nvidia-smi", "fit", "because"), rows)
    if report.grid:
        text += [
            "## Sweep: upper end of nvidia-smi in GiB (~ tight, ! does not fit)",
            "",
            *table(*grid_table(report.grid)),
        ]
    return "\n".join([*text, cited(report)]) + "\n"
