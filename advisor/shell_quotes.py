"""Where substitutions of a shell script end, and what the escapes of ``$'…'`` stand for."""

from __future__ import annotations

import re

from lora_advise.document import MAX_DEPTH

_INSIDE = re.compile(r"\\.|(?<=\s)#[^\n]*|['\"`()}]|\$[({]", re.DOTALL)
_PAIRS = {"(": ")", "$(": ")", "${": "}", '"': '"', "`": "`"}
_ANSI = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b", "E": "\x1b"}


def closing(text: str, at: int, closer: str) -> int:
    """After the mark that closes a substitution whose inside begins at ``at``; -1 when none does, or it is too deep."""
    stack = [closer]
    while stack:
        found = _INSIDE.search(text, at)
        if not found or len(stack) > MAX_DEPTH:
            return -1
        mark, top, at = found[0], stack[-1], found.end()
        if mark == top:
            stack.pop()
        elif mark == "'" and _quotes_count(stack):
            at = text.find("'", at) + 1 or len(text)
        elif _opens(mark, top):
            stack.append(_PAIRS[mark])
        elif mark[0] == "#" and top != ")":
            at = found.start() + 1
    return at


def _quotes_count(stack: list[str]) -> bool:
    """Whether a single quote quotes: within double ones it is a letter."""
    return stack[-1] == ")" or (stack[-1] == "}" and stack[-2:-1] != ['"'])


def _opens(mark: str, top: str) -> bool:
    if mark not in _PAIRS or top == "`":
        return False
    return mark in ("$(", "${", "`") if top == '"' else mark != "(" or top == ")"


def unescaped(raw: str) -> str:
    """What the inside of ``$'…'`` stands for."""
    return _ANSI.sub(_letter, raw)


def ansi_end(text: str, at: int) -> int:
    """Where the quote stands that closes a ``$'…'`` whose inside begins at ``at``; -1 when none does."""
    found = re.compile(r"(?:[^'\\]|\\.)*'", re.DOTALL).match(text, at)
    return found.end() - 1 if found else -1


def _letter(found: re.Match[str]) -> str:
    said = found[1]
    if said[0] in "xu" and len(said) > 1:
        return chr(int(said[1:], 16))
    return chr(int(said, 8) % 256) if said[0] in "01234567" else _LETTERS.get(said, said)
