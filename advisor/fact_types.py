"""Whether a value is what a field of the facts holds, without pydantic: a lint of one file must not cost its import.

Only for values that a dialect has typed already; whole sections from outside go through :mod:`lora_advise.checked`.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lora_advise.section import AtLeast

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "nothing"}
HELD = "a number that float32 can hold"


def held(number: int | float) -> bool:
    """Whether float32 holds that number: to a trainer larger ones are infinite, smaller ones nothing; nor can they be calculated with."""
    return number == 0 or 1e-45 < abs(number) < 3.5e38


class MisfitError(Exception):
    """A value that the field cannot hold; the message is what it wants, such as ``a whole number of 1 or more``."""


def fitted(kind: Any, value: Any) -> Any:
    """The value as that type has it (3 as 3.0 where a float is wanted). Raises MisfitError."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *marks = get_args(kind)
        made = fitted(base, value)
        for mark in marks:
            if isinstance(mark, AtLeast) and made < mark.least:
                raise MisfitError(f"{_wanted(base)} of {mark.least:g} or more")
        return made
    if origin is Literal:
        if value not in get_args(kind):
            raise MisfitError(f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin in (Union, types.UnionType):
        return _any_of(get_args(kind), value)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise MisfitError("a list")
        return tuple(fitted(get_args(kind)[0], item) for item in value)
    if origin is dict:
        return _mapping(get_args(kind), value)
    return _plain(kind, value)


def _any_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return fitted(kind, value)
        except MisfitError:
            continue
    raise MisfitError(" or ".join(_wanted(kind) for kind in kinds if kind is not type(None)))


def _mapping(kinds: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise MisfitError("a mapping")
    return {fitted(kinds[0], name): fitted(kinds[1], item) for name, item in value.items()}


def _plain(kind: Any, value: Any) -> Any:
    if kind in (int, float) and isinstance(value, (int, float)) and not held(value):
        raise MisfitError(HELD)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
        return int(value)
    if kind in (bool, str, type(None)) and isinstance(value, kind):
        return value
    raise MisfitError(_wanted(kind))


def _wanted(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        return _wanted(get_args(kind)[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return "a list" if origin is tuple else _WORDS.get(kind, "another value")
