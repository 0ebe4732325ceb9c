"""Where numbers come from. Every value that a user sees cites ids of this registry."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

from lora_advise.package_data import read_json

SourceKind = Literal["paper", "measured", "code", "own", "convention", "seed", "vendor", "arithmetic"]


class Source(NamedTuple):
    """One registered source. ``read`` tells whether the primary text was read in full or only in part."""

    id: str
    kind: SourceKind
    title: str
    where: str
    says: str
    read: Literal["full", "part", "summary"]


@cache
def registry() -> dict[str, Source]:
    """All sources by id, in the order of the data file."""
    rows = read_json("sources.json")
    return {row["id"]: Source(**row) for row in rows}


def source(id: str) -> Source:
    """The source of that id. Raises KeyError for an id that is not registered: that is a bug of ours, tested for."""
    return registry()[id]
