"""Outside files as text with places: every setting, its value and where it stands, whatever the file's format.

A document holds one or more configs: a YAML or JSON file one, a shell script one for each command, a Python file or a
notebook one for all of its calls. Nothing of a document is executed. Readers are ``read_yaml`` and its siblings in
``document_*.py``; :func:`lora_advise.document_read.read_document` chooses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

Format = Literal["yaml", "json", "toml", "python", "notebook", "shell"]
Path = tuple[str | int, ...]
"""Keys from the outside in. In Python the first is the call (``LoraConfig``), in a command there is only the flag."""


class Span(NamedTuple):
    """A stretch of the document's text."""

    start: int
    end: int
    """Offsets in characters into ``Document.text``; the end is exclusive."""
    line: int
    column: int
    """Of the start, counted from 1, in the document's text (for a notebook: in its JSON)."""
    cell: int = 0
    """The notebook's cell, from 1; 0 elsewhere."""


class Unresolved(NamedTuple):
    """A value that stands only when the program runs: a variable without a literal, a call, ``${LR}`` without a default."""

    source: str
    """As written."""


class Entry(NamedTuple):
    """One setting. Lists and mappings have an entry of their own beside those of their items."""

    path: Path
    value: Any
    """None, bool, int, float, str, a tuple of values, a dict of values by name, or :class:`Unresolved`.

    A number in YAML 1.2's or Python's sense is a number (``3e-4`` too), whatever YAML 1.1 makes of it.
    """
    span: Span
    """Of the value; of the whole key or flag where there is no value."""
    key: Span | None = None
    """Of the key, flag or argument name; None for an item of a list and for a positional argument."""
    quoted: bool = False
    """Whether it stands in quotes: a number so written is text to most trainers."""
    text: str = ""
    """The value as written, without quotes (``3e-4``, ``1e-4``, ``True``); empty for lists and mappings."""
    via: Span | None = None
    """Where the literal stands when the setting itself is only a name bound to it (``lr = 2e-4 … learning_rate=lr``)."""


class Config(NamedTuple):
    """The settings of one run in a document."""

    shape: Literal["mapping", "command", "calls"]
    program: tuple[str, ...]
    """The words of a command before its first flag (``swift sft``, ``python train.py``); the modules that Python imports."""
    entries: tuple[Entry, ...]
    """In the order of the text. A setting that is given again later is in ``shadowed``, not here."""
    span: Span
    environment: tuple[tuple[str, str], ...] = ()
    """Variables set for a command."""
    shadowed: tuple[Entry, ...] = ()
    """Settings that a later one of the same name replaces."""
    notes: tuple[str, ...] = ()
    """What could not be read, a sentence each."""

    def get(self, *path: str | int) -> Entry | None:
        """The entry at that path."""
        return next((entry for entry in self.entries if entry.path == path), None)

    def under(self, *path: str | int) -> Iterator[Entry]:
        """Entries directly below that path."""
        return (e for e in self.entries if len(e.path) == len(path) + 1 and e.path[:-1] == path)


class Comment(NamedTuple):
    """A comment, without its mark, and the line that it stands on."""

    line: int
    text: str
    alone: bool
    """Whether nothing but the comment stands on its line."""
    column: int = 1


class Document(NamedTuple):
    """A file that was read."""

    name: str
    text: str
    format: Format
    configs: tuple[Config, ...]
    comments: tuple[Comment, ...] = ()


MAX_BYTES = 2**20
"""Larger files are refused, notebooks of up to 16 times as much excepted."""
MAX_DEPTH = 40
MAX_ENTRIES = 20_000


def span_at(text: str, start: int, end: int) -> Span:
    """The span of these offsets, with its line and column."""
    line = text.count("\n", 0, start) + 1
    return Span(start, end, line, start - (text.rfind("\n", 0, start) + 1) + 1)
