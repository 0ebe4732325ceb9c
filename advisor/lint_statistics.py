"""How often each rule found something, and whether a flag mends it."""

from __future__ import annotations

from lora_advise.lint_counts import by_rule, footnotes, headline
from lora_advise.lint_report import LintReport


def render(report: LintReport) -> str:
    """A line for each rule that found something, most frequent first, then the counts."""
    rows = by_rule(report)
    number, code, rule = (max((len(str(row[place])) for row in rows), default=0) for place in (2, 0, 1))
    lines = [
        f"{row.times:>{number}}  {row.code:<{code}}  {row.rule:<{rule}}  {row.flag or ''}".rstrip() for row in rows
    ]
    notes = (f"{label}: {words}" for label, words in footnotes(report))
    return "\n".join((*lines, headline(report), *notes)) + "\n"
