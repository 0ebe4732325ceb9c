"""Versions of trainers and libraries that files beside a config pin: requirements, lock files, pyproject."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

LIBRARIES = {
    "transformers": "transformers", "trl": "trl", "peft": "peft", "torch": "torch", "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes", "axolotl": "axolotl", "llamafactory": "llamafactory", "llama-factory": "llamafactory",
    "unsloth": "unsloth", "unsloth-zoo": "unsloth_zoo", "ms-swift": "ms-swift", "torchtune": "torchtune", "deepspeed": "deepspeed",
}  # fmt: skip
"""Names of distributions, and the names under which rules look their versions up."""
MAX_BYTES = 2**20
_PIN = re.compile(r"^\s*[\"']?([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*==\s*([0-9][0-9A-Za-z.+!-]*)", re.MULTILINE)
_LOCKED = re.compile(r'^name = "([A-Za-z0-9_.-]+)"\s*\nversion = "([0-9][^"\n]{0,40})"', re.MULTILINE)


@lru_cache(maxsize=256)
def versions_beside(folder: Path) -> Mapping[str, str]:
    """Pinned versions by library, from the folder and then the one above; only ``==`` and locked versions count."""
    found: dict[str, str] = {}
    for place in (folder, folder.parent):
        for name, version in _pins(place):
            library = LIBRARIES.get(name.lower().replace("_", "-"))
            if library is not None:
                found.setdefault(library, version)
    return found


def _pins(folder: Path) -> Iterator[tuple[str, str]]:
    names = ("uv.lock", "poetry.lock", "pylock.toml", "pyproject.toml")
    files = [*sorted(folder.glob("requirements*.txt"))[:8], *(folder / name for name in names)]
    for path in files:
        try:
            if not path.is_file() or path.stat().st_size > 16 * MAX_BYTES:
                continue
            with path.open("rb") as file:
                text = file.read(16 * MAX_BYTES).decode("utf-8", errors="replace")
        except OSError:
            continue
        for match in (_LOCKED if path.suffix == ".lock" or path.name == "pylock.toml" else _PIN).finditer(text):
            yield match[1], match[2]
