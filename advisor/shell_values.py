"""What the text of a command's argument means to a program: a number, a truth value, JSON, a bracketed list, or text."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from lora_advise.document import MAX_DEPTH

_INT = re.compile(r"[+-]?\d+(?:_\d+)*", re.ASCII)
_FLOAT = re.compile(
    r"[+-]?(?:\d+(?:_\d+)*\.(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*|\d+(?:_\d+)*(?=[eE]))(?:[eE][+-]?\d+)?", re.ASCII
)
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NOTHING = ("None", "null")
_DIGITS = 100
"""Longer runs of digits are no setting but a name."""


def typed(text: str) -> Any:
    """The value of an argument.

    ``20_000`` and ``1e-5`` are numbers, ``[a,b]`` and ``["a"]`` tuples, ``{"a": 1}`` a dict; ``auto``, ``none``, ``no`` and
    comma lists stay text, and so does what is no valid JSON.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text in _NOTHING:
        return None
    if text[:1] in ("[", "{") and text[-1:] in ("]", "}"):
        return _structure(text)
    return _number(text)


def _number(text: str) -> Any:
    if len(text) > _DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _structure(text: str) -> Any:
    if _depth(text) > MAX_DEPTH:
        return text
    try:
        return _frozen(json.loads(text))
    except ValueError:
        inside = text[1:-1]
        if text[0] != "[" or text[-1] != "]" or any(mark in inside for mark in "[]{}"):
            return text
        return tuple(_item(item.strip()) for item in inside.split(",") if item.strip())


def _item(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return typed(text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in re.finditer(r"[\[\]{}]", text):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return {name: _frozen(item) for name, item in value.items()} if isinstance(value, dict) else value
