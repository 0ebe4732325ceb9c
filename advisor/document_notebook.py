"""Jupyter notebooks that train: all code cells as one program, with places in the notebook's JSON. Nothing is executed."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import NamedTuple

from lora_advise.document import MAX_BYTES, MAX_ENTRIES, Comment, Document
from lora_advise.document_places import Places
from lora_advise.document_python import TOO_LARGE, read_calls
from lora_advise.errors import LoraAdviseError
from lora_advise.python_names import Program
from lora_advise.python_text import Code, NoPython, Piece, TooLarge, parse
from lora_advise.python_walk import Walk

MAX_NOTEBOOK = 16 * MAX_BYTES
"""Characters of a notebook with its outputs; its code has at most MAX_BYTES."""
MAX_CELLS = 10_000
MAX_NOTES = 20
_BLANK = re.compile(r"[ \t\n\r]*")
_RUNS = re.compile(r"[^\\]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.")
_MAGIC = re.compile(
    r"^(?P<before>[ \t]*(?:[A-Za-z_]\w*[ \t]*=[ \t]*)?)(?P<magic>[!%](?:[^\r\n\\]|\\(?:\r\n|[^\r\n]|[\r\n]))*|\?[^\r\n]*)"
    r"|^(?P<help>[ \t]*[\w.]+\?{1,2}[ \t]*)$",
    re.MULTILINE,
)
_OTHER_LANGUAGE = re.compile(r"\s*%%(?!(?:time|timeit|capture|prun|memit|python3?|py)\b)")
_DECODER = JSONDecoder()
_INDENTED = "if 1:\n"


class Cell(NamedTuple):
    """The code of a cell; pieces count from the cell's first character."""

    number: int
    text: str
    pieces: tuple[Piece, ...]


def read_notebook(text: str, name: str) -> Document:
    """The settings of a notebook: one config with the calls of all its cells.

    Cells that do not parse are left out, with a note. Raises LoraAdviseError for text that is no notebook.
    """
    text = text.lstrip("\ufeff")
    places = Places(text, name)
    if len(text) > MAX_NOTEBOOK:
        raise places.error(0, f"more than {MAX_NOTEBOOK:,} characters, so it is not read; clear its outputs")
    try:
        return _Reader(places).read(_Json(places).cells())
    except (RecursionError, TooLarge):
        raise places.error(0, TOO_LARGE) from None


class _Reader:
    """Puts cells behind one another as one program."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.notes: list[str] = []
        self.left_out = 0

    def read(self, cells: list[Cell]) -> Document:
        kept: list[tuple[ast.Module, int, int]] = []
        shown: list[str] = []
        pieces: list[Piece] = []
        at = 0
        starts: list[tuple[int, int]] = []
        for cell in cells:
            parsed = self._parsed(cell)
            if parsed is not None:
                code, tree = parsed
                shift = at + len(code) - len(cell.text)
                pieces += (piece._replace(code=piece.code + shift) for piece in cell.pieces)
                starts.append((at, cell.number))
                shown.append(code)
                kept.append((tree, at, at + len(code)))
                at += len(code) + 1
        return self._document(Code(self.places, "\n".join(shown), pieces, starts), kept)

    def _document(self, code: Code, kept: list[tuple[ast.Module, int, int]]) -> Document:
        program = Program()
        walk = Walk(program)
        comments: list[Comment] = []
        for tree, start, end in kept:
            ast.increment_lineno(tree, bisect_right(code.lines, start) - 1)
            walk.module(tree)
            comments += code.comments(start, end)
        if len(comments) > MAX_ENTRIES:
            raise self.places.error(0, f"more than {MAX_ENTRIES:,} comments, so this is no notebook; leave it out")
        if self.left_out > MAX_NOTES:
            self.notes.append(f"{self.left_out - MAX_NOTES} more cells are left out for the same reason.")
        config = read_calls(program, code, tuple(self.notes))
        return Document(self.places.name, self.places.text, "notebook", (config,), tuple(comments))

    def _parsed(self, cell: Cell) -> tuple[str, ast.Module] | None:
        """The cell's code as it was parsed, as long as the cell or with a line before it, and its tree."""
        if _OTHER_LANGUAGE.match(cell.text) or not cell.text:
            return None
        without = _MAGIC.sub(_blanked, cell.text)
        problem = None
        for code in dict.fromkeys((cell.text, without, _INDENTED + without)):
            try:
                return code, parse(code)
            except NoPython as error:
                problem = problem or error
        said = problem.said if problem else ""
        self.left_out += 1
        if self.left_out <= MAX_NOTES:
            self.notes.append(f"Cell {cell.number} is left out: Python 3 cannot parse it ({said}).")
        return None


