"""How reports spell values: numbers, bytes, sweep intervals, and text that comes from outside."""

from __future__ import annotations

import re
from typing import Any

from lora_advise.facts import GIB

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte."""


def plain(text: object) -> str:
    """The text on one line, without terminal escapes, control characters and direction overrides."""
    return _INVISIBLE.sub(" ", _ESCAPES.sub("", restored(str(text)))).strip()


def restored(text: str) -> str:
    """The text with the bytes that Python could not decode under an ASCII locale read as the UTF-8 that they are."""
    if not any("\udc80" <= c <= "\udcff" for c in text):
        return text
    return _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def number(value: float) -> str:
    """A number as a person writes it: 3e-4, 0.05, 2, 1,024."""
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and abs(value) < 0.01:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:g}"


def worded(value: Any) -> str:
    """Any value of a decision as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (tuple, list)):
        return ", ".join(worded(item) for item in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{plain(key)} {worded(item)}" for key, item in value.items()) or "none"
    return plain(value)


def sweep_words(field: str, sweep: tuple[Any, ...] | None) -> str:
    """The values worth trying: an interval for rates (two ends), else a list; empty where there are none."""
    if not sweep:
        return ""
    if len(sweep) == 2 and field.endswith("learning_rate"):
        return f"{worded(sweep[0])} to {worded(sweep[1])}"
    return ", ".join("off" if value is None else worded(value) for value in sweep)


def gib(count: float) -> str:
    """Bytes as GiB with three figures that matter: 0.04 GiB, 5.31 GiB, 21.6 GiB."""
    size = count / GIB
    return f"{size:.1f} GiB" if size >= 10 else f"{size:.2f} GiB"


def size(count: float) -> str:
    """Bytes of a file: 38.5 MiB, 1.63 GiB."""
    return gib(count) if count >= GIB else f"{count / 2**20:.3g} MiB"


def gib_band(band: tuple[int, int]) -> str:
    """A band of bytes in GiB: 16.2 to 17.9 GiB."""
    low, high = gib(band[0]), gib(band[1])
    return high if low == high else f"{low.removesuffix(' GiB')} to {high}"


def amount(count: float) -> str:
    """A large count with its unit: 950, 12.3 k, 4.1 M, 2.0 B."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= limit:
            scaled = count / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}"
    return f"{count:,.0f}"


def capital(text: str) -> str:
    """The text with its first letter raised."""
    return text[:1].upper() + text[1:]


def counted(count: float, noun: str) -> str:
    """A number with its noun: 1 example, 2,000 examples, 1 step."""
    return f"{number(count)} {noun}{'s' * (count != 1)}"
