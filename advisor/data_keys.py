"""The keys that each trainer knows, as its own code declares them."""

from __future__ import annotations

from functools import cache
from typing import Any

from lora_advise.package_data import read_json


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = read_json("trainer_keys.json")
    return found


def keys_of(trainer: str) -> frozenset[str]:
    """Top-level keys of that trainer; empty where they have not been written down."""
    return frozenset(_table().get(trainer, {}).get("keys", ()))


def version_of(trainer: str) -> str:
    """The version from which they were read."""
    return str(_table().get(trainer, {}).get("version", ""))
