"""The report for machines: the advice as versioned JSON, with the values that follow from it."""

from __future__ import annotations

from math import sqrt

from lora_advise.facts import Facts, Method
from lora_advise.plan import Advice
from lora_advise.section import Section, to_data


class Derived(Section):
    """Values that follow from the facts, so that a reader need not know the formulas."""

    method: Method
    effective_batch: int | None
    """Sequences per optimizer step: micro-batch x accumulation x data-parallel devices."""
    optimizer_steps: int | None
    scale: float | None
    """alpha/r, or alpha/sqrt(r) with rsLoRA."""
    alpha_eff: float | None
    """scale x r."""
    e2: float | None
    """learning rate x sqrt(alpha_eff): equal values learn about equally fast."""


def derived(facts: Facts) -> Derived:
    """The derived values of one set of facts; ``None`` where a section is missing."""
    lora, train = facts.lora, facts.train
    known = lora is not None and train is not None and lora.alpha_eff >= 0
    return Derived(
        method=facts.method,
        effective_batch=facts.effective_batch,
        optimizer_steps=facts.optimizer_steps,
        scale=lora.scale if lora else None,
        alpha_eff=lora.alpha_eff if lora else None,
        e2=train.learning_rate * sqrt(lora.alpha_eff) if known and lora and train else None,
    )


def render(advice: Advice) -> str:
    """The advice as JSON text; its schema is :func:`lora_advise.schema.advice_schema`."""
    import json

    content = {**to_data(advice), "derived": to_data(derived(advice.facts))}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
