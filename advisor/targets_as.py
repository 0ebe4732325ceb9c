"""What "all linear layers" means to a trainer."""

from __future__ import annotations

import re

from lora_advise.facts import ModelFacts

_DEFAULTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("q_proj", "v_proj"): (
        "bart", "opt", "gptj", "gpt_neo", "llama", "llama4", "mistral", "mixtral", "stablelm", "gemma", "gemma2",
        "gemma3_text", "qwen2", "qwen3",
    ),
    ("query", "value"): ("bert", "roberta", "xlm-roberta", "electra", "layoutlm"),
    ("query_key_value",): ("bloom", "gpt_neox", "chatglm", "falcon", "RefinedWeb", "RefinedWebModel"),
    ("q", "v"): ("t5", "mt5"), ("c_attn",): ("gpt2", "gpt_bigcode"), ("Wqkv",): ("mpt",), ("qkv_proj",): ("codegen",),
    ("q_proj", "v_proj", "fc1", "fc2"): ("phi",), ("query_proj", "value_proj"): ("deberta-v2",), ("in_proj",): ("deberta",),
    ("q_proj", "k_proj", "v_proj", "o_proj"): ("nemotron_h",), ("c_proj", "c_attn"): ("btlm",),
    ("q", "v", "q_proj", "v_proj"): ("blip-2",), ("key", "value", "receptance", "output"): ("rwkv",),
    ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"): ("rwkv7",),
}  # fmt: skip
"""peft 0.21.2, ``TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING``, turned round: what it adapts when no module is named."""
_ENDS = ("embedding", "lm_head", "head", "vision", "audio", "projector")


def every_linear_but_experts(model: ModelFacts | None) -> tuple[str, ...] | str:
    """Every ``nn.Linear`` by its name, as Axolotl, LLaMA-Factory and ms-swift list them.

    Fused experts are parameters and no linear layers, so they are not in the list, unlike in PEFT's own ``all-linear``.
    """
    if model is None or not model.num_experts:
        return "all-linear"
    return every_linear_named(model)


def every_linear_named(model: ModelFacts, roles_left_out: tuple[str, ...] = _ENDS) -> tuple[str, ...]:
    """The names of every ``nn.Linear`` that has none of these roles."""
    return tuple(sorted({m.name for m in model.modules if m.kind == "linear" and m.role not in roles_left_out}))


def paths_of(model: ModelFacts, roles: tuple[str, ...]) -> str | None:
    """A pattern over the whole paths of all modules with these roles, as ``exclude_modules`` takes it; None without any."""
    paths = sorted({m.path for m in model.modules if m.role in roles})
    return "|".join(re.escape(path).replace(r"\*", "[^.]+") for path in paths) or None


def peft_default(model: ModelFacts | None) -> tuple[str, ...] | str | None:
    """The modules that PEFT adapts when none is named; None where the model is not known or PEFT refuses to choose."""
    if model is None:
        return None
    if model.model_type == "gemma4":
        return r".*language_model\..*\.(q_proj|v_proj)"
    return next((names for names, kinds in _DEFAULTS.items() if model.model_type in kinds), None)
