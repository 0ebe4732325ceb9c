"""Words that the formats of a lint report share: clean text, the way out of a finding, what a skipped rule lacked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lora_advise.finding import Severity
from lora_advise.lint_report import FileReport, Fix, LintReport, Located, Mark, Skipped
from lora_advise.report_words import plain

SEVERITIES: tuple[Severity, ...] = tuple(Severity)
"""Worst first."""
MOST = 1000
"""Characters of a message from outside that are shown: a value may be as long as its file."""
_NEEDS = {
    "hardware": "the GPU (--gpu)",
    "data": "the training data (--data or --examples)",
    "task": "the task (--task)",
    "model": "the model (--model)",
    "lora": "an adapter",
    "quant": "a quantization",
    "train": "training settings",
    "stack": "the versions of the libraries",
    "run": "a finished run",
    "config": "a config of a known trainer",
}


class Way(NamedTuple):
    """A way out of a finding, in words, and the flag that applies it; None where a person has to."""

    words: str
    flag: str | None

    @property
    def effect(self) -> str:
        """Who applies it, as a clause."""
        told = {"--fix": "--fix applies it", "--unsafe-fixes": "--unsafe-fixes applies it, since it changes the run"}
        return told.get(self.flag or "", "by hand")


def clean(text: object, most: int = MOST) -> str:
    """Outside text on one line of at most that many characters, without anything invisible."""
    whole = str(text)
    shown = "".join(c if c.isprintable() else " " for c in plain(whole[: 4 * most])).strip()
    return shown if len(shown) <= most and len(whole) <= 4 * most else shown[: max(0, most - 3)] + "..."


def chosen(fixes: tuple[Fix, ...]) -> Fix | None:
    """The fix that a flag applies: the first safe one, else the first that can be written; None where there is none."""
    written = [fix for fix in fixes if fix.edits]
    return next((fix for fix in written if fix.safe), written[0] if written else None)


def flag_of(located: Located) -> str | None:
    """The flag that mends the finding: ``--fix``, ``--unsafe-fixes`` or None."""
    fix = chosen(located.fixes)
    return None if fix is None else "--fix" if fix.safe else "--unsafe-fixes"


def ways(located: Located) -> tuple[Way, ...]:
    """The ways out, the one that a flag applies first."""
    first = chosen(located.fixes)
    if first is None and not located.fixes:
        words = located.finding.fix
        return (Way(clean(words), None),) if words else ()
    others = (Way(clean(fix.words), None) for fix in located.fixes if fix is not first)
    mine = (Way(clean(first.words), flag_of(located)),) if first is not None else ()
    return (*mine, *others)


def fix_words(located: Located) -> str:
    """All ways out in one clause; empty where no setting mends it."""
    return "; or ".join(f"{way.words} ({way.effect})" for way in ways(located))


def setting(mark: Mark) -> str:
    """A setting that the file makes, with its line: ``learning_rate = 0.02, set by you, line 12``; or the line alone."""
    cell = f"cell {mark.span.cell}" if mark.span.cell else ""
    return ", ".join(filter(None, (clean(mark.label, 300), cell, f"line {mark.span.line}")))


def message(located: Located) -> str:
    """What is wrong, in a whole sentence; it names the cell of a notebook."""
    cell = located.marks[0].span.cell if located.marks else 0
    said = clean(located.finding.message)
    return f"Cell {cell}: {said}" if cell else said


def unjudged(file: FileReport) -> Iterator[Skipped]:
    """The rules that something unknown kept from judging a file; rules about comments lack nothing where there are none."""
    return (skipped for skipped in file.skipped if skipped.missing != ("comments",))


def needed(report: LintReport) -> tuple[tuple[str, int], ...]:
    """What skipped rules would have to know, with the flag that tells it, and how many rules want it; most first."""
    wanting: dict[str, set[str]] = {}
    for file in report.files:
        for skipped in unjudged(file):
            for name in skipped.missing:
                wanting.setdefault(_need(name), set()).add(skipped.rule)
    return tuple(sorted(((words, len(rules)) for words, rules in wanting.items()), key=lambda row: (-row[1], row[0])))


def _need(name: str) -> str:
    if name == "data.examples":
        return "the number of examples (--examples)"
    section, _, field = name.partition(".")
    words = _NEEDS.get(section, "")
    return words if words and (not field or "(--" in words) else clean(name, 60)


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def to_ascii_json(data: Any) -> str:
    """JSON in ASCII, so that no terminal obeys it and every parser takes it: a lone surrogate is U+FFFD."""
    import json

    def escaped(found: re.Match[str]) -> str:
        char = found[0]
        return "\\ufffd" if "\ud800" <= char <= "\udfff" else "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]

    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"[^\n\x20-\x7e]", escaped, text) + "\n"
