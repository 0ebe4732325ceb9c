"""What a lint of files found: findings with their places, and everything that was not judged."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lora_advise.document import Document, Span
from lora_advise.finding import Finding


class Edit(NamedTuple):
    """Put ``text`` in place of the characters from ``start`` to ``end`` of the document."""

    start: int
    end: int
    text: str


class Fix(NamedTuple):
    """Edits that together mend a finding; safe when the training run stays the same."""

    words: str
    """What they do, as a clause: ``rename evaluation_strategy to eval_strategy``."""
    edits: tuple[Edit, ...]
    safe: bool


class Mark(NamedTuple):
    """A setting that a finding is about."""

    span: Span
    label: str
    """``learning_rate = 0.02, set by you``; ``lora_alpha = 16, Axolotl's default`` has no span of its own and no mark."""


class Located(NamedTuple):
    """A finding and where it is."""

    finding: Finding
    marks: tuple[Mark, ...]
    """The first is where it is reported; empty when nothing of the file shows it."""
    inherited: tuple[str, ...] = ()
    """Settings that the file does not make: ``lora_dropout = 0.0 is LLaMA-Factory's default``."""
    fixes: tuple[Fix, ...] = ()
    suppressed: str | None = None
    """The reason given for ignoring it; empty text where none is given."""
    config: int = 0
    """Which config of the document, from 0."""

    @property
    def line(self) -> int:
        """The line where it is reported; 1 when nothing of the file shows it."""
        return self.marks[0].span.line if self.marks else 1

    @property
    def column(self) -> int:
        """The column where it is reported."""
        return self.marks[0].span.column if self.marks else 1


class Skipped(NamedTuple):
    """A rule that was not applied, and what would have to be known: sections or fields of the facts."""

    rule: str
    missing: tuple[str, ...]


class FileReport(NamedTuple):
    """What was found in one file."""

    document: Document
    dialects: tuple[str, ...]
    """The trainer of each config: ``axolotl``, ``trl``, …"""
    findings: tuple[Located, ...] = ()
    """In the order of their lines, suppressed ones too."""
    hidden: tuple[Located, ...] = ()
    """Conventions, which ``--pedantic`` shows."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """What of the file could not be read or was assumed, a sentence each."""

    @property
    def shown(self) -> tuple[Located, ...]:
        """Findings that are not suppressed."""
        return tuple(found for found in self.findings if found.suppressed is None)


class Unread(NamedTuple):
    """A file that was not judged."""

    name: str
    kind: Literal["no config", "unreadable", "too large"]
    why: str


class LintReport(NamedTuple):
    """The whole answer of ``lora-advise lint``."""

    files: tuple[FileReport, ...]
    unread: tuple[Unread, ...] = ()
    """Files of a folder that are no fine-tuning config, and files that could not be read."""
