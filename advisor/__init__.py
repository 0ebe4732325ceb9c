"""lora-advise: settings for LoRA and QLoRA fine-tuning that will fit, learn and not diverge, with evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_advise.advising import advise as advise
    from lora_advise.plan import Advice as Advice
    from lora_advise.plan import Plan as Plan
    from lora_advise.plan_file import read_plan as read_plan
    from lora_advise.plan_file import write_plan as write_plan

__version__ = "0.1.0"
__all__ = ["Advice", "Plan", "__version__", "advise", "read_plan", "write_plan"]

_HOMES = {
    "advise": "advising",
    "Advice": "plan",
    "Plan": "plan",
    "read_plan": "plan_file",
    "write_plan": "plan_file",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, so that ``import lora_advise`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lora_advise' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lora_advise.{_HOMES[name]}"), name)
