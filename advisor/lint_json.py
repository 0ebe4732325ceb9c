"""A lint report for programs: versioned JSON, whose layout :func:`lora_advise.schema.lint_schema` describes."""

from __future__ import annotations

from typing import Any, Literal

from lora_advise import __version__
from lora_advise.document import Document, Format, Span
from lora_advise.finding import Change, Confidence, Severity
from lora_advise.lint_counts import by_rule, counts
from lora_advise.lint_places import fingerprints, path_of, region
from lora_advise.lint_report import FileReport, Fix, LintReport, Located, Mark
from lora_advise.lint_words import clean, to_ascii_json, unjudged
from lora_advise.section import Section, to_data

LINT_VERSION: Literal[1] = 1
"""Raised when a program that reads the old layout would misread the new one; new fields do not raise it."""
_MOST = 20_000


class Place(Section):
    """A stretch of a file, in characters; lines and columns count from 1, offsets from 0, ends are exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int
    start: int
    end: int
    cell: int | None
    """The notebook's cell, from 1; lines are those of its JSON all the same."""


class MarkRow(Section):
    """A setting of the file that a finding is about."""

    label: str
    place: Place


class ChangeRow(Section):
    """A field of lora-advise's facts and the value that mends the finding."""

    field: str
    value: Any
    safe: bool


class EditRow(Section):
    """Put ``text`` in place of the characters from ``start`` to ``end``."""

    start: int
    end: int
    text: str


class FixRow(Section):
    """Edits that together mend a finding; safe when the training run stays the same."""

    words: str
    safe: bool
    edits: tuple[EditRow, ...]


class FindingRow(Section):
    """A finding: what is wrong, where, what says so, the ways out."""

    rule: str
    code: str
    severity: Severity
    confidence: Confidence
    message: str
    line: int
    column: int
    fields: tuple[str, ...]
    marks: tuple[MarkRow, ...]
    """The first is where it is reported; empty when nothing of the file shows it."""
    inherited: tuple[str, ...]
    """Settings that the file does not make."""
    changes: tuple[ChangeRow, ...]
    instead: tuple[ChangeRow, ...]
    """Another way out, in place of ``changes``."""
    fixes: tuple[FixRow, ...]
    sources: tuple[str, ...]
    """Ids, which ``lora-advise source ID`` explains."""
    config: int
    """Which config of the file, from 0."""
    fingerprint: str
    """The same wherever the line moves."""


class SkippedRow(Section):
    """A rule that was not applied, and the facts that it lacked."""

    rule: str
    missing: tuple[str, ...]


class FileRow(Section):
    """A file that was judged."""

    path: str
    format: Format
    dialects: tuple[str, ...]
    findings: tuple[FindingRow, ...]
    hidden: int
    suppressed: int
    skipped: tuple[SkippedRow, ...]
    notes: tuple[str, ...]


class UnreadRow(Section):
    """A file that was not judged."""

    path: str
    kind: Literal["no config", "unreadable", "too large"]
    why: str


class Summary(Section):
    """How many there are."""

    files: int
    errors: int
    warnings: int
    notes: int
    fixable: int
    """Findings that ``--fix`` mends."""
    unsafe: int
    """Findings that ``--unsafe-fixes`` mends besides."""
    hidden: int
    suppressed: int
    skipped: int
    """Rules that were not applied to one file at least."""
    unreadable: int
    no_config: int


class RuleRow(Section):
    """How often a rule found something, and the flag that mends it."""

    code: str
    rule: str
    count: int
    flag: Literal["--fix", "--unsafe-fixes"] | None


class LintAnswer(Section):
    """The whole answer of ``lora-advise lint``."""

    version: Literal[1]
    tool: Literal["lora-advise"]
    tool_version: str
    summary: Summary
    statistics: tuple[RuleRow, ...]
    files: tuple[FileRow, ...]
    unread: tuple[UnreadRow, ...]


def render(report: LintReport) -> str:
    """The report as JSON text."""
    return to_ascii_json(to_data(answer(report)))


def answer(report: LintReport) -> LintAnswer:
    """The report as sections."""
    return LintAnswer(
        version=LINT_VERSION,
        tool="lora-advise",
        tool_version=__version__,
        summary=Summary(**counts(report)._asdict()),
        statistics=tuple(_rule(*row) for row in by_rule(report)),
        files=tuple(map(_file, report.files)),
        unread=tuple(UnreadRow(path=path_of(u.name), kind=u.kind, why=clean(u.why, _MOST)) for u in report.unread),
    )


def _rule(code: str, rule: str, count: int, flag: Any) -> RuleRow:
    return RuleRow(code=code, rule=rule, count=count, flag=flag)


def _file(file: FileReport) -> FileRow:
    marked = zip(file.findings, fingerprints(file), strict=True)
    return FileRow(
        path=path_of(file.document.name),
        format=file.document.format,
        dialects=file.dialects,
        findings=tuple(_finding(file.document, *pair) for pair in marked if pair[0].suppressed is None),
        hidden=len(file.hidden),
        suppressed=len(file.findings) - len(file.shown),
        skipped=tuple(SkippedRow(rule=one.rule, missing=one.missing) for one in unjudged(file)),
        notes=tuple(clean(note, _MOST) for note in file.notes),
    )


def _finding(document: Document, found: Located, fingerprint: str) -> FindingRow:
    finding = found.finding
    return FindingRow(
        rule=finding.rule, code=finding.code, severity=finding.severity, confidence=finding.confidence,
        message=clean(finding.message, _MOST), line=found.line, column=found.column, fields=finding.fields,
        marks=tuple(_mark(document, mark) for mark in found.marks),
        inherited=tuple(clean(words, _MOST) for words in found.inherited),
        changes=_changes(finding.changes), instead=_changes(finding.instead), fixes=tuple(map(_fix, found.fixes)),
        sources=finding.sources, config=found.config, fingerprint=fingerprint,
    )  # fmt: skip


def _mark(document: Document, mark: Mark) -> MarkRow:
    return MarkRow(label=clean(mark.label, _MOST), place=_place(document, mark.span))


def _place(document: Document, span: Span) -> Place:
    return Place(**region(document, span)._asdict(), start=span.start, end=span.end, cell=span.cell or None)


def _changes(changes: tuple[Change, ...]) -> tuple[ChangeRow, ...]:
    return tuple(ChangeRow(field=one.field, value=one.value, safe=one.safe) for one in changes)


def _fix(fix: Fix) -> FixRow:
    edits = tuple(EditRow(start=edit.start, end=edit.end, text=edit.text) for edit in fix.edits)
    return FixRow(words=clean(fix.words, _MOST), safe=fix.safe, edits=edits)
