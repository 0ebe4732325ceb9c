"""The trainers whose files are read, and which of them wrote a config."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from lora_advise.dialect import Dialect
from lora_advise.document import Config
from lora_advise.errors import LoraAdviseError

_MODULES = {
    "plan": ("dialect_plan", "PLAN"),
    "axolotl": ("dialect_axolotl", "AXOLOTL"),
    "llamafactory": ("dialect_llamafactory", "LLAMAFACTORY"),
    "trl": ("dialect_trl", "TRL"),
    "hf": ("dialect_arguments", "HF"),
}
"""Each dialect's module, in the order in which they are asked; the earlier wins a draw."""


def names() -> tuple[str, ...]:
    """What ``--dialect`` takes."""
    return tuple(_MODULES)


@cache
def dialect(name: str) -> Dialect:
    """The dialect of that name. Raises LoraAdviseError for an unknown one."""
    if name not in _MODULES:
        raise LoraAdviseError(f"{name[:60]!r} is no dialect; choose one of {', '.join(_MODULES)}.")
    module, attribute = _MODULES[name]
    found: Dialect = getattr(import_module(f"lora_advise.{module}"), attribute)
    return found


def recognise(config: Config) -> Dialect | None:
    """The trainer with most keys of its own in the config; None where no trainer knows it."""
    scores = {name: dialect(name).recognise(config) for name in _MODULES}
    best = max(scores, key=lambda name: scores[name])
    return dialect(best) if scores[best] > 0 else None
