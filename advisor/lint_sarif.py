"""A lint report as SARIF 2.1.0, the form that code scanning takes."""

from __future__ import annotations

from typing import Any

from lora_advise import __version__
from lora_advise.document import Document, Span, span_at
from lora_advise.lint_counts import footnotes
from lora_advise.lint_places import Region, fingerprints, path_of, region, uri_of
from lora_advise.lint_report import FileReport, Fix, LintReport, Located, Unread
from lora_advise.lint_words import clean, fix_words, message, setting, to_ascii_json

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "loraAdviseFinding/v1"


def render(report: LintReport) -> str:
    """The report as a SARIF log of one run; suppressed findings are in it, as suppressed."""
    from lora_advise.lint_sarif_rules import descriptors

    found = [one.finding for file in report.files for one in file.findings]
    rules = descriptors(found)
    index = {rule["id"]: place for place, rule in enumerate(rules)}
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "lora-advise", "semanticVersion": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report)],
        "artifacts": [
            {"location": _artifact(file.document.name), "roles": ["analysisTarget"]} for file in report.files
        ],
        "results": [one for place, file in enumerate(report.files) for one in _results(file, place, index)],
    }
    if any(one.suppressed is not None for file in report.files for one in file.findings):
        for result in run["results"]:  # SARIF wants it on every result or on none
            result.setdefault("suppressions", [])
    return to_ascii_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def said(text: str) -> dict[str, str]:
    """A message of SARIF in which nothing is a placeholder or a link."""
    return {"text": text.replace("{", "{{").replace("}", "}}").replace("](", "] (")}


def _results(file: FileReport, place: int, index: dict[str, int]) -> list[dict[str, Any]]:
    return [_result(file, found, mark, place, index)
            for found, mark in zip(file.findings, fingerprints(file), strict=True)]  # fmt: skip


def _result(file: FileReport, found: Located, fingerprint: str, place: int, index: dict[str, int]) -> dict[str, Any]:
    finding, document = found.finding, file.document
    fix = fix_words(found)
    related = [_located(document, mark.span, place, setting(mark)) for mark in found.marks[1:]]
    made = {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": finding.severity.value,
        "message": said(f"{message(found)}{f' Fix: {fix}.' if fix else ''}"),
        "locations": [_located(document, found.marks[0].span if found.marks else None, place)],
        "partialFingerprints": {FINGERPRINT: fingerprint},
        "properties": {
            "rule": finding.rule, "confidence": finding.confidence.value, "sources": list(finding.sources),
            "inherited": [clean(words) for words in found.inherited],
        },
    }  # fmt: skip
    if related:
        made["relatedLocations"] = [{"id": number, **where} for number, where in enumerate(related, 1)]
    if found.fixes:
        made["fixes"] = [_fix(document, fix, place) for fix in found.fixes]
    if found.suppressed is not None:
        reason = clean(found.suppressed)
        made["suppressions"] = [{"kind": "inSource", **({"justification": reason} if reason else {})}]
    return made


def _located(document: Document, span: Span | None, place: int, words: str = "") -> dict[str, Any]:
    where = region(document, span) if span else Region(1, 1, 1, 1)
    physical = {"artifactLocation": _artifact(document.name, place), "region": _region(where)}
    return {"physicalLocation": physical, **({"message": said(words)} if words else {})}


def _region(where: Region) -> dict[str, int]:
    return {
        "startLine": where.line, "startColumn": where.column, "endLine": where.end_line, "endColumn": where.end_column,
    }  # fmt: skip


def _artifact(name: str, place: int | None = None) -> dict[str, Any]:
    uri = uri_of(name)
    base = {} if uri.startswith("file:") else {"uriBaseId": "%SRCROOT%"}
    return {"uri": uri, **base, **({} if place is None else {"index": place})}


def _fix(document: Document, fix: Fix, place: int) -> dict[str, Any]:
    replacements = [
        {
            "deletedRegion": _region(region(document, span_at(document.text, edit.start, edit.end))),
            "insertedContent": {"text": edit.text},
        }
        for edit in fix.edits
    ]
    return {
        "description": said(clean(fix.words)),
        "artifactChanges": [{"artifactLocation": _artifact(document.name, place), "replacements": replacements}],
        "properties": {"safe": fix.safe},
    }


def _invocation(report: LintReport) -> dict[str, Any]:
    notes = [_unread(one) for one in report.unread]
    notes += [_note(file.document.name, note) for file in report.files for note in file.notes]
    skipped = [words for label, words in footnotes(report) if label == "Skipped"]
    return {
        "executionSuccessful": all(one.kind == "no config" for one in report.unread),
        "toolExecutionNotifications": notes,
        "toolConfigurationNotifications": [
            {"level": "note", "descriptor": {"id": "skipped"}, "message": said(f"Skipped: {words}")}
            for words in skipped
        ],
    }


def _unread(one: Unread) -> dict[str, Any]:
    level = "note" if one.kind == "no config" else "error"
    return {"level": level, "descriptor": {"id": one.kind.replace(" ", "-")}, **_about(one.name, one.why)}


def _note(name: str, words: str) -> dict[str, Any]:
    return {"level": "note", "descriptor": {"id": "assumed"}, **_about(name, words)}


def _about(name: str, words: str) -> dict[str, Any]:
    return {
        "message": said(f"{clean(path_of(name))}: {clean(words)}"),
        "locations": [{"physicalLocation": {"artifactLocation": _artifact(name)}}],
    }
