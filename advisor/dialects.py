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
    "llamafactory-v1": ("dialect_llamafactory_v1", "LLAMAFACTORY_V1"),
    "trl": ("dialect_trl", "TRL"),
    "hf": ("dialect_arguments", "HF"),
    "ms-swift": ("dialect_swift", "SWIFT"),
    "swift-tools": ("dialect_swift", "SWIFT_TOOLS"),
    "megatron-swift": ("dialect_megatron", "MEGATRON"),
    "torchtune": ("dialect_torchtune", "TORCHTUNE"),
    "peft": ("dialect_peft", "PEFT"),
    "unsloth": ("dialect_unsloth", "UNSLOTH"),
    "unsloth-studio": ("dialect_unsloth_studio", "UNSLOTH_STUDIO"),
    "other": ("dialect_other", "OTHER"),
}
"""Each dialect's module, in the order in which they are asked; the earlier wins a draw."""
_PROGRAMS = {
    "unsloth": ("dialect_unsloth", "UNSLOTH"),
    "trl": ("dialect_program", "TRL_PROGRAM"),
    "hf": ("dialect_program", "HF_PROGRAM"),
}
"""Those that are written in Python, in the same order."""


def names() -> tuple[str, ...]:
    """What ``--dialect`` takes."""
    return tuple(_MODULES)


@cache
def dialect(name: str, shape: str = "") -> Dialect:
    """The dialect of that name, as it is in programs where ``shape`` is ``calls``. Raises LoraAdviseError for an unknown one."""
    if name not in _MODULES:
        raise LoraAdviseError(f"{name[:60]!r} is no dialect; choose one of {', '.join(_MODULES)}.")
    module, attribute = (_PROGRAMS if shape == "calls" and name in _PROGRAMS else _MODULES)[name]
    found: Dialect = getattr(import_module(f"lora_advise.{module}"), attribute)
    return found


def recognise(config: Config) -> Dialect | None:
    """The trainer with most keys of its own in the config; None where no trainer knows it.

    Only trainers that could know it are asked, so that one file costs the import of one or two; the last resorts only
    where nobody else does.
    """
    asked = _PROGRAMS if config.shape == "calls" else _MODULES
    keys = {str(entry.path[0]) for entry in config.entries}
    for names in ([n for n in asked if n not in _LAST], [n for n in asked if n in _LAST]):
        possible = [name for name in names if config.shape == "calls" or _possible(name, config, keys)]
        scores = {name: dialect(name, config.shape).recognise(config) for name in possible}
        best = max(scores, key=lambda name: scores[name], default=None)
        if best is not None and scores[best] > 0:
            return dialect(best, config.shape)
    return None


_LAST = ("hf", "other")
"""Asked last: their scores are 1 at most."""
_NEEDED: dict[str, tuple[str, ...]] = {
    "plan": ("version",), "axolotl": ("base_model", "adapter"),
    "llamafactory": ("finetuning_type", "lora_target", "stage", "cutoff_len", "export_dir"), "llamafactory-v1": ("train_dataset",),
    "trl": ("use_peft",), "ms-swift": ("dataset", "cached_dataset"), "swift-tools": (), "unsloth": (),
    "megatron-swift": ("dataset", "cached_dataset", "train"), "torchtune": ("optimizer",), "peft": ("peft_type",),
    "unsloth-studio": ("training",),
}  # fmt: skip
"""Keys of which a file must have one for that trainer to know it: conditions of its own ``recognise``."""
_NO_COMMAND = ("plan", "axolotl", "llamafactory-v1", "peft", "unsloth", "unsloth-studio")
"""Those that know files alone, no command lines."""


def _possible(name: str, config: Config, keys: set[str]) -> bool:
    if config.shape == "command":
        return name not in _NO_COMMAND
    return name in _LAST or any(key in keys for key in _NEEDED[name])


def same_idea(key: str, own: Dialect) -> str | None:
    """What this trainer calls a setting that others call ``key``; None where it has no such key or they mean different things."""
    mine = {_idea(lens.name): lens.key for lens in reversed(own.lenses)}
    ideas = set()
    for name in _MODULES:
        other = dialect(name)
        if other.name != own.name and name != "other":
            ideas |= {_idea(lens.name) for lens in other.lenses if key in (lens.key, *lens.former)}
    ways = {mine.get(idea) for idea in ideas}
    return ways.pop() if len(ways) == 1 else None


def _idea(name: str) -> str:
    """Whether a step or a lens makes the fact, it is one idea: ``train.max_length`` and ``max_length``."""
    return name.rpartition(".")[2]
