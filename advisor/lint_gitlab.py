"""A lint report as GitLab's code quality report."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from lora_advise.finding import Severity
from lora_advise.lint_counts import unreadable
from lora_advise.lint_places import fingerprints, path_of, region
from lora_advise.lint_report import FileReport, LintReport, Located
from lora_advise.lint_words import clean, fix_words, message, to_ascii_json

_SEVERITIES = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.NOTE: "info"}


def render(report: LintReport) -> str:
    """A list of issues, unreadable files among them; an empty list tells GitLab that all is well."""
    found = [
        _issue(file, one, mark)
        for file in report.files
        for one, mark in zip(file.findings, fingerprints(file), strict=True)
        if one.suppressed is None
    ]
    return to_ascii_json(found + [_unread(path_of(one.name), clean(one.why)) for one in unreadable(report)])


def _issue(file: FileReport, found: Located, fingerprint: str) -> dict[str, Any]:
    finding, fix = found.finding, fix_words(found)
    lines = {"begin": found.line}
    if found.marks:
        lines["end"] = region(file.document, found.marks[0].span).end_line
    return {
        "description": f"{finding.code}: {message(found)}{f' Fix: {fix}.' if fix else ''}",
        "check_name": finding.rule,
        "fingerprint": fingerprint,
        "severity": _SEVERITIES[finding.severity],
        "location": {"path": path_of(file.document.name), "lines": lines},
    }


def _unread(path: str, why: str) -> dict[str, Any]:
    return {
        "description": f"Not read: {why}",
        "check_name": "not-read",
        "fingerprint": sha256(f"not-read\0{path}".encode("utf-8", "replace")).hexdigest()[:32],
        "severity": "major",
        "location": {"path": path, "lines": {"begin": 1}},
    }
