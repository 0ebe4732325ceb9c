"""The report on a terminal: settings first, then memory, steps, reasons, guides and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_advise.plan import Advice
from lora_advise.report_page import FITS, Page, as_text, memory_bar, put_parts, put_ways
from lora_advise.report_rows import View, WhyRow
from lora_advise.report_view import CONFIDENCE, view_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_KINDS = {"warning": "bold yellow", "assumption": "cyan", "advice": "green", "error": "bold red", "note": "dim"}
_VERDICTS = {"agree": "green", "refine": "cyan", "disagree": "yellow", "unsupported": "red"}


def print_report(advice: Advice, console: Console, brief: bool = False, guides: bool = True) -> None:
    """Print the advice. ``brief`` stops after the settings; without ``guides`` their comparison is only counted."""
    view = view_of(advice)
    page = Page(console)
    _print_head(view, page)
    _print_settings(view, page)
    page.field("Steps", view.steps)
    page.field("", view.steps_detail, "dim")
    if view.time:
        page.field("Time", view.time)
    if view.time_detail and not brief:
        page.field("", view.time_detail, "dim")
    if brief:
        page.gap()
    else:
        _print_details(view, page, guides)
    page.print()


def _print_details(view: View, page: Page, guides: bool) -> None:
    _print_memory(view, page)
    _print_parts(view, page)
    _print_linter(view, page)
    _print_why(view, page)
    _print_guides(view, page, guides)
    _print_next(view, page)
    _print_sources(view, page)


def render(advice: Advice, width: int = 100, brief: bool = False) -> str:
    """The report as plain text of that many columns, for files. ``brief`` stops after the settings."""
    return as_text(lambda console: print_report(advice, console, brief=brief), width)


def _print_head(view: View, page: Page) -> None:
    page.put(page.text(view.title, "bold"))
    page.gap()
    grid = page.columns(17, None)
    for row in view.headline:
        value = page.text(row.value)
        if row.origin:
            value.append_text(page.text(f"  ({row.origin})", "dim"))
        grid.add_row(page.text(row.label, "bold"), value)
    page.put(grid)
    if view.notes:
        page.gap()
        grid = page.columns(17, None)
        for note in view.notes:
            grid.add_row(page.text(note.kind, _KINDS[note.kind]), page.text(note.text + _ids(note.sources)))
        page.put(grid)


def _print_settings(view: View, page: Page) -> None:
    page.heading("At a glance")
    sweep_width = max([8, *(min(24, len(row.sweep)) for row in view.settings)])
    grid = page.columns(17, None, sweep_width)
    grid.add_row(page.text("setting", "dim"), page.text("value", "dim"), page.text("try also", "dim"))
    for row in view.settings:
        value = page.text(row.value, "bold yellow" if row.yours else "bold cyan")
        if row.yours:
            value.append_text(page.text(f"  (yours; we would take {row.advised})", "dim"))
        grid.add_row(page.text(row.label), value, page.text(row.sweep, "dim"))
    page.put(grid)
    page.gap()


def _print_memory(view: View, page: Page) -> None:
    if not view.memory:
        return
    page.heading("Memory forecast")
    names = max(len(row.device) for row in view.memory)
    rest = page.prose - 2 * 6 - 5 - 12 - 14 - 6 - 8  # what the other columns and the gaps leave
    device = max(10, min(names, 22, rest - 11))
    bar = max(10, min(40, rest - device - 1))
    grid = page.columns(device, 5, 12, bar + 1, None, 6, 8)
    grid.add_row(*(page.text(t, "dim") for t in ("device", "how", "fit", "", "peak, GiB", "micro", "longest")))
    for row in view.memory:
        grid.add_row(
            page.text(row.device), page.text(row.method), page.text(row.fit, FITS[row.fit]), memory_bar(page, row, bar),
            page.text(row.peak.removesuffix(" GiB")), page.text(row.micro_batch), page.text(row.longest),
        )  # fmt: skip
    page.put(grid)
    page.put(page.text(view.memory_legend, "dim"))


def _print_parts(view: View, page: Page) -> None:
    if not view.parts:
        return
    page.gap()
    page.put(page.text(f"{view.parts_title}:{_ids(view.memory_sources)}"))
    put_parts(page, view.parts)
    if view.ways_out:
        page.gap()
        page.put(page.text("What lowers it, in this order:", "bold"))
        put_ways(page, view.ways_out)


def _print_linter(view: View, page: Page) -> None:
    page.heading("The linter's opinion")
    page.put(page.text(view.linter))
    grid = page.columns(9, None)
    for row in view.findings:
        fix = f" Mend: {row.fix}." if row.fix else ""
        grid.add_row(
            page.text(row.severity, _KINDS[row.severity]),
            page.text(f"{row.code} {row.rule}: {row.message}{fix}{_ids(row.sources)}"),
        )
    page.put(grid)


def _print_why(view: View, page: Page) -> None:
    page.heading("Why")
    for place, group in enumerate(view.why):
        if place:
            page.gap()
        page.put(page.text(group.title, "bold underline" if page.console.color_system else "bold"))
        grid = page.columns(17, None)
        for row in group.rows:
            grid.add_row(page.text(row.label, "bold"), _why_text(row, page))
        page.put(grid)
    page.gap()
    page.put(page.text("; ".join(CONFIDENCE.values()) + ".", "dim"))


def _why_text(row: WhyRow, page: Page) -> Text:
    text = page.text(row.value, "cyan")
    if row.sweep:
        text.append_text(page.text(f"  (try also {row.sweep})", "dim"))
    text.append_text(page.text(f"\n{row.because}"))
    if row.yours:
        text.append_text(page.text(f"\n{row.yours}", "yellow"))
    text.append_text(page.text(f"\n{row.confidence}{_ids(row.sources)}", "dim"))
    text.append_text(page.text(f"\nChanges with: {row.flips}", "dim"))
    return text


def _print_guides(view: View, page: Page, shown: bool) -> None:
    if not view.guides:
        return
    page.heading("What the guides say")
    if not shown:
        page.put(page.text(f"{len(view.guides)} statements of guides compared; --compare-guides shows them."))
        return
    grid = page.columns(12, None)
    for row in view.guides:
        text = page.text(f"{row.guide} on {row.topic}: {row.says}")
        text.append_text(page.text(f"\nWe say: {row.we_say}. {row.reason}{_ids(row.sources)}", "dim"))
        grid.add_row(page.text(row.verdict, _VERDICTS[row.verdict]), text)
    page.put(grid)


def _print_next(view: View, page: Page) -> None:
    page.heading("Next steps")
    grid = page.columns(3, None)
    for place, step in enumerate(view.next_steps, 1):
        grid.add_row(page.text(f"{place}."), page.text(step))
    page.put(grid)
    page.gap()
    page.field("This report", view.command)
    page.field("Written by", view.tool)


def _print_sources(view: View, page: Page) -> None:
    if not view.sources:
        return
    page.heading("Sources")
    grid = page.columns(26, None)
    for row in view.sources:
        where = f" ({row.where})" if row.where else ""
        grid.add_row(page.text(f"[{row.id}]", "dim"), page.text(f"{row.title}{where}"))
    page.put(grid)


def _ids(sources: tuple[str, ...]) -> str:
    return "".join(f" [{name}]" for name in sources)