def _blanked(match: re.Match[str]) -> str:
    """A name in place of a magic line, so that an indented one is still a statement and what it gives is unknown."""
    before = match["before"] or ""
    rest = match[0][len(before) :]
    rest = re.sub(r"[^\r\n]", " ", rest) if "\n" in rest or "\r" in rest else " " * len(rest)
    if match["help"]:
        indent = len(rest) - len(match[0].lstrip(" \t"))
        return rest[:indent] + "_" + rest[indent + 1 :]
    return before + "_" + rest[1:]


class _Json:
    """Finds the sources of code cells; everything else is skipped by the standard library's decoder."""

    def __init__(self, places: Places) -> None:
        self.places, self.text, self.at = places, places.text, 0
        self._length = 0

    def cells(self) -> list[Cell]:
        """The code cells. Raises LoraAdviseError for text that is no notebook."""
        found: list[Cell] | None = None
        try:
            for key in self._members():
                if key == "cells" and self._peek() == "[":
                    found = [cell for number, _ in enumerate(self._items(), 1) if (cell := self._cell(number))]
                else:
                    self._skip()
            self._space()
        except JSONDecodeError as error:
            raise self.places.error(error.pos, f"no JSON ({error.msg}); save the notebook again") from None
        except LoraAdviseError:
            raise
        except (RecursionError, MemoryError, ValueError):
            raise self.places.error(self.at, "JSON that cannot be read; save the notebook again") from None
        if found is None or self.at < len(self.text):
            raise self.places.error(0, "no notebook, for it has no list of cells; save it as nbformat 4")
        return found

    def _cell(self, number: int) -> Cell | None:
        """The cell at this place, None for one without code."""
        kind: object = None
        strings: list[tuple[int, int, str]] = []
        if self._peek() != "{":
            self._skip()
            return None
        for key in self._members():
            if key == "source" and self._peek() == '"':
                strings = [self._string()]
            elif key == "source" and self._peek() == "[":
                strings = []
                for _ in self._items():
                    if self._peek() == '"':
                        strings.append(self._string())
                    else:
                        self._skip()
            elif key == "cell_type" and self._peek() == '"':
                kind = self._string()[2]
            else:
                self._skip()
        if kind != "code":
            return None
        self._length += sum(len(value) for _, _, value in strings)
        if number > MAX_CELLS or self._length > MAX_BYTES:
            raise self.places.error(0, TOO_LARGE)
        return _cell_of(number, self.text, strings)

    def _members(self) -> Iterator[str]:
        """The keys of the object here; whoever asks goes past each value."""
        self._take("{")
        if self._peek() == "}":
            self.at += 1
            return
        while True:
            self._space()
            if self._peek() != '"':
                raise JSONDecodeError("a key in double quotes is missing", self.text, self.at)
            key = self._string()[2]
            self._take(":")
            yield key
            if self._peek() == "}":
                self.at += 1
                return
            self._take(",")

    def _items(self) -> Iterator[None]:
        """Stops at each item of the list here; whoever asks goes past it."""
        self._take("[")
        if self._peek() == "]":
            self.at += 1
            return
        while True:
            self._space()
            yield
            if self._peek() == "]":
                self.at += 1
                return
            self._take(",")

    def _peek(self) -> str:
        self._space()
        return self.text[self.at : self.at + 1]

    def _space(self) -> None:
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at

    def _take(self, mark: str) -> None:
        if self._peek() != mark:
            raise JSONDecodeError(f"{mark!r} is missing", self.text, self.at)
        self.at += 1

    def _string(self) -> tuple[int, int, str]:
        """Where the string here stands, inside of its quotes, and what it says."""
        start = self.at + 1
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return start, self.at - 1, value

    def _skip(self) -> None:
        self._space()
        _, self.at = _DECODER.raw_decode(self.text, self.at)


def _cell_of(number: int, text: str, strings: list[tuple[int, int, str]]) -> Cell:
    pieces: list[Piece] = []
    at = 0
    for start, end, value in strings:
        if end - start == len(value):
            pieces.append(Piece(at, start, len(value)))
        else:
            pieces += _runs(text, start, end, at)
        at += len(value)
    return Cell(number, "".join(value for _, _, value in strings), tuple(piece for piece in pieces if piece.length))


def _runs(text: str, start: int, end: int, at: int) -> Iterator[Piece]:
    """The pieces of a string with escapes."""
    for run in _RUNS.finditer(text, start, end):
        length = 1 if run[0][0] == "\\" else len(run[0])
        yield Piece(at, run.start(), length, len(run[0]) // length)
        at += length
