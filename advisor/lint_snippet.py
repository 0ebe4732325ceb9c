"""Lines of an outside file as a terminal can show them, with carets below the settings that a finding is about."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from rich.cells import cell_len

from lora_advise.document import Document, Span
from lora_advise.lint_places import line_at

CONTEXT = 2
"""Lines before and after the one that is reported."""
WIDEST = 160
"""Terminal cells of a line that are shown."""
_CUT = "..."
_TAB = "    "


class Row(NamedTuple):
    """One row of a snippet."""

    kind: Literal["code", "gap", "first", "other"]
    """A line of the file; lines left out; carets below the first setting, or below another."""
    number: int
    """Of the line."""
    text: str
    mark: int = -1
    """For carets: which of the spans they point at."""


class _Window(NamedTuple):
    left: int
    right: int


Fits = Callable[[str], str]
"""A character in the characters that the terminal has."""


def snippet(document: Document, spans: tuple[Span, ...], width: int, fits: Fits = str) -> Iterator[Row]:
    """Rows of at most ``width`` terminal cells for these spans; the first has lines of context around it.

    A notebook's lines are JSON, so that those around would tell nothing.
    """
    width = max(20, min(width, WIDEST))
    context = 0 if document.format == "notebook" else CONTEXT
    lines = _around(document.text, spans[0], context)
    for span in spans[1:]:
        lines.setdefault(span.line, line_at(document.text, span.start))
    before = None
    for number in sorted(lines):
        if before is not None and number > before + 1:
            yield Row("gap", number, _CUT)
        before = number
        yield from _rows(document.text, number, lines[number], spans, width, fits)


def _around(text: str, span: Span, context: int) -> dict[int, tuple[int, int]]:
    """The bounds of the span's line and of those around it, by number; a last line that is empty is none."""
    found = {span.line: line_at(text, span.start)}
    start = found[span.line][0]
    for number in range(span.line - 1, max(0, span.line - 1 - context), -1):
        bounds = found[number] = line_at(text, start - 1)
        start = bounds[0]
    offset = text.find("\n", span.start)
    for number in range(span.line + 1, span.line + 1 + context):
        if offset < 0 or offset + 1 >= len(text):
            break
        found[number] = line_at(text, offset + 1)
        offset = text.find("\n", offset + 1)
    return found


def _rows(
    text: str, number: int, bounds: tuple[int, int], spans: tuple[Span, ...], width: int, fits: Fits
) -> Iterator[Row]:
    start, end = bounds
    here = [(place, span) for place, span in enumerate(spans) if span.line == number]
    anchor = min(max(here[0][1].start, start), end) if here else start
    window = _window(text, bounds, anchor, width, fits)
    lead = _CUT if window.left > start else ""
    line = lead + visible(text[window.left : window.right], fits) + (_CUT if window.right < end else "")
    yield Row("code", number, line.rstrip())
    for place, span in here:
        if window.left <= span.start <= window.right:
            indent = cell_len(lead + visible(text[window.left : span.start], fits))
            length = cell_len(visible(text[span.start : max(span.start, min(span.end, window.right))], fits))
            carets = ("-" if place else "^") * max(1, min(length, width - indent))
            yield Row("other" if place else "first", number, " " * indent + carets, place)


def _window(text: str, bounds: tuple[int, int], anchor: int, width: int, fits: Fits) -> _Window:
    """The part of a line to show: all of it, or what fits around the anchor, a third of the room before it."""
    start, end = bounds
    if end - start <= width and cell_len(visible(text[start:end], fits)) <= width:
        return _Window(start, end)
    left, room = anchor, (width - 2 * len(_CUT)) // 3
    while left > start and (room := room - _cells(text[left - 1], fits)) >= 0:
        left -= 1
    right, room = left, width - 2 * len(_CUT)
    while right < end and (room := room - _cells(text[right], fits)) >= 0:
        right += 1
    return _Window(left, right)


def _cells(char: str, fits: Fits) -> int:
    return max(1, cell_len(visible(char, fits)))


def visible(text: str, fits: Fits = str) -> str:
    """The text without anything that a terminal obeys: tabs as spaces, what cannot be seen as question marks."""
    return "".join(c if c.isascii() and c.isprintable() else _TAB if c == "\t" else _shown(c, fits) for c in text)


def _shown(char: str, fits: Fits) -> str:
    if "\ufe00" <= char <= "\ufe0f":
        return ""  # chooses a glyph, and terminals disagree about the width that it then has
    seen = char.isprintable() or unicodedata.category(char) == "Zs"
    return fits(char) if seen else "?"
