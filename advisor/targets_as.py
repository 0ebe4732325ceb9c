"""What "all linear layers" means to a trainer."""

from __future__ import annotations

from lora_advise.facts import ModelFacts

_ENDS = ("embedding", "lm_head", "head", "vision", "audio", "projector")


def every_linear_but_experts(model: ModelFacts | None) -> tuple[str, ...] | str:
    """Every ``nn.Linear`` by its name, as Axolotl, LLaMA-Factory and ms-swift list them.

    Fused experts are parameters and no linear layers, so they are not in the list, unlike in PEFT's own ``all-linear``.
    """
    if model is None or not model.num_experts:
        return "all-linear"
    return tuple(sorted({m.name for m in model.modules if m.kind == "linear" and m.role not in _ENDS}))
