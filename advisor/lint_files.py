"""``lora-advise lint``: paths become documents, documents readings, readings findings with their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lora_advise.dialect import Dialect
from lora_advise.document import Config, Document, Entry, Span, Unresolved
from lora_advise.engine import LintResult, lint
from lora_advise.facts import Facts
from lora_advise.finding import Finding, Severity
from lora_advise.lint_fix import fixes_of
from lora_advise.lint_report import Edit, FileReport, Fix, Located, Mark, Skipped
from lora_advise.reading import Reading, read_config
from lora_advise.rule import Rule
from lora_advise.sheet import dotted
from lora_advise.suppressions import apply_suppressions, silence_of, suppressions_of


class Wanted(NamedTuple):
    """What the command line says of every file."""

    dialect: str | None = None
    versions: Mapping[str, str] = {}
    given: Mapping[str, Any] = {}
    """Whole sections of the facts: model, data, hardware, task."""
    pedantic: bool = False
    rules: tuple[Rule, ...] | None = None
    """None means all."""


class NoConfig(NamedTuple):
    """A document in which no trainer's config was found."""

    why: str


def lint_document(document: Document, wanted: Wanted) -> FileReport | NoConfig:
    """Judge every config of a document that some trainer wrote."""
    found: list[Located] = []
    hidden: list[Located] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    readings = readings_of(document, wanted)
    if not readings:
        return NoConfig("no trainer's settings in it")
    for number, reading in readings:
        result = judge(reading, wanted)
        found += (locate(finding, reading, number, document) for finding in result.findings)
        hidden += (locate(finding, reading, number, document) for finding in result.hidden)
        skipped += (Skipped(*row) for row in result.skipped)
        notes += reading.notes
    found, hidden = _silenced(document, found, hidden, skipped, wanted)
    dialects = tuple(reading.dialect.name for _, reading in readings)
    return FileReport(
        document, dialects, tuple(found), tuple(hidden), tuple(dict.fromkeys(skipped)), tuple(dict.fromkeys(notes))
    )


def _silenced(
    document: Document, found: list[Located], hidden: list[Located], skipped: list[Skipped], wanted: Wanted
) -> tuple[list[Located], list[Located]]:
    """The findings with what silences them, and those about the comments that silence nothing, by line."""
    from lora_advise.rules import RULES

    given = suppressions_of(document)
    marked, idle = apply_suppressions(found, given)
    if given:
        unseen = {row.rule for row in skipped}
        applied = [r for r in wanted.rules or RULES if r.name not in unseen]
        silence = silence_of(given, idle, {r.name: r for r in (*RULES, *(wanted.rules or ()))}.values(), applied)
        result = lint(Facts(), wanted.rules, comments=silence, pedantic=wanted.pedantic)
        about = [f for f in result.findings if f.code.startswith("SUP")]
        marked = (*marked, *(_at_comment(finding, document) for finding in about))
        hidden = [*hidden, *(_at_comment(f, document) for f in result.hidden if f.code.startswith("SUP"))]
    return sorted(marked, key=lambda item: (item.line, item.column, item.finding.code)), hidden


def _at_comment(finding: Finding, document: Document) -> Located:
    line = int(finding.fields[0].rpartition(".")[2])
    comment = next(c for c in document.comments if c.line == line)
    start = _line_start(document.text, line) + comment.column - 1
    end = document.text.find("\n", start)
    span = Span(start, len(document.text) if end < 0 else end, line, comment.column)
    fixes: tuple[Fix, ...] = ()
    if finding.rewrites and document.format != "notebook":
        fixes = (Fix(finding.rewrites[0].words, (Edit(_from_blank(document.text, start), span.end, ""),), safe=True),)
    return Located(finding, (Mark(span, ""),), fixes=fixes)


def _from_blank(text: str, start: int) -> int:
    """Where the blanks before that place begin."""
    while start and text[start - 1] in " \t":
        start -= 1
    return start


def _line_start(text: str, line: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return start


def readings_of(document: Document, wanted: Wanted) -> list[tuple[int, Reading]]:
    """The configs that a trainer wrote, with their places in the document."""
    from lora_advise.dialects import dialect, recognise

    found = []
    for number, config in _runs(document):
        kind: Dialect | None = dialect(wanted.dialect, config.shape) if wanted.dialect else recognise(config)
        if kind is not None and kind.name == "plan":
            from lora_advise.dialect_plan import read_plan_document

            found.append((number, read_plan_document(document, config, wanted.given)))
        elif kind is not None and config.entries:
            found.append((number, read_config(kind, config, wanted.versions, wanted.given, document.name)))
    return found


def _runs(document: Document) -> Iterator[tuple[int, Config]]:
    """The configs with their numbers; a program has one for each of its trainers."""
    for number, config in enumerate(document.configs):
        if config.shape != "calls":
            yield number, config
            continue
        from lora_advise.program_settings import runs_of

        yield from ((number, run) for run in runs_of(config))


def judge(reading: Reading, wanted: Wanted) -> LintResult:
    """Apply the rules to one config."""
    return lint(reading.facts, wanted.rules, config=reading, pedantic=wanted.pedantic)


def locate(finding: Finding, reading: Reading, number: int, document: Document) -> Located:
    """The finding with the settings that it is about; what the file does not set is said in words."""
    marks: list[Mark] = []
    inherited: list[str] = []
    for field in finding.fields:
        name = field.removeprefix("config.")
        entries = reading.places.get(name, ())
        marks += (Mark(entry.span, _label(entry)) for entry in entries)
        if not entries and name in reading.inherited:
            inherited.append(_said(name, reading))
    if not marks:
        finding = _softened(finding)
    if not marks and (anchor := _anchor(reading)) is not None:
        marks.append(Mark(anchor.key or anchor.span, ""))
    fixes = fixes_of(finding, reading, document)
    return Located(finding, tuple(dict.fromkeys(marks)), tuple(inherited), fixes, config=number)


def _softened(finding: Finding) -> Finding:
    """An error that no setting of the file makes is a warning: defaults change with versions, so nothing is proved by them."""
    if finding.severity is Severity.ERROR and finding.fields:
        return finding._replace(severity=Severity.WARNING)
    return finding


def _label(entry: Entry) -> str:
    value = entry.value.source if isinstance(entry.value, Unresolved) else entry.text or str(entry.value)
    return f"{dotted(entry.path)} = {value[:80]}, set by you"


def _said(name: str, reading: Reading) -> str:
    section, _, field = name.partition(".")
    value = getattr(getattr(reading.facts, section), field, None) if field else None
    return f"{field or section} = {value} ({reading.inherited[name]})"


def _anchor(reading: Reading) -> Entry | None:
    """Where a finding is shown that no setting of the file makes: at the adapter's settings, else at the first."""
    for name in ("adapter", "lora.r", "train.learning_rate"):
        if name in reading.written:
            return reading.written[name]
    return reading.config.entries[0] if reading.config.entries else None
