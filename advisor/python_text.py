"""Python code and where its characters stand in the document: a file as it is, or the cells of a notebook one after the other."""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lora_advise.document import Comment, Span
from lora_advise.document_places import Places
from lora_advise.errors import LoraAdviseError

MAX_SOURCE = 120
"""Characters of an expression that are quoted."""
MAX_LINES = 100_000
"""Lines, and statements behind a semicolon; more would take seconds to parse."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_WIDE = re.compile(r"[^\x00-\x7f]")
_NO_CODE = re.compile(
    r"#[^\r\n]*"
    r'|"""(?:[^\\]|\\.)*?"""'
    r"|'''(?:[^\\]|\\.)*?'''"
    r'|"[^"\\\r\n]*(?:\\(?:\r\n|.)[^"\\\r\n]*)*"'
    r"|'[^'\\\r\n]*(?:\\(?:\r\n|.)[^'\\\r\n]*)*'",
    re.DOTALL,
)


class Piece(NamedTuple):
    """Characters of the code that stand in the document one after the other, each as ``width`` characters."""

    code: int
    raw: int
    length: int
    width: int = 1


class Code:
    """Code made of pieces of a document; what its nodes are in the document."""

    def __init__(
        self, places: Places, text: str, pieces: Iterable[Piece], cells: Iterable[tuple[int, int]] = ()
    ) -> None:
        self.places, self.text, self.pieces = places, text, tuple(pieces)
        self._cells = tuple(cells)
        """Offsets in the code at which cells begin, and their numbers."""
        self._piece_starts = [piece.code for piece in self.pieces]
        self._cell_starts = [start for start, _ in self._cells]
        self.lines = [0, *(match.end() for match in _LINE_END.finditer(text))]
        """Offsets at which Python's lines begin."""
        self._wide: dict[int, tuple[list[int], list[int]]] = {}

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Offset in the code at which a node begins."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Offset in the code at which a node ends."""
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)

    def span(self, start: int, end: int) -> Span:
        """The stretch of the document in which these characters of the code stand."""
        raw = self._raw(start)
        last = self._raw(end - 1)
        return self.places.span(raw[0], max(last[1], raw[0]))._replace(cell=self.cell(start))

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> Span:
        """The stretch of a node."""
        return self.span(self.start(node), self.end(node))

    def source(self, node: ast.expr | ast.stmt) -> str:
        """The expression as written, cut to :data:`MAX_SOURCE` characters."""
        start = self.start(node)
        return self.text[start : min(self.end(node), start + MAX_SOURCE)]

    def cell(self, offset: int) -> int:
        """The notebook's cell in which that character of the code stands; 0 in a file."""
        return self._cells[bisect_right(self._cell_starts, offset) - 1][1] if self._cells else 0

    def where(self, node: ast.expr | ast.stmt) -> str:
        """The node's place in words: ``Line 12``, ``Cell 3``."""
        cell = self.cell(self.start(node))
        return f"Cell {cell}" if cell else f"Line {self.of(node).line}"

    def error(self, node: ast.expr | ast.stmt, said: str) -> LoraAdviseError:
        """An error at that node."""
        return self.places.error(self.of(node).start, said)

    def comments(self, start: int = 0, end: int | None = None) -> Iterator[Comment]:
        """The comments between two offsets of the code."""
        for match in _NO_CODE.finditer(self.text, start, len(self.text) if end is None else end):
            if match[0][0] == "#":
                line, column = self.places.at(self._raw(match.start())[0])
                begin = self.lines[bisect_right(self.lines, match.start()) - 1]
                alone = not self.text[begin : match.start()].strip()
                yield Comment(line, match[0].lstrip("#").strip(), alone, column)

    def _raw(self, offset: int) -> tuple[int, int]:
        """Where a character of the code begins and ends in the document."""
        piece = self.pieces[bisect_right(self._piece_starts, offset) - 1]
        start = piece.raw + (min(offset - piece.code, piece.length)) * piece.width
        return start, start + piece.width

    def _offset(self, line: int, column: int) -> int:
        """Python counts columns in bytes of UTF-8."""
        start = self.lines[line - 1]
        if self.text.isascii():
            return start + column
        if line not in self._wide:
            stop = self.lines[line] if line < len(self.lines) else len(self.text)
            self._wide[line] = _wide_places(self.text[start:stop])
        ends, extra = self._wide[line]
        return start + column - extra[bisect_right(ends, column)]


def _wide_places(line: str) -> tuple[list[int], list[int]]:
    """Byte offsets behind each character beyond ASCII, and how many bytes more than characters there are by then."""
    ends, extra = [], [0]
    for match in _WIDE.finditer(line):
        more = len(match[0].encode("utf-8", "replace")) - 1
        ends.append(match.start() + extra[-1] + more + 1)
        extra.append(extra[-1] + more)
    return ends, extra


class TooLarge(Exception):  # noqa: N818 - it never leaves the readers
    """More lines, or statements and calls, than any script has."""


class NoPython(Exception):  # noqa: N818 - it never leaves the readers
    """Text that Python cannot parse: the line, from 1, and what Python says."""

    def __init__(self, line: int, said: str) -> None:
        self.line, self.said = line, said
        super().__init__(said)


def parse(code: str) -> ast.Module:
    """The syntax tree; nothing is executed and no warning printed. Raises NoPython, and TooLarge before the work is done."""
    if code.count("\n") + code.count("\r") + code.count(";") > MAX_LINES:
        raise TooLarge
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except SyntaxError as error:
            raise NoPython(error.lineno or 1, (error.msg or "invalid syntax")[:MAX_SOURCE]) from None
        except (RecursionError, MemoryError):
            raise NoPython(1, "too deeply nested") from None
        except ValueError:
            raise NoPython(1, "characters that no Python file can hold") from None
