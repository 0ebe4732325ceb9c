"""A lint report as a comment on a pull request: a table, and the evidence folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lora_advise.lint_counts import footnotes, headline
from lora_advise.lint_places import path_of
from lora_advise.lint_report import FileReport, LintReport, Located
from lora_advise.lint_words import SEVERITIES, clean, message, setting, ways
from lora_advise.report_markdown import escape, place

MOST = 60_000
"""Characters of a comment; GitHub refuses more than 65,536."""
_HEAD = ("| | Where | What | Fix |", "|---|---|---|---|")


def render(report: LintReport) -> str:
    """The report as Markdown in which nothing of a file is markup, a link, or a mention."""
    found = [(file, one) for file in report.files for one in file.shown]
    found.sort(key=lambda pair: SEVERITIES.index(pair[1].finding.severity))  # what does not fit is the least
    end = [*(f"- {label}: {cell(words)}" for label, words in footnotes(report)), *_notes(report)]
    room = MOST - sum(len(line) + 1 for line in end) - 1000
    rows = list(_within([_row(*pair) for pair in found], room))
    room -= sum(len(row) + 1 for row in rows)
    lines = [f"### lora-advise: {headline(report)}", ""]
    if rows:
        lines += [*_HEAD, *rows, ""]
        lines += _evidence([_details(*pair) for pair in found[: len(rows)]], room)
    if len(rows) < len(found):
        lines += [f"{len(found) - len(rows)} more findings do not fit into a comment.", ""]
    return "\n".join((*lines, *end)).rstrip() + "\n"


def cell(text: str) -> str:
    """Text that Markdown shows as it is, addresses without a scheme and references without a number sign too."""
    return re.sub(r"(?i)\b(www)(?=\.)|\b(gh)(?=-\d)", r"\1\2<!-- -->", escape(text))


def _row(file: FileReport, found: Located) -> str:
    finding = found.finding
    fix = "<br>or: ".join(f"{cell(way.words)} ({cell(way.effect)})" for way in ways(found))
    what = f"**{finding.code}** {cell(finding.rule)}: {cell(message(found))}"
    return f"| {finding.severity.value} | {_where(file, found)} | {what} | {fix} |"


def _where(file: FileReport, found: Located) -> str:
    return f"{cell(clean(path_of(file.document.name), 300))}:{found.line}"


def _within(rows: Iterable[str], room: int) -> Iterator[str]:
    for row in rows:
        room -= len(row) + 1
        if room < 0:
            return
        yield row


def _evidence(details: list[str], room: int) -> list[str]:
    kept = list(_within(details, room))
    return ["<details><summary>Evidence</summary>", "", *kept, "", "</details>", ""] if kept else []


def _details(file: FileReport, found: Located) -> str:
    lines = [f"- **{found.finding.code}** {cell(found.finding.rule)}, {_where(file, found)}"]
    lines += [f"  - {cell(setting(mark))}" for mark in found.marks]
    lines += [f"  - {cell(clean(words, 300))}" for words in found.inherited]
    lines += [f"  - {_source(name)}" for name in found.finding.sources]
    return "\n".join(lines)


def _source(name: str) -> str:
    from lora_advise.sources import registry

    known = registry().get(name)
    return f"{cell(name)}: {cell(known.title)}, {place(known.where)}" if known else cell(name)


def _notes(report: LintReport) -> Iterator[str]:
    for file in report.files:
        for note in file.notes[:5]:
            yield f"- {cell(clean(path_of(file.document.name), 300))}: {cell(clean(note, 300))}"
