"""Comments that silence findings: ``# lora-advise: ignore[rule, CODE] reason``, for a line or (``ignore-file``) a file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lora_advise.document import Comment, Document
from lora_advise.lint_report import Located
from lora_advise.rule import Rule

_FORM = re.compile(
    r"lora-advise:\s*(?P<kind>ignore-file|ignore)\s*(?:\[(?P<rules>[^\]\n]{0,500})\])?\s*(?:[-:–—]\s*)?(?P<reason>.{0,500})"
)


class Suppression(NamedTuple):
    """One comment that silences rules."""

    comment: Comment
    rules: tuple[str, ...]
    """Names, codes or prefixes of codes; empty where the comment names none, which silences nothing."""
    reason: str
    whole_file: bool

    def silences(self, found: Located) -> bool:
        """Whether it is about that finding: its rule, and its line, the line above or the file."""
        if not any(selects(word, found.finding.rule, found.finding.code) for word in self.rules):
            return False
        if self.whole_file:
            return True
        lines = {mark.span.line for mark in found.marks} or {1}
        return self.comment.line + (1 if self.comment.alone else 0) in lines


def selects(word: str, name: str, code: str) -> bool:
    """Whether a word of the user's means that rule: its name, its code, or letters that its code begins with."""
    word = word.strip()
    return word == name or word.upper() == code or (word.isalpha() and word.isupper() and code.startswith(word))


def known_word(word: str, rules: Iterable[Rule]) -> bool:
    """Whether any rule is meant."""
    return any(selects(word, rule.name, rule.code) for rule in rules)


def suppressions_of(document: Document) -> tuple[Suppression, ...]:
    """Every such comment of a document."""
    found = []
    for comment in document.comments:
        match = _FORM.match(comment.text.strip())
        if match:
            rules = tuple(word.strip() for word in (match["rules"] or "").split(",") if word.strip())
            found.append(Suppression(comment, rules, match["reason"].strip(), match["kind"] == "ignore-file"))
    return tuple(found)


class Silence(NamedTuple):
    """The comments of a file that silence rules, for the rules about them."""

    all: tuple[Suppression, ...]
    unused: tuple[tuple[Suppression, str], ...]
    """Words whose rules were applied and found nothing there."""
    unknown: tuple[tuple[Suppression, str, str | None], ...]
    """Words that mean no rule, with the nearest name."""


Idle = tuple[tuple[Suppression, str], ...]


def apply_suppressions(findings: Iterable[Located], given: tuple[Suppression, ...]) -> tuple[tuple[Located, ...], Idle]:
    """Mark the findings that a comment silences; also the words of comments that silenced nothing."""
    used: set[tuple[int, str]] = set()
    marked = []
    for found in findings:
        reason = found.suppressed
        for number, suppression in enumerate(given):
            if suppression.silences(found):
                reason = suppression.reason if reason is None else reason
                used |= {
                    (number, word)
                    for word in suppression.rules
                    if selects(word, found.finding.rule, found.finding.code)
                }
        marked.append(found._replace(suppressed=reason))
    idle = tuple((s, word) for n, s in enumerate(given) for word in s.rules if (n, word) not in used)
    return tuple(marked), idle


def silence_of(given: tuple[Suppression, ...], idle: Idle, rules: Iterable[Rule], applied: Iterable[Rule]) -> Silence:
    """Idle words, told apart: those that mean no rule, and those whose rules were all applied."""
    import difflib

    rules, names = tuple(rules), {rule.name for rule in applied}
    unused, unknown = [], []
    for suppression, word in idle:
        meant = [rule for rule in rules if selects(word, rule.name, rule.code)]
        if not meant:
            near = difflib.get_close_matches(word, [r.name for r in rules], 1)
            unknown.append((suppression, word, near[0] if near else None))
        elif all(rule.name in names for rule in meant):
            unused.append((suppression, word))
    return Silence(given, tuple(unused), tuple(unknown))
