"""The model that a config names: an id, a mirror's copy of it, or a local folder called after it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lora_advise import model_names as names
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import ModelFacts


def find_model(name: str) -> ModelFacts | None:
    """The facts of the model that a file names; None where nothing but a guess could tell. Looks into no network.

    A local path counts by its last part, and a copy under another owner by its name, since architecture decides here.
    """
    asked = name.strip().rstrip("/\\")
    if not asked or len(asked) > 300 or "$" in asked or "{" in asked:
        return None
    short = names.without_quantisation(asked.replace("\\", "/").rsplit("/", 1)[-1])
    if names.parse_size(short) is not None:
        return None
    return _local(asked) or _listed(asked, short)


def _local(asked: str) -> ModelFacts | None:
    """A folder with a config.json, where there is one on this machine."""
    from lora_advise.catalogue import resolve_model

    try:
        if not asked.startswith(("/", "./", "../", "~")) or not (Path(asked).expanduser() / "config.json").is_file():
            return None
        return resolve_model(asked)[0]
    except (OSError, ValueError, RuntimeError, LoraAdviseError):
        return None


def _listed(asked: str, short: str) -> ModelFacts | None:
    from lora_advise.catalogue import facts, index

    if asked in index():
        return facts(asked)
    found = _by_basename().get(short, ())
    return facts(found[0], asked) if found else None


@cache
def _by_basename() -> dict[str, tuple[str, ...]]:
    from lora_advise.catalogue import index

    found: dict[str, list[str]] = {}
    for model_id in index():
        found.setdefault(names.without_quantisation(model_id), []).append(model_id)
    return {name: tuple(sorted(ids, key=names.preference)) for name, ids in found.items()}
