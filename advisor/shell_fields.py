"""Arguments as a program would get them, made of pieces that say where each stretch stands in the script."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=", re.ASCII)
FLAG = re.compile(r"--?[A-Za-z_][^\s=]*(?:=|$)")


class Piece(NamedTuple):
    """A stretch of an expanded word and the place that a reader should look at."""

    text: str
    start: int
    end: int
    exact: bool = True
    """Whether the text stands there character by character."""
    quoted: bool = False
    known: bool = True
    via: tuple[int, int] | None = None
    """Where the literal stands when a variable's name is written here."""
    splits: bool = False
    """Whether blanks in it separate arguments: the text of a variable without quotes."""


class Field(NamedTuple):
    """An argument as a program would get it."""

    pieces: tuple[Piece, ...]
    start: int
    end: int
    via: tuple[int, int] | None = None
    """Where the literal stands when the whole argument is one variable."""
    many: bool = False
    """Whether it may be any number of arguments: a list, or a variable without quotes of which nothing is known."""
    listed: bool = False
    """Whether it is a list (``"$@"``, ``"${ARGS[@]}"``) of which nothing is known."""

    @property
    def text(self) -> str:
        """Without quotes; what is unknown is left out."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def known(self) -> bool:
        """Whether all of it is."""
        return all(piece.known for piece in self.pieces)

    @property
    def quoted(self) -> bool:
        """Whether all of it stands in quotes."""
        return bool(self.pieces) and all(piece.quoted for piece in self.pieces)

    @property
    def flag(self) -> bool:
        """Whether it begins like ``--name``; a negative number does not."""
        return bool(self.pieces) and self.pieces[0].known and bool(FLAG.match(self.text))


class Value(NamedTuple):
    """What a variable holds; ``items`` are those of an array."""

    pieces: tuple[Piece, ...]
    start: int = 0
    end: int = 0
    items: tuple[Field, ...] | None = None
    known: bool = True

    def same(self, other: Value) -> bool:
        """Whether both hold the same known text."""
        if not (self.known and other.known) or (self.items is None) != (other.items is None):
            return False
        mine, others = ((field_of(v.pieces), *(v.items or ())) for v in (self, other))
        return [(f.text, f.known) for f in mine] == [(f.text, f.known) for f in others] and all(f.known for f in mine)


UNKNOWN = Value((), known=False)


def field_of(pieces: tuple[Piece, ...], many: bool = False) -> Field:
    """The argument that these pieces make, where they stand."""
    if not pieces:
        return Field((), 0, 0)
    first, last = pieces[0], pieces[-1]
    ordered = all(a.end <= b.start for a, b in itertools.pairwise(pieces))
    via = first.via if len(pieces) == 1 else None
    return Field(pieces, first.start, last.end if ordered else first.end, via, many and not first.known)


def arguments_in(field: Field) -> list[Field]:
    """The arguments of a string that is run as a command, without regard to quotes within it."""
    return split([piece._replace(quoted=False, splits=True) for piece in field.pieces], many=False)


def split(pieces: list[Piece], *, many: bool) -> list[Field]:
    """The arguments that these pieces make; ``many``: they are a variable of which nothing may be known."""
    fields: list[Field] = []
    current: list[Piece] = []
    for piece in pieces:
        if not piece.splits or not piece.known:
            current.append(piece)
            continue
        for found in re.finditer(r"\s+|\S+", piece.text):
            if not found[0].isspace():
                current.append(_part_of(piece, found))
            elif current:
                fields.append(field_of(tuple(current), many))
                current = []
    return [*fields, field_of(tuple(current), many)] if current else fields


def _part_of(piece: Piece, found: re.Match[str]) -> Piece:
    if not piece.exact:
        return piece._replace(text=found[0])
    return piece._replace(text=found[0], start=piece.start + found.start(), end=piece.start + found.end())
