"""Which training libraries are missing, found without importing any."""

from __future__ import annotations

from importlib.util import find_spec

NEEDED = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
"""Every training run imports these; bitsandbytes only a quantised one."""


def missing(*, quantised: bool = False) -> list[str]:
    """Names of the packages that a run needs and that are not installed."""
    return [name for name in (*NEEDED, *(("bitsandbytes",) if quantised else ())) if find_spec(name) is None]
