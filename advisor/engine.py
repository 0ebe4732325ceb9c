"""Runs rules over facts. Advice, lint and diagnosis all come through here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lora_advise.facts import Facts
from lora_advise.finding import Confidence, Finding, Severity
from lora_advise.rule import Rule

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


class LintResult(NamedTuple):
    """Findings by severity, plus what was not judged: hidden conventions and rules whose facts are unknown."""

    findings: tuple[Finding, ...]
    hidden: tuple[Finding, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    """Rule names with the sections that were unknown."""


def lint(
    facts: Facts, rules: Iterable[Rule] | None = None, *, run: object | None = None, pedantic: bool = False
) -> LintResult:
    """Apply every rule whose sections are known. ``run`` is what a training run left behind, for diagnosis rules."""
    if rules is None:
        from lora_advise.rules import RULES

        rules = RULES
    shown: list[Finding] = []
    hidden: list[Finding] = []
    skipped: list[tuple[str, tuple[str, ...]]] = []
    for rule in rules:
        known = {name: _section(facts, run, name) for name in rule.needs}
        missing = tuple(name for name, value in known.items() if value is None)
        if missing:
            skipped.append((rule.name, missing))
            continue
        for hit in rule.check(**known):
            finding = Finding(
                rule.name, rule.code, hit.severity or rule.severity, rule.confidence,
                hit.message, hit.fields, hit.changes, rule.sources, hit.step, hit.instead,
            )  # fmt: skip
            (hidden if rule.confidence is Confidence.CONVENTION and not pedantic else shown).append(finding)
    shown.sort(key=lambda f: (_ORDER[f.severity], f.code[:3], int(f.code[3:])))
    return LintResult(tuple(shown), tuple(hidden), tuple(skipped))


def _section(facts: Facts, run: object | None, name: str) -> object | None:
    if name == "facts":
        return facts
    if name == "run":
        return run
    section: object | None = getattr(facts, name)
    return section
