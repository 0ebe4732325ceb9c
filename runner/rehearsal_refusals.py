"""Why the installed libraries do not take a step, in a sentence, where the reason is known."""

from __future__ import annotations

from lora_advise.adapter_limits import refused
from lora_advise.adapters import targeted
from lora_advise.errors import LoraAdviseError, first_line
from lora_advise.facts import Facts, ModelFacts
from lora_advise.memory_case import length_of

BARE_WEIGHTS = ("mamba",)
"""Types whose mixers multiply by the bare weight of ``dt_proj`` (transformers 5.24: ``MambaMixer``), on either path."""


def check_rehearsable(facts: Facts) -> None:
    """Raise LoraAdviseError for a run of which it is known that its first step raises."""
    model = facts.model
    quantised = facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit)
    if model is not None and quantised and model.model_type in BARE_WEIGHTS:
        raise LoraAdviseError(
            f"--exact: {model.name} does not train on a 4-bit or 8-bit base: its mixers multiply by the bare weight of dt_proj, "
            "which raises once that is quantised; take --method lora."
        )


def refusal(facts: Facts, error: Exception) -> LoraAdviseError:
    """The sentence for what a library raised: the reason where it is known, else what it said."""
    why = _reason(facts, str(error)) if facts.model is not None else None
    if why is not None:
        return LoraAdviseError(f"--exact: this run would fail in its first step: {why}.")
    return LoraAdviseError(
        f"--exact: the installed libraries do not take this step on the meta device ({type(error).__name__}: "
        f"{first_line(error)}); leave --exact out for the closed form."
    )


def _reason(facts: Facts, said: str) -> str | None:
    model = facts.model
    if model is None:
        return None
    barred = _barred(facts, model)
    if barred:
        return f"{model.name} cannot have an adapter on {barred}; leave it out of lora.target_modules or exclude it"
    if "ParamWrapper does not work with lora_dropout" in said:
        return (
            "PEFT takes no dropout on fused experts, which lora.target_modules reaches; set lora.lora_dropout to 0, or name "
            "the attention layers alone"
        )
    length = length_of(facts, facts.train) if facts.train is not None else 0
    if model.max_position_embeddings and length > model.max_position_embeddings:
        return (
            f"its rows have {length} tokens, and {model.name} has {model.max_position_embeddings} positions; shorten "
            "train.max_length"
        )
    return None


def _barred(facts: Facts, model: ModelFacts) -> str:
    """Names of targeted modules on which an adapter raises."""
    chosen = targeted(model, facts.lora) if facts.lora is not None else ()
    return ", ".join(dict.fromkeys(module.name for module in refused(model, chosen)))
