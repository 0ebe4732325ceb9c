"""A lint report on the terminal: each finding with its lines, carets and the way out, then everything that was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_advise.finding import Severity
from lora_advise.lint_counts import counts, footnotes, headline
from lora_advise.lint_report import FileReport, LintReport, Located, Mark
from lora_advise.lint_words import clean, setting, ways
from lora_advise.report_page import PROSE, Page

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_MOST_MARKS = 5
"""Settings that are shown in their lines; further ones are named."""
_WIDE = 170
"""Columns of what is no terminal: nothing wraps there, so that a line of a file need not."""


def render(report: LintReport, terminal: Console | None = None) -> str:
    """The report as text, coloured and wrapped for that terminal; plain where it is none."""
    from io import StringIO

    from rich.console import Console

    console = terminal or Console(file=StringIO(), width=_WIDE, color_system=None, force_terminal=False)
    page = Page(console)
    if not console.is_terminal:
        page.width, page.prose = _WIDE, PROSE
    for file in report.files:
        _put_file(file, page)
    _put_end(report, page)
    with console.capture() as captured:
        page.print()
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _put_file(file: FileReport, page: Page) -> None:
    for found in file.shown:
        _put_finding(file, found, page)
        page.gap()
    for note in file.notes:
        page.put(_joined(page, ("note", COLOURS[Severity.NOTE]), (f": {clean(file.document.name)}: {clean(note)}", "")))
    if file.notes:
        page.gap()


def _put_finding(file: FileReport, found: Located, page: Page) -> None:
    finding = found.finding
    colour = COLOURS[finding.severity]
    page.put(
        _joined(
            page, (f"{finding.severity.value}[{finding.code}]", colour), (f" {finding.rule}: ", "bold"),
            (clean(finding.message), ""),
        )
    )  # fmt: skip
    gutter = len(str(max((mark.span.line for mark in found.marks), default=1) + 2))
    cell = found.marks[0].span.cell if found.marks else 0
    place = f"{clean(file.document.name)}:{found.line}:{found.column}{f' (cell {cell})' if cell else ''}"
    page.lines.append(_joined(page, (" " * gutter + "--> ", "bold blue"), (place, "")))
    if found.marks:
        _put_snippet(file, found, page, gutter)
    _put_ways(found, page, gutter)


def _put_snippet(file: FileReport, found: Located, page: Page, gutter: int) -> None:
    from lora_advise.lint_snippet import snippet

    marks = found.marks[:_MOST_MARKS]
    room = page.width - gutter - 3
    page.lines.append(page.text(" " * gutter + " |", "bold blue"))
    fits = str if page.unicode else (lambda char: page.text(char).plain)
    for row in snippet(file.document, tuple(mark.span for mark in marks), room, fits):
        if row.kind == "code":
            page.lines.append(_joined(page, (f"{row.number:>{gutter}} | ", "bold blue"), (row.text, "")))
        elif row.kind == "gap":
            page.lines.append(page.text(row.text, "bold blue"))
        else:
            style = COLOURS[found.finding.severity] if row.kind == "first" else "bold blue"
            _put_carets(page, gutter, row.text, _label(marks[row.mark]), style)


def _label(mark: Mark) -> str:
    """What is said beside carets: nothing where they alone say it."""
    return setting(mark) if mark.label else ""


def _put_carets(page: Page, gutter: int, carets: str, label: str, style: str) -> None:
    """Carets with their label beside them where there is room, else below them."""
    bar = (" " * gutter + " | ", "bold blue")
    beside = _joined(page, bar, (f"{carets} {label}".rstrip(), style))
    if beside.cell_len <= page.width:
        page.lines.append(beside)
        return
    page.lines.append(_joined(page, bar, (carets, style)))
    grid = page.columns(gutter + 2, None)
    grid.add_row(page.text(" " * gutter + " |", "bold blue"), page.text(label, style))
    page.put(grid)


def _put_ways(found: Located, page: Page, gutter: int) -> None:
    rows = [("set", setting(mark), "") for mark in found.marks[_MOST_MARKS:]]
    rows += [("inherited", clean(words, 300), "") for words in found.inherited]
    for place, way in enumerate(ways(found)):
        rows.append(("or" if place else "fix", f"{way.words} ({way.effect})", "green"))
    if found.finding.sources:
        rows.append(("source", ", ".join(map(clean, found.finding.sources)), "dim"))
    grid = page.columns(gutter + 12, None)
    for label, words, style in rows:
        head = _joined(page, (" " * gutter + " = ", "bold blue"), (label, "bold"))
        grid.add_row(head, page.text(words, style))
    page.put(grid)


def _put_end(report: LintReport, page: Page) -> None:
    total = counts(report)
    worst = (total.errors, total.warnings, total.notes)
    colour = next(
        (c for n, c in zip(worst, COLOURS.values(), strict=True) if n), "bold green" if total.files else "bold"
    )
    page.put(page.text(headline(report), colour))
    grid = page.columns(10, None)
    for label, words in footnotes(report):
        grid.add_row(page.text(label, "dim"), page.text(words))
    page.put(grid)


def _joined(page: Page, *parts: tuple[str, str]) -> Text:
    made = page.text("")
    for words, style in parts:
        made.append_text(page.text(words, style))
    return made
