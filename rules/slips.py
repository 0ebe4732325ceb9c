"""Slips of the pen in keys of scripts that nobody here knows: only what can hardly be a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_advise.document import Entry
from lora_advise.reading import Reading

_SHORTEST = 8
"""Shorter keys differ from each other by a letter too often."""


def slips(config: Reading) -> Iterator[tuple[Entry, str]]:
    """Settings whose keys are those of a usual setting but for a doubled, lost or swapped letter, with that key."""
    if config.dialect.known or config.config.shape == "calls":
        return
    known = {key for lens in config.dialect.lenses for key in (lens.key, *lens.former) if "." not in key}
    there = {str(entry.path[0]) for entry in config.config.entries}
    for entry in config.config.entries:
        key = str(entry.path[0]) if len(entry.path) == 1 else ""
        if len(key) < _SHORTEST or key in known:
            continue
        meant = [other for other in known if len(other) >= _SHORTEST and other not in there and is_slip(key, other)]
        if len(meant) == 1:
            yield entry, meant[0]


def is_slip(key: str, meant: str) -> bool:
    """Whether one is the other with a letter doubled, lost inside a word, or swapped with its neighbour.

    A letter at a word's end may be a plural, and an underscore a taste: neither is a slip.
    """
    if key == meant or key.replace("_", "") == meant.replace("_", ""):
        return False
    if len(key) == len(meant):
        odd = [n for n, (a, b) in enumerate(zip(key, meant, strict=True)) if a != b]
        return len(odd) == 2 and odd[1] == odd[0] + 1 and key[odd[0]] == meant[odd[1]] and key[odd[1]] == meant[odd[0]]
    if re.sub(r"(.)\1+", r"\1", key) == re.sub(r"(.)\1+", r"\1", meant):
        return True
    return len(key) + 1 == len(meant) and any(
        meant[:n] + meant[n + 1 :] == key and meant[n - 1] != "_" and meant[n + 1] != "_" and meant[n] != "_"
        for n in range(1, len(meant) - 1)
    )
