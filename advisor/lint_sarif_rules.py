"""The rules of the linter as SARIF describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lora_advise.finding import Confidence, Finding, Severity
from lora_advise.lint_words import clean
from lora_advise.rule import Rule

_PRECISION = {Confidence.FACT: "very-high", Confidence.MEASURED: "high", Confidence.CONVENTION: "medium"}
_PROBLEM = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "recommendation"}


def descriptors(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The rules of these findings, by code; all rules with their texts would be 200 kB in every log."""
    from lora_advise.rules import RULES

    known = {rule.code: rule for rule in RULES}
    found = {finding.code: finding for finding in findings}
    return [_described(known[code]) if code in known else _bare(found[code]) for code in sorted(found)]


def _described(rule: Rule) -> dict[str, Any]:
    cited = ", ".join(rule.sources)
    text = f"{rule.documentation}\n\nSources: {cited}"
    return {
        **_head(rule.code, rule.name, rule.severity, rule.confidence),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": _why(rule)},
        "help": {"text": text, "markdown": _markdown(rule, cited)},
    }


def _head(code: str, name: str, severity: Severity, confidence: Confidence) -> dict[str, Any]:
    return {
        "id": code,
        "name": name,
        "defaultConfiguration": {"level": severity.value},
        "properties": {
            "confidence": confidence.value, "precision": _PRECISION[confidence], "problem.severity": _PROBLEM[severity],
            "tags": ["fine-tuning", "LoRA"],
        },
    }  # fmt: skip


def _bare(finding: Finding) -> dict[str, Any]:
    """What a finding tells of a rule that is in no list."""
    words = clean(finding.rule.replace("-", " ").capitalize() + ".")
    told = {"text": words, "markdown": words}
    head = _head(finding.code, finding.rule, finding.severity, finding.confidence)
    return {**head, "shortDescription": {"text": words}, "fullDescription": {"text": words}, "help": told}


def _why(rule: Rule) -> str:
    """The summary and the reason, in one paragraph."""
    lines: list[str] = []
    for line in rule.documentation.split("\n")[1:]:
        if line.startswith("Why:"):
            lines.append(line.removeprefix("Why:").strip())
        elif lines and line.startswith(" "):
            lines.append(line.strip())
        elif lines:
            break
    return " ".join((rule.summary, *lines))


def _markdown(rule: Rule, cited: str) -> str:
    """The documentation with its parts as headings; examples are code."""
    made = []
    for line in rule.documentation.split("\n"):
        head, colon, rest = line.partition(":")
        if colon and head in ("Why", "Example", "Instead", "Evidence", "Known problems"):
            made += ["", f"**{head}**", "", *([rest.strip()] if rest.strip() else [])]
        else:
            made.append(line if line.startswith("    ") and _in_code(made) else line.strip())
    return "\n".join((*made, "", f"**Sources** {cited}"))


def _in_code(made: list[str]) -> bool:
    """Whether the last heading is one of an example."""
    heading = next((line for line in reversed(made) if line.startswith("**")), "")
    return heading in ("**Example**", "**Instead**")
