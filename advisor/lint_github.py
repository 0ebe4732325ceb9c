"""A lint report as workflow commands of GitHub Actions, which become annotations of a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.finding import Severity
from lora_advise.lint_counts import headline, unreadable
from lora_advise.lint_places import path_of, region
from lora_advise.lint_report import FileReport, LintReport, Located
from lora_advise.lint_words import clean, fix_words, message

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def render(report: LintReport) -> str:
    """A command a line, then the counts."""
    lines = [_command(file, found) for file in report.files for found in file.shown]
    return "\n".join((*lines, *_not_read(report), headline(report))) + "\n"


def _command(file: FileReport, found: Located) -> str:
    finding, fix = found.finding, fix_words(found)
    properties = {"file": path_of(file.document.name), "line": str(found.line)}
    if found.marks:
        where = region(file.document, found.marks[0].span)
        if where.line == where.end_line:  # GitHub refuses columns of an annotation over several lines
            properties["col"] = str(where.column)
        properties["endLine"] = str(where.end_line)
        if where.line == where.end_line:
            properties["endColumn"] = str(where.end_column)
    properties["title"] = f"lora-advise {finding.code} {finding.rule}"
    words = message(found) + (f"\nFix: {fix}." if fix else "")
    return _written(_COMMANDS[finding.severity], properties, words)


def _not_read(report: LintReport) -> Iterator[str]:
    for one in unreadable(report):
        yield _written("error", {"file": path_of(one.name), "title": "lora-advise"}, f"Not read: {clean(one.why)}")


def _written(command: str, properties: dict[str, str], words: str) -> str:
    told = ",".join(f"{name}={escape_property(value)}" for name, value in properties.items())
    return f"::{command} {told}::{escape(words)}"


def escape(text: str) -> str:
    """The text of a command: it ends at a line break, and per cent signs begin an escape."""
    shown = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(c if c.isprintable() else "?" for c in shown)


def escape_property(text: str) -> str:
    """The value of a property, which ends at a comma or a colon besides."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")
