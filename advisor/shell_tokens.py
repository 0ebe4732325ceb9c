"""What a shell script is made of: words, the parts that they have, and what stands between commands."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["text", "variable", "list", "unknown"]


class Part(NamedTuple):
    """A stretch of a word that is read in one way."""

    kind: Kind
    text: str
    """The text without quotes and escapes; the name of a variable or list; nothing of what only a shell knows."""
    start: int
    end: int
    """As written; of a text in quotes what lies between them."""
    quoted: bool = False
    exact: bool = True
    """Whether the text is written character by character as it is read."""
    operator: str = ""
    """``:-``, ``-``, ``:=``, ``=``, ``:+``, ``+``, ``:?`` or ``?`` of ``${NAME:-default}``."""
    default: tuple[Part, ...] = ()


class Word(NamedTuple):
    """A word as written; ``items`` are the words of ``NAME=(…)``."""

    start: int
    end: int
    parts: tuple[Part, ...]
    items: tuple[Word, ...] | None = None


class Operator(NamedTuple):
    """What ends a command: a newline or one of ``; & && || | ( ) ;;``."""

    text: str
    start: int


def moved(token: Word | Operator, by: int) -> Word | Operator:
    """The token of a text that begins ``by`` characters later."""
    if isinstance(token, Operator):
        return token._replace(start=token.start + by)
    items = None if token.items is None else tuple(_word_moved(item, by) for item in token.items)
    return _word_moved(token, by)._replace(items=items)


def _word_moved(word: Word, by: int) -> Word:
    return word._replace(start=word.start + by, end=word.end + by, parts=tuple(_part_moved(p, by) for p in word.parts))


def _part_moved(part: Part, by: int) -> Part:
    default = tuple(_part_moved(p, by) for p in part.default)
    return part._replace(start=part.start + by, end=part.end + by, default=default)
