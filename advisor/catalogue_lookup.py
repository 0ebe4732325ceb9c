"""The model that a config names: an id, a mirror's copy of it, or a local folder called after it."""

from __future__ import annotations

import re
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
    found = _by_basename().get(short) or _by_squeezed().get(_squeezed(short)) or ()
    if not found:
        return None
    return facts(found[0], asked).changed({"checkpoint_quantization": stored_by_name(asked, found[0])})


def _squeezed(name: str) -> str:
    """One word, without what copies leave out: separators, the maker's name before, ``hf`` after."""
    return names.squeezed(name).removesuffix("hf")


@cache
def _by_squeezed() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for short, ids in _by_basename().items():
        found.setdefault(_squeezed(short), []).extend(ids)
    return {name: tuple(sorted(ids, key=names.preference)) for name, ids in found.items()}


_FORMATS = (
    (re.compile(r"-bnb-[48]bit$", re.IGNORECASE), "bitsandbytes"), (re.compile(r"-awq$", re.IGNORECASE), "awq"),
    (re.compile(r"-gptq|-int[48]$", re.IGNORECASE), "gptq"), (re.compile(r"-fp8$", re.IGNORECASE), "fp8"),
    (re.compile(r"-(bf16|fp16)$", re.IGNORECASE), None),
)  # fmt: skip
"""How a copy is stored, by the end of its name; None: in 16 bits."""


def stored_by_name(asked: str, known: str) -> str | None:
    """How that copy is stored: by the end of its name, else as the catalogue's model is."""
    from lora_advise.model_kernels import STORED

    return next((form for shape, form in _FORMATS if shape.search(asked)), STORED.get(known))


@cache
def _by_basename() -> dict[str, tuple[str, ...]]:
    from lora_advise.catalogue import index

    found: dict[str, list[str]] = {}
    for model_id in index():
        found.setdefault(names.without_quantisation(model_id), []).append(model_id)
    return {name: tuple(sorted(ids, key=names.preference)) for name, ids in found.items()}
