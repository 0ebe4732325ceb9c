"""The words of a shell script with their places: quotes, continued lines, expansions, arrays, here-documents, comments.

Nothing is expanded or executed here; :mod:`lora_advise.shell_script` puts literals in the place of variables.
"""

from __future__ import annotations

import re
from typing import Literal

from lora_advise.document import MAX_DEPTH, Comment
from lora_advise.document_places import Places
from lora_advise.errors import LoraAdviseError
from lora_advise.shell_quotes import ansi_end, closing, unescaped
from lora_advise.shell_tokens import Kind, Operator, Part, Word, moved

_Mode = Literal["word", "quotes", "braces", "quoted braces"]

_PLAIN: dict[_Mode, re.Pattern[str]] = {
    "word": re.compile(r"[^ \t\r\n;&|<>()\\'\"`$]+"),
    "quotes": re.compile(r"[^\"\\`$]+"),
    "braces": re.compile(r"[^}\\'\"`$]+"),
    "quoted braces": re.compile(r"[^}\"\\`$]+"),
}
_CLOSER: dict[_Mode, str] = {"word": "", "quotes": '"', "braces": "}", "quoted braces": "}"}
_BLANK = re.compile(r"(?:[ \t\r\ufeff]|\\\r?\n)+")
_REDIRECT = re.compile(r"&>>?|<<<|<<-?|>>|[<>]&|<>|>\||[<>](?!\()")
_OPERATOR = re.compile(r";;&|;;|;&|&&|\|\||\|&|[;&|()\n]")
_NAME = re.compile(r"\$([A-Za-z_]\w*|[0-9@*#?$!-])", re.ASCII)
_BRACED = re.compile(r"\$\{([A-Za-z_]\w*|[0-9@*]+)(\[[@*]\])?(?:\}|(:?[-=+?]))", re.ASCII)
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w./-]*>(?=[\s;\"']|$)")
_ASSIGNS = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)
_SIMPLE = re.compile(r"[A-Za-z0-9_./:,@%+~^-]+(?:=[A-Za-z0-9_./:,@%+~^=-]*)?(?=[ \t\n])")
MOST_WORDS = 100_000
"""Five times MAX_ENTRIES."""


