"""YAML for plan files: scalars that every YAML version reads alike, and a bounded reader that knows its lines.

The reader takes the core schema of YAML 1.2 (``no`` is a word, ``3e-4`` a number) and refuses what a plan never needs:
aliases, tags, repeated keys, deep nesting, several documents.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from lora_advise.errors import LoraAdviseError

MAX_BYTES = 2**20
MAX_DEPTH = 12
MAX_DIGITS = 19
"""Longer whole numbers are read as floats; no fact counts so far."""
Path = tuple[str | int, ...]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
_RESERVED = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"}
_UNSAFE = re.compile("[^\x20-\x7e\xa0-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def scalar(value: Any) -> str:  # noqa: PLR0911 - one return per type of YAML
    """One value on one line of YAML; floats are exact and read as numbers by YAML 1.1 and 1.2."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(scalar(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {scalar(item)}" for key, item in value.items()) + "}"
    raise LoraAdviseError(
        f"A plan cannot hold a value of type {type(value).__name__}; use numbers, text, lists or null."
    )


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise LoraAdviseError(f"A plan cannot hold {value}; every number must be finite.")
    text = repr(value)
    if "e" in text:
        mantissa, exponent = text.split("e")
        plain = format(value, ".10f").rstrip("0")
        if 1e-7 < abs(value) < 1 and float(plain) == value:
            return plain
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return text


def quoted(text: str) -> str:
    """Text as YAML: plain where no reader could take it for something else, else in double quotes."""
    if _WORD.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return _UNSAFE.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@dataclass(slots=True)
class Tree:
    """A document and the line of each of its keys and items (from 1)."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of the longest part of the path that the document has."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


def parse(text: str, name: str) -> Tree:
    """Read one document. Raises LoraAdviseError with name and line for everything that is refused."""
    import yaml

    tree = Tree()
    stack: list[_Open] = []
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise LoraAdviseError(f"{name} line {line}: a second document starts; keep one plan per file.")
            elif kind in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent", "AliasEvent"):
                _refuse(event, kind, name, line)
                _take(tree, stack, event, kind, name, line)
                if len(stack) > MAX_DEPTH:
                    raise LoraAdviseError(
                        f"{name} line {line}: nested deeper than {MAX_DEPTH} levels; a plan has at most 4."
                    )
            elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                stack.pop()
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, LoraAdviseError):
            raise
        raise LoraAdviseError(f"{name}: cannot be read as YAML; write it again with --emit.") from None
    return tree


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    path: Path
    content: dict[str, Any] | list[Any]
    key: str | None = None


def _refuse(event: Any, kind: str, name: str, line: int) -> None:
    if kind == "AliasEvent" or event.anchor is not None:
        raise LoraAdviseError(f"{name} line {line}: anchors and aliases (& and *) are not read; write the value out.")
    if event.tag not in (None, "!"):
        raise LoraAdviseError(f"{name} line {line}: tags such as {str(event.tag)[:40]!r} are not read; remove the tag.")


def _take(tree: Tree, stack: list[_Open], event: Any, kind: str, name: str, line: int) -> None:
    top = stack[-1] if stack else None
    if top is not None and isinstance(top.content, dict) and top.key is None:
        if kind != "ScalarEvent":
            raise LoraAdviseError(f"{name} line {line}: a key must be a word, not a list or mapping.")
        if event.value in top.content:
            raise LoraAdviseError(f"{name} line {line}: the key {event.value[:60]!r} is given twice; keep one of them.")
        top.key = event.value
        place = (*top.path, event.value)
        tree.lines[place] = line
        return
    value: Any = {} if kind == "MappingStartEvent" else [] if kind == "SequenceStartEvent" else _plain_value(event)
    path: Path = ()
    if top is None:
        tree.value = value
    elif isinstance(top.content, list):
        path = (*top.path, len(top.content))
        top.content.append(value)
        tree.lines[path] = line
    else:
        path = (*top.path, str(top.key))
        top.content[str(top.key)] = value
        top.key = None
    if kind != "ScalarEvent":
        stack.append(_Open(path, value))


def _plain_value(event: Any) -> Any:
    return core_value(event.value) if event.implicit[0] else event.value


def core_value(text: str) -> Any:
    """A scalar without quotes and tag in the core schema of YAML 1.2, but for numbers that are not decimal."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) <= MAX_DIGITS and _INT.fullmatch(text):
        return int(text)
    if len(text) <= 400 and _FLOAT.fullmatch(text):
        return float(text)
    return text


def _not_yaml(error: Any, name: str) -> LoraAdviseError:
    mark = getattr(error, "problem_mark", None)
    place = f" line {mark.line + 1}" if mark is not None else ""
    return LoraAdviseError(f"{name}{place}: not readable as YAML: {yaml_problem(error)}.")


def yaml_problem(error: Any) -> str:
    """What PyYAML says of text that it cannot read, as a clause."""
    return getattr(error, "problem", None) or getattr(error, "reason", None) or "it is malformed"
