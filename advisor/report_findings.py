"""Findings and rules on the terminal: plain sentences, escaped, with counts of what was hidden or skipped."""

from __future__ import annotations

import json

from lora_advise.engine import LintResult
from lora_advise.errors import LoraAdviseError
from lora_advise.finding import Finding
from lora_advise.rule import Rule


def print_findings(name: str, result: LintResult, *, as_json: bool) -> None:
    """Print the findings of one file, worst first, and one line that counts everything."""
    if as_json:
        print(json.dumps({"file": name, "findings": [_as_dict(f) for f in result.findings],
                          "hidden": len(result.hidden), "skipped": [n for n, _ in result.skipped]}, indent=2))  # fmt: skip
        return
    for finding in result.findings:
        print(_line(name, finding))
    by = {s: sum(f.severity.value == s for f in result.findings) for s in ("error", "warning", "note")}
    counts = ", ".join(f"{n} {s}{'s' if n != 1 else ''}" for s, n in by.items() if n) or "no findings"
    extra = f"; {len(result.hidden)} conventions hidden (--pedantic)" if result.hidden else ""
    if result.skipped:
        unknown = sorted({section for _, sections in result.skipped for section in sections})
        extra += f"; {len(result.skipped)} rules skipped: {', '.join(unknown)} unknown"
    print(f"{_plain(name)}: {counts}{extra}")


def _line(name: str, finding: Finding) -> str:
    lines = [f"{_plain(name)}: {finding.severity.value}[{finding.rule}] {finding.code}: {_plain(finding.message)}"]
    for word, changes in (("fix", finding.changes), ("or", finding.instead)):
        lines += [
            f"    {word}: {c.field} = {_plain(str(c.value))}{'' if c.safe else ' (changes the run)'}" for c in changes
        ]
    if finding.sources:
        lines.append(f"    source: {', '.join(finding.sources)}")
    return "\n".join(lines)


def _as_dict(finding: Finding) -> dict[str, object]:
    return {
        "rule": finding.rule, "code": finding.code, "severity": finding.severity.value, "confidence": finding.confidence.value,
        "message": finding.message, "fields": list(finding.fields), "sources": list(finding.sources),
        "changes": [c._asdict() for c in finding.changes], "instead": [c._asdict() for c in finding.instead],
    }  # fmt: skip


def _every_rule() -> tuple[Rule, ...]:
    from lora_advise.rules import RULES
    from lora_advise.rules.run_rules import RUN_RULES

    return (*RULES, *RUN_RULES)


def list_rules(*, as_json: bool) -> str:
    """Every rule, a line each."""
    rules = _every_rule()
    if as_json:
        return json.dumps([_rule_dict(rule) for rule in rules], indent=2)
    width = max(len(rule.name) for rule in rules)
    return "\n".join(
        f"{r.code:<8} {r.name:<{width}}  {r.severity.value:<8} {r.confidence.value:<11} {r.summary}" for r in rules
    )


def explain_rule(name: str, *, as_json: bool) -> str:
    """The documentation of one rule, by name or code. Raises LoraAdviseError with the closest names."""
    rules = _every_rule()
    for rule in rules:
        if name.lower() in (rule.name, rule.code.lower()):
            if as_json:
                return json.dumps(_rule_dict(rule), indent=2)
            return f"{rule.name} ({rule.code}), {rule.severity.value}, {rule.confidence.value}\n\n{rule.documentation}\n\nSources: {', '.join(rule.sources)}"
    import difflib

    close = difflib.get_close_matches(name, [r.name for r in rules], n=3, cutoff=0.4)
    raise LoraAdviseError(
        f"no rule is called {name[:60]!r}; did you mean {', '.join(close) or 'one of lora-advise rule --all'}?"
    )


def _rule_dict(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name, "code": rule.code, "severity": rule.severity.value, "confidence": rule.confidence.value,
        "needs": list(rule.needs), "since": rule.since, "sources": list(rule.sources), "documentation": rule.documentation,
    }  # fmt: skip


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
