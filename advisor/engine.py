"""Runs rules over facts. Advice, lint and diagnosis all come through here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lora_advise.facts import Facts
from lora_advise.finding import Confidence, Finding, Hit, Severity
from lora_advise.rule import Rule
from lora_advise.unknown import UnknownFact

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


class LintResult(NamedTuple):
    """Findings by severity, plus what was not judged: hidden conventions and rules whose facts are unknown."""

    findings: tuple[Finding, ...]
    hidden: tuple[Finding, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    """Rule names with the sections, or the field of a section, that were unknown."""


def lint(
    facts: Facts,
    rules: Iterable[Rule] | None = None,
    *,
    run: object | None = None,
    config: object | None = None,
    comments: object | None = None,
    pedantic: bool = False,
) -> LintResult:
    """Apply every rule whose facts are known.

    ``run`` is what a training run left behind, for diagnosis rules; ``config`` a Reading, for rules about a file;
    ``comments`` what silences rules in a file. Rules about a file are not counted as skipped where there is none.
    """
    if rules is None:
        from lora_advise.rules import RULES

        rules = RULES
    shown: list[Finding] = []
    hidden: list[Finding] = []
    skipped: list[tuple[str, tuple[str, ...]]] = []
    known = {
        "task": facts.task, "model": facts.model, "lora": facts.lora, "quant": facts.quant, "train": facts.train,
        "data": facts.data, "hardware": facts.hardware, "stack": facts.stack, "facts": facts, "run": run, "config": config,
        "comments": comments,
    }  # fmt: skip
    absent = frozenset(name for name, value in known.items() if value is None)
    for rule in rules:
        if not absent.isdisjoint(rule.needs):
            missing = tuple(name for name in rule.needs if name in absent)
            if "config" not in missing and "comments" not in missing:
                skipped.append((rule.name, missing))
            continue
        given = {name: known[name] for name in (*rule.needs, *rule.wants) if name not in absent}
        found = hidden if rule.confidence is Confidence.CONVENTION and not pedantic else shown
        try:
            for hit in rule.check(**given):
                found.append(_finding(rule, hit))
        except UnknownFact as gap:
            skipped.append((rule.name, (gap.field,)))
    shown.sort(key=lambda f: (_ORDER[f.severity], f.code[:3], int(f.code[3:])))
    return LintResult(tuple(shown), tuple(hidden), tuple(skipped))


def _finding(rule: Rule, hit: Hit) -> Finding:
    return Finding(
        rule.name, rule.code, hit.severity or rule.severity, rule.confidence,
        hit.message, hit.fields, hit.changes, rule.sources, hit.step, hit.instead, hit.rewrites,
    )  # fmt: skip
