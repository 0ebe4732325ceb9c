"""The statements of three popular guides, each with our verdict, and the register of contradictions between sources."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

from lora_advise.package_data import read_json

Verdict = Literal["agree", "refine", "disagree", "unsupported"]


class Statement(NamedTuple):
    """One statement of a guide in our words, with our verdict in general."""

    id: str
    topic: str
    says: str
    verdict: Verdict
    reason: str
    sources: tuple[str, ...]


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = read_json("guides.json")
    return tables


@cache
def statements() -> dict[str, Statement]:
    """Every statement of the guides by id, in their order."""
    return {row["id"]: Statement(**{**row, "sources": tuple(row["sources"])}) for row in _tables()["statements"]}


def contradictions() -> tuple[dict[str, Any], ...]:
    """Where sources contradict each other: topic, one side, the other, our reading, source ids."""
    return tuple(_tables()["contradictions"])


def guide_of(statement: str) -> str:
    """The name of the guide that a statement's id belongs to."""
    name: str = _tables()["guides"][statement.split(".", 1)[0]]
    return name
