"""A lint report with one line for each finding, as editors and ``grep`` read it."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.lint_counts import headline, unreadable
from lora_advise.lint_report import LintReport
from lora_advise.lint_words import clean, message


def render(report: LintReport) -> str:
    """``path:line:column: CODE rule severity message``, then the counts."""
    return "\n".join((*_lines(report), headline(report))) + "\n"


def _lines(report: LintReport) -> Iterator[str]:
    for file in report.files:
        for found in file.shown:
            finding = found.finding
            place = f"{clean(file.document.name)}:{found.line}:{found.column}"
            yield f"{place}: {finding.code} {finding.rule} {finding.severity.value} {message(found)}"
    for one in unreadable(report):
        yield f"{clean(one.name)}: not read: {clean(one.why)}"
