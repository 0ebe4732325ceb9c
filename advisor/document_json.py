"""JSON files of other trainers: every setting with its place.

Python's ``json`` reads them, so NaN and Infinity are numbers and the last of two equal keys counts. ``//`` and ``/* */`` comments
are read too, as editors and DeepSpeed users write them; a trailing comma is an error that says so.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lora_advise.document import MAX_DEPTH, MAX_ENTRIES, Comment, Document
from lora_advise.document_places import Places
from lora_advise.document_tree import Budget, Node, Pair, config_of, too_deep
from lora_advise.plan_yaml import MAX_DIGITS
from lora_advise.report_words import plain

_BLANK = re.compile(r"[ \t\n\r]*")
_LINE_COMMENT = re.compile(r"//[^\n\r]*")
_LINE_END = re.compile(r"[ \t]*(?:[\n\r]|\Z)")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<rest>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![\w.+-])")
_WORD = re.compile(r"-?[A-Za-z_$][\w$]*")
_WORDS = {
    "true": True, "false": False, "null": None,
    "NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"),
}  # fmt: skip
_SEEN = re.compile(r"[\w$.+-]{1,40}|[^\x00-\x20]")
_HINTS = {"True": "true", "False": "false", "None": "null", "nan": "NaN", "inf": "Infinity"}


def read_json(text: str, name: str) -> Document:
    """The settings of a JSON file.

    Raises LoraAdviseError with line and column for text that is not JSON, or is larger than any config.
    """
    text = text.lstrip("\ufeff")
    reader = _Reader(Places(text, name))
    root = reader.whole()
    return Document(name, text, "json", (config_of(root, reader.budget),), tuple(reader.comments))


class _Reader:
    """Goes through the text once."""

    def __init__(self, places: Places) -> None:
        self.places, self.text, self.at = places, places.text, 0
        self.budget = Budget(places)
        self.comments: list[Comment] = []
        self._nodes = 0

    def whole(self) -> Node:
        self._skip()
        if self.at == len(self.text):
            raise self.places.error(self.at, "there is no JSON in it; write at least {}")
        root = self._value(0)
        self._skip()
        if self.at < len(self.text):
            raise self._wrong("the end of the file")
        return root

    def _skip(self) -> None:
        """Go on to what is neither blank nor comment."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            end = self._comment_end()
            if end is None:
                return
            if len(self.comments) >= MAX_ENTRIES:
                raise self.places.error(
                    self.at, f"more than {MAX_ENTRIES:,} comments, so this is no config; leave it out"
                )
            line, column = self.places.at(self.at)
            words = self.text[self.at + 2 : end].removesuffix("*/" if self.text[self.at + 1] == "*" else "").strip()
            alone = _LINE_END.match(self.text, end) is not None and not self.places.line_of(self.at).strip()
            self.comments.append(Comment(line, words, alone, column))
            self.at = end

    def _comment_end(self) -> int | None:
        found = _LINE_COMMENT.match(self.text, self.at)
        if found:
            return found.end()
        if not self.text.startswith("/*", self.at):
            return None
        end = self.text.find("*/", self.at + 2)
        if end < 0:
            raise self.places.error(self.at, "not readable as JSON: this comment has no end; write */ after it")
        return end + 2

    def _wrong(self, wanted: str) -> Exception:
        """The error for what stands here in place of what is wanted."""
        found = _SEEN.match(self.text, self.at)
        seen = plain(found[0]) if found else ""
        if self.at >= len(self.text):
            said = f"the file ends before {wanted}"
        elif seen in _HINTS:
            said = f"write {_HINTS[seen]} in place of {seen}"
        else:
            said = f"{wanted} should stand here, not {repr(seen) if seen else 'a control character'}"
        return self.places.error(self.at, f"not readable as JSON: {said}")

    def _value(self, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_ENTRIES + 1:
            self.budget.spend(self.at, MAX_ENTRIES + 1)
        if depth > MAX_DEPTH:
            raise too_deep(self.places, self.at)
        first = self.text[self.at : self.at + 1]
        if first == "{":
            return self._container("mapping", "}", depth)
        if first == "[":
            return self._container("list", "]", depth)
        return self._string() if first == '"' else self._bare()

    def _container(self, kind: Any, closing: str, depth: int) -> Node:
        node = Node(self.at, self.at, kind, [])
        self.at += 1
        self._skip()
        while not self.text.startswith(closing, self.at):
            node.content.append(self._pair(depth) if kind == "mapping" else self._value(depth + 1))
            self._skip()
            comma = self.at
            if self.text.startswith(",", comma):
                self.at += 1
                self._skip()
                if self.text.startswith(closing, self.at):
                    raise self.places.error(comma, f"not readable as JSON: remove the comma before {closing}")
            elif not self.text.startswith(closing, self.at):
                raise self._wrong(f"a comma or {closing}")
        self.at += 1
        node.end = self.at
        return node

    def _pair(self, depth: int) -> Pair:
        if not self.text.startswith('"', self.at):
            raise self._wrong("a key in double quotes")
        key = self._string()
        self._skip()
        if not self.text.startswith(":", self.at):
            raise self._wrong("a colon")
        self.at += 1
        self._skip()
        return Pair(key.content, key.start + 1, key.end - 1, self._value(depth + 1))

    def _string(self) -> Node:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self.places.error(
                self.at, "not readable as JSON: this text has no closing quote on its line, or a wrong escape (\\)"
            )
        written = found[0][1:-1]
        self.at = found.end()
        value = json.loads(found[0]) if "\\" in written else written
        return Node(found.start(), self.at, "scalar", value, True, written)

    def _bare(self) -> Node:
        found = _NUMBER.match(self.text, self.at)
        if found:
            whole = not found["rest"] and len(found[0]) <= MAX_DIGITS
            value: Any = int(found[0]) if whole else float(found[0])
        else:
            found = _WORD.match(self.text, self.at)
            if found is None or found[0] not in _WORDS:
                raise self._wrong("a value")
            value = _WORDS[found[0]]
        self.at = found.end()
        return Node(found.start(), self.at, "scalar", value, False, found[0])