class Lexer:
    """Reads tokens from ``start`` to ``end`` of a text, in time that grows with its length alone."""

    def __init__(self, places: Places, start: int = 0, end: int | None = None) -> None:
        self.places, self._base = places, start
        self.text = places.text[start:end]
        self.end = len(self.text)
        self.tokens: list[Word | Operator] = []
        self.comments: list[Comment] = []
        self._documents: list[tuple[str, bool]] = []
        self._after = ""
        self._test = False
        self._depth = self._written = self._made = position = 0
        while position < self.end:
            position = self._token(position)
            self._count(len(self.tokens), position)
        if start:
            self.tokens = [moved(token, start) for token in self.tokens]

    def _count(self, count: int, at: int) -> None:
        if count > MOST_WORDS:
            raise self._error(at, f"more than {MOST_WORDS:,} words by here, more than a script for a run has")

    def _error(self, at: int, said: str) -> LoraAdviseError:
        return self.places.error(self._base + at, said)

    def _token(self, at: int) -> int:
        if blank := _BLANK.match(self.text, at):
            return blank.end()
        if not self._after and (simple := _SIMPLE.match(self.text, at)):
            end = simple.end()
            self.tokens.append(Word(at, end, (Part("text", simple[0], at, end),)))
            return end
        if self.text[at] == "#":
            return self._comment(at)
        redirect = _REDIRECT.match(self.text, at)
        if redirect and not _PLACEHOLDER.match(self.text, at):
            return self._redirect(redirect[0], at)
        if found := None if redirect else _OPERATOR.match(self.text, at):
            return found.end() if self._test and found[0] != "\n" else self._operator(found[0], at)
        return self._word(at)

    def _operator(self, operator: str, at: int) -> int:
        self._after = ""
        if operator == "(" and self.text.startswith("((", at) and self._starts_command():
            return self._closing(at + 1, ")")
        self.tokens.append(Operator(operator, at))
        if operator == "\n":
            self._test = False
            return self._skip_documents(at + 1)
        return at + len(operator)

    def _starts_command(self) -> bool:
        last = self.tokens[-1] if self.tokens else None
        if isinstance(last, Word):
            return self.text[last.start : last.end] in ("for", "if", "while", "until", "then", "do", "else", "!")
        return last is None or last.text != ")"

    def _comment(self, at: int) -> int:
        end = self.text.find("\n", at)
        end = self.end if end < 0 else end
        line, column = self.places.at(self._base + at)
        alone = not self.places.line_of(self._base + at).strip(" \t\r\ufeff")
        self.comments.append(Comment(line, self.text[at + 1 : end].strip(), alone, column))
        return end

    def _redirect(self, operator: str, at: int) -> int:
        last = self.tokens[-1] if self.tokens else None
        if isinstance(last, Word) and last.end == at and self.text[last.start : at].isdecimal():
            self.tokens.pop()
        if not self._test:
            self._after = operator
        return at + len(operator)

    def _word(self, start: int) -> int:
        parts, at = self._parts(start, "word", start)
        items = None
        if len(parts) == 1 and self.text[at : at + 1] == "(" and _ASSIGNS.fullmatch(self.text, start, at):
            items, at = self._array(at)
        end = at if items is not None else self._written
        word = Word(start, end, tuple(parts), items)
        written = self.text[start:end]
        self._test = written == "[[" or (self._test and written != "]]")
        if self._after.startswith("<<") and self._after != "<<<":
            self._documents.append(("".join(p.text for p in parts), self._after == "<<-"))
        elif not self._after and end > start:
            self.tokens.append(word)
        self._after = ""
        return max(at, start + 1)

    def _array(self, start: int) -> tuple[tuple[Word, ...], int]:
        inner: list[Word] = []
        at = start + 1
        while at < self.end and self.text[at] != ")":
            blank = _BLANK.match(self.text, at)
            if blank or self.text[at] in "\n;&|<>(":
                at = blank.end() if blank else at + 1
            elif self.text[at] == "#":
                at = self._comment(at)
            else:
                parts, after = self._parts(at, "word", at)
                if parts:
                    inner.append(Word(at, self._written, tuple(parts)))
                at = max(after, at + 1)
        if at >= self.end:
            raise self._error(start, "this list's ( has no ), so a shell refuses the script; close it")
        return tuple(inner), at + 1

    def _parts(self, at: int, mode: _Mode, opened: int) -> tuple[list[Part], int]:
        """The parts up to the closing mark of the mode, and where that stands; of a word up to what ends it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(opened, f"quotes and braces are nested deeper than {MAX_DEPTH} levels")
        parts: list[Part] = []
        quoted, closer, written = mode.startswith("quote"), _CLOSER[mode], at
        while at < self.end:
            if plain := _PLAIN[mode].match(self.text, at):
                parts.append(Part("text", plain[0], at, plain.end(), quoted))
                at = written = plain.end()
                continue
            mark = self.text[at]
            if mark == closer or (mode == "word" and mark in " \t\r\n;&|()"):
                break
            count, after = len(parts), self._part(at, mode, quoted, parts)
            if after == at:
                break
            written = after if len(parts) > count else written
            at = after
        if closer and at >= self.end:
            kind = "quote" if closer == '"' else "brace"
            raise self._error(
                opened, f"the {kind} that opens here is never closed, so a shell refuses the script; close it"
            )
        self._depth -= 1
        self._made += len(parts)
        self._count(self._made, at)
        if mode == "word":
            self._written = written
        return parts, at

    def _part(self, at: int, mode: _Mode, quoted: bool, parts: list[Part]) -> int:
        """Add what begins with a mark; where it began when the mark ends the word."""
        mark = self.text[at]
        if mark == "\\":
            return self._escape(at, quoted, parts)
        if mark == "$":
            return self._dollar(at, mode, quoted, parts)
        if mark in "<>":
            return self._angle(at, parts)
        return self._unknown(at, self._closing(at + 1, "`"), quoted, parts) if mark == "`" else self._quotes(at, parts)

    def _angle(self, at: int, parts: list[Part]) -> int:
        """A ``<PLACEHOLDER>`` of a manual, or ``<(a command)``; anything else is a redirection and ends the word."""
        if found := _PLACEHOLDER.match(self.text, at):
            return self._unknown(at, found.end(), False, parts)
        if self.text.startswith("(", at + 1) and not parts:
            return self._unknown(at, self._closing(at + 2, ")"), False, parts)
        return at

    def _quotes(self, at: int, parts: list[Part]) -> int:
        if self.text[at] == '"':
            inner, end = self._parts(at + 1, "quotes", at)
            parts.extend(inner or [Part("text", "", at + 1, at + 1, quoted=True)])
            return end + 1
        end = self.text.find("'", at + 1)
        if end < 0:
            raise self._error(at, "the quote that opens here is never closed, so a shell refuses the script; close it")
        parts.append(Part("text", self.text[at + 1 : end], at + 1, end, quoted=True))
        return end + 1

    def _escape(self, at: int, quoted: bool, parts: list[Part]) -> int:
        after = self.text[at + 1 : at + 3]
        if after.startswith(("\n", "\r\n")):
            return at + (2 if after[0] == "\n" else 3)
        if not after or (quoted and after[0] not in '$`"\\'):
            parts.append(Part("text", "\\", at, at + 1, quoted))
            return at + 1
        parts.append(Part("text", after[0], at, at + 2, quoted, exact=False))
        return at + 2

    def _unknown(self, at: int, end: int, quoted: bool, parts: list[Part]) -> int:
        parts.append(Part("unknown", "", at, end, quoted))
        return end

    def _dollar(self, at: int, mode: _Mode, quoted: bool, parts: list[Part]) -> int:
        after = self.text[at + 1 : at + 2]
        if after == "(":
            return self._unknown(at, self._closing(at + 2, ")"), quoted, parts)
        if after == "{":
            return self._braced(at, mode, quoted, parts)
        if not quoted and after == "'":
            return self._ansi(at, parts)
        if not quoted and after == '"':
            return self._quotes(at + 1, parts)
        if name := _NAME.match(self.text, at):
            kind: Kind = "list" if name[1] in "@*" else "variable"
            parts.append(Part(kind, name[1], at, name.end(), quoted))
            return name.end()
        parts.append(Part("text", "$", at, at + 1, quoted))
        return at + 1

    def _braced(self, at: int, mode: _Mode, quoted: bool, parts: list[Part]) -> int:
        found = _BRACED.match(self.text, at)
        if not found or (found[2] and found[3]):
            return self._unknown(at, self._closing(at + 2, "}"), quoted, parts)
        kind: Kind = "list" if found[2] or found[1] in "@*" else "variable"
        end = found.end() - 1
        default: list[Part] = []
        if found[3]:
            default, end = self._parts(found.end(), "quoted braces" if mode.startswith("quote") else "braces", at)
        parts.append(Part(kind, found[1], at, end + 1, quoted, True, found[3] or "", tuple(default)))
        return end + 1

    def _ansi(self, at: int, parts: list[Part]) -> int:
        end = ansi_end(self.text, at + 2)
        if end < 0:
            raise self._error(at, "the quote that opens here is never closed, so a shell refuses the script; close it")
        raw = self.text[at + 2 : end]
        parts.append(Part("text", unescaped(raw), at + 2, end, True, "\\" not in raw))
        return end + 1

    def _closing(self, at: int, closer: str) -> int:
        end = closing(self.text, at, closer)
        if end < 0:
            raise self._error(
                at - 1,
                "the substitution that opens here is never closed, or nested too deep; close it, or write it simpler",
            )
        return end

    def _skip_documents(self, at: int) -> int:
        for delimiter, tabs in self._documents:
            indent = r"^\t*" if tabs else "^"
            found = re.compile(rf"{indent}{re.escape(delimiter)}\r?$", re.MULTILINE).search(self.text, at)
            at = min(found.end() + 1, self.end) if found else self.end
        self._documents.clear()
        return at
