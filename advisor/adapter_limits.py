"""Modules that are treated apart: those on which an adapter of PEFT raises (peft 0.21.2, ``tuners/tuners_utils.py``), new heads."""

from __future__ import annotations

from lora_advise.facts import LinearModule, ModelFacts

_MAMBA_TYPES = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_MAMBA_REFUSED = ("out_proj", "conv1d")
"""Modules on which PEFT refuses LoRA in these types (``_check_lora_target_modules_mamba``): their fused kernels read the
bare weight, past the adapter."""

_TUPLE_ROUTERS = ("llama4", "phimoe")
"""Types whose router is an ``nn.Linear`` that returns several tensors (transformers 5.24: ``Llama4Router``, ``PhimoeTopKRouter``). PEFT
wraps it, and reads the dtype of what it returns: the first forward pass raises."""

_BLOCKWISE = {"deepseek_v4": ("o_a_proj",)}
"""Modules that are an ``nn.Linear`` with block-diagonal weights (transformers 5.24: ``DeepseekV4GroupedLinear``). PEFT adds the
product of a whole matrix to theirs: the first forward pass raises over its shape."""

NEW_HEADS = {
    "deberta": ("pooler", "classifier"),
    "deberta-v2": ("pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
}
"""Modules that transformers adds with random weights for sequence classification, where it is not just one layer."""
TORCHTUNE_PROJECTIONS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
"""What torchtune's ``lora_attn_modules`` may name, with transformers' names."""


def refused(model: ModelFacts, modules: tuple[LinearModule, ...]) -> tuple[LinearModule, ...]:
    """Those of the modules on which an adapter of PEFT raises, at once or in the first forward pass.

    Output projections of Mamba mixers, routers that return several tensors, block-diagonal matrices.
    """
    if model.model_type in _TUPLE_ROUTERS:
        return tuple(module for module in modules if module.role == "router" and module.kind == "linear")
    names = _MAMBA_REFUSED if model.model_type in _MAMBA_TYPES else _BLOCKWISE.get(model.model_type, ())
    return tuple(module for module in modules if module.name in names)
