"""How much a lint found, hid, skipped and could not read: numbers, and the sentences that say them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lora_advise.finding import Severity
from lora_advise.lint_report import LintReport, Located, Unread
from lora_advise.lint_words import SEVERITIES, clean, flag_of, listed, needed, unjudged
from lora_advise.report_words import counted

_FEW, _SOME = 3, 10
"""Files without a config that are named (more are only counted, since a folder holds many), and unreadable ones."""


class Counts(NamedTuple):
    """The numbers of a report; findings are those shown."""

    files: int
    errors: int
    warnings: int
    notes: int
    fixable: int
    """Which ``--fix`` mends."""
    unsafe: int
    """Which ``--unsafe-fixes`` mends besides."""
    hidden: int
    suppressed: int
    skipped: int
    """Rules that were not applied to one file at least."""
    unreadable: int
    """Files that should have been judged."""
    no_config: int


class RuleCount(NamedTuple):
    """How often a rule found something, and the flag that mends it; None where none mends any of them."""

    code: str
    rule: str
    times: int
    flag: str | None


class Footnote(NamedTuple):
    """One line below the findings."""

    label: str
    words: str


def shown(report: LintReport) -> Iterator[Located]:
    """Every finding that is not suppressed."""
    return (found for file in report.files for found in file.shown)


def counts(report: LintReport) -> Counts:
    """The numbers of the report."""
    found = list(shown(report))
    by = Counter(one.finding.severity for one in found)
    flags = Counter(map(flag_of, found))
    kinds = Counter(one.kind for one in report.unread)
    return Counts(
        len(report.files), by[Severity.ERROR], by[Severity.WARNING], by[Severity.NOTE], flags["--fix"],
        flags["--unsafe-fixes"], sum(len(file.hidden) for file in report.files),
        sum(len(file.findings) - len(file.shown) for file in report.files),
        len({skipped.rule for file in report.files for skipped in unjudged(file)}),
        kinds["unreadable"] + kinds["too large"], kinds["no config"],
    )  # fmt: skip


def by_rule(report: LintReport) -> tuple[RuleCount, ...]:
    """The rules that found something, most frequent first."""
    groups: dict[tuple[str, str], list[str | None]] = {}
    for found in shown(report):
        groups.setdefault((found.finding.code, found.finding.rule), []).append(flag_of(found))
    made = [
        RuleCount(code, rule, len(flags), next((f for f in ("--fix", "--unsafe-fixes") if f in flags), None))
        for (code, rule), flags in groups.items()
    ]
    return tuple(sorted(made, key=lambda row: (-row.times, row.code)))


def headline(report: LintReport) -> str:
    """The answer in one sentence."""
    total = counts(report)
    if not total.files:
        return "No file was judged."
    files = counted(total.files, "file")
    numbers = zip((total.errors, total.warnings, total.notes), SEVERITIES, strict=True)
    found = [counted(number, severity.value) for number, severity in numbers if number]
    return f"{listed(found)} in {files}." if found else f"{files}, no findings."


def footnotes(report: LintReport) -> tuple[Footnote, ...]:
    """Everything else that was counted, a line each; nothing for a count of zero."""
    total = counts(report)
    made = [
        ("Read as", _dialects(report)),
        ("Fixable", _fixable(total)),
        ("Hidden", f"{counted(total.hidden, 'convention')} (--pedantic shows them)." if total.hidden else ""),
        ("Skipped", _skipped(report, total)),
        ("Suppressed", f"{counted(total.suppressed, 'finding')}." if total.suppressed else ""),
        ("Not read", _not_read(unreadable(report))),
        ("No config", _no_config(report)),
    ]
    return tuple(Footnote(label, words) for label, words in made if words)


def unreadable(report: LintReport) -> tuple[Unread, ...]:
    """Files that should have been judged and were not."""
    return tuple(one for one in report.unread if one.kind != "no config")


def _dialects(report: LintReport) -> str:
    names = Counter(name for file in report.files for name in dict.fromkeys(file.dialects))
    return f"{', '.join(f'{clean(name, 60)} {number}' for name, number in names.most_common())}." if names else ""


def _fixable(total: Counts) -> str:
    parts = [f"{total.fixable} with --fix"] * bool(total.fixable)
    parts += [f"{total.unsafe} with --unsafe-fixes, which change the run"] * bool(total.unsafe)
    return f"{listed(parts)}." if parts else ""


def _skipped(report: LintReport, total: Counts) -> str:
    if not total.skipped:
        return ""
    wants = ", ".join(f"{words} {number}" for words, number in needed(report))
    return f"{counted(total.skipped, 'rule')}, for want of: {wants}."


def _not_read(files: tuple[Unread, ...]) -> str:
    more = f"; and {counted(len(files) - _SOME, 'other file')}." if len(files) > _SOME else ""
    return "; ".join(f"{clean(one.name, 200)}: {_why(one)}" for one in files[:_SOME]) + more


def _no_config(report: LintReport) -> str:
    others = [one for one in report.unread if one.kind == "no config"]
    if len(others) > _FEW:
        return f"{counted(len(others), 'file')}, which are no configs of a trainer that is known."
    return "; ".join(f"{clean(one.name, 200)}: {_why(one)}" for one in others)


def _why(one: Unread) -> str:
    return clean(one.why, 300).rstrip(".") + "."
