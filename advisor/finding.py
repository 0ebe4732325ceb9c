"""What the linter says: findings, and the changes that would mend them."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from lora_advise.section import Section, stated


class Severity(str, Enum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Confidence(str, Enum):
    """How sure we are. Conventions are pedantic: hidden by default and counted."""

    FACT = "fact"
    MEASURED = "measured"
    CONVENTION = "convention"


class Change(NamedTuple):
    """Set ``field`` to ``value``. Safe only when the training run stays the same."""

    field: str
    value: Any
    safe: bool = False


class Rewrite(NamedTuple):
    """A setting of a file to be written otherwise: under another key, with another value, or not at all."""

    entry: Any
    """The setting (:class:`lora_advise.document.Entry`)."""
    words: str
    """What is done, as a clause: ``rename evaluation_strategy to eval_strategy``."""
    key: str | None = None
    value: Any = None
    drop: bool = False
    safe: bool = False


class Hit(NamedTuple):
    """What a rule yields: a whole sentence with the computed numbers, the fields to blame, the way out."""

    message: str
    fields: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    """All of them together mend it."""
    severity: Severity | None = None
    """Overrides the rule's severity, for rules that know two degrees."""
    step: int | None = None
    """Where in a training log it starts, for rules about a run."""
    instead: tuple[Change, ...] = ()
    """Another way out: these do it alone, in place of ``changes``."""
    rewrites: tuple[Rewrite, ...] = ()
    """For rules about a file: what to write otherwise in it."""


class Finding(NamedTuple):
    """A hit with its rule's name, code, severity, confidence and sources."""

    rule: str
    code: str
    severity: Severity
    confidence: Confidence
    message: str
    fields: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    sources: tuple[str, ...] = ()
    step: int | None = None
    instead: tuple[Change, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()

    @property
    def fix(self) -> str | None:
        """The changes that mend it, in words; None where no setting does."""
        ways = ["; ".join(map(in_words, way)) for way in (self.changes, self.instead) if way]
        if self.rewrites:
            ways.insert(0, "; ".join(rewrite.words for rewrite in self.rewrites))
        return ", or ".join(ways) or None


def in_words(change: Change) -> str:
    """The change as a person types it; a whole adapter, where there was none, is another method."""
    if isinstance(change.value, Section):
        return f"method = lora ({', '.join(f'{name} = {value}' for name, value in stated(change.value).items())})"
    return f"{change.field} = {change.value}"
