"""The documented run that every example of a rule starts from: Llama-3.1-8B, chat, LoRA r 16 on one 48 GiB GPU.

It is clean under every rule, so an example needs to say only what it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_advise.checked import checked
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LinearModule, ModelFacts, Role

BASELINE: dict[str, Any] = {
    "task": {"name": "chat", "family": "sft", "trainer": "sft"},
    "model": "llama-3.1-8b",
    "lora": {"r": 16, "lora_alpha": 32.0, "target_modules": "all-linear"},
    "quant": None,
    "train": {
        "learning_rate": 3e-4,
        "warmup_steps": 30,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 2.0,
        "max_length": 1024,
        "loss_on": "assistant",
        "eval_strategy": "epoch",
        "eval_share": 0.05,
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    },
    "data": {
        "examples": 10_000,
        "tokens_per_example": 400,
        "completion_tokens": 200,
        "p99_tokens": 1000,
        "max_tokens": 1020,
        "format": "messages",
    },
    "hardware": {
        "name": "NVIDIA L40S",
        "memory_gib": 44.5,
        "compute_capability": "8.9",
        "bf16": True,
        "flash_attention_2": True,
        "bitsandbytes_4bit": True,
    },
    "stack": {"framework": "trl", "sharding": "none"},
}
"""The sections of the documented run; ``model`` is a key of :data:`EXAMPLE_MODELS`."""


def example(overrides: Mapping[str, Any] | None = None) -> Facts:
    """The documented run with some facts replaced: nested mappings merge, ``null`` removes a section.

    Raises LoraAdviseError for a model that is not among the examples.
    """
    merged = _merge(BASELINE, overrides or {})
    if isinstance(merged["model"], str):
        name = merged["model"]
        if name not in EXAMPLE_MODELS:
            raise LoraAdviseError(
                f"model: {name[:60]!r} is no example model; choose one of {', '.join(EXAMPLE_MODELS)}."
            )
        merged["model"] = EXAMPLE_MODELS[name]
    return checked(Facts, merged)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _block(prefix: str, layers: int, hidden: int, kv: int, inner: int) -> tuple[LinearModule, ...]:
    """The seven matrices of a decoder block with gated MLP; shapes in features."""
    attention, mlp = f"{prefix}.layers.*.self_attn", f"{prefix}.layers.*.mlp"
    rows: tuple[tuple[str, int, int, Role], ...] = (
        (f"{attention}.q_proj", hidden, hidden, "attention"),
        (f"{attention}.k_proj", hidden, kv, "attention"),
        (f"{attention}.v_proj", hidden, kv, "attention"),
        (f"{attention}.o_proj", hidden, hidden, "attention"),
        (f"{mlp}.gate_proj", hidden, inner, "mlp"),
        (f"{mlp}.up_proj", hidden, inner, "mlp"),
        (f"{mlp}.down_proj", inner, hidden, "mlp"),
    )
    return tuple(LinearModule(path=p, d_in=i, d_out=o, count=layers, role=role) for p, i, o, role in rows)


def _ends(prefix: str, vocabulary: int, hidden: int, *, tied: bool) -> tuple[LinearModule, ...]:
    """Embedding and output head; a tied head has no weights of its own and is listed all the same."""
    embedding = LinearModule(
        path=f"{prefix}.embed_tokens", d_in=vocabulary, d_out=hidden, role="embedding", kind="embedding"
    )
    return embedding, *(() if tied else (LinearModule(path="lm_head", d_in=hidden, d_out=vocabulary, role="lm_head"),))


def _decoder(
    name: str, layers: int, hidden: int, kv: int, inner: int, *, tied: bool = False, prefix: str = "model", **more: Any
) -> ModelFacts:
    """A Llama-like decoder, its parameters counted from its shapes, plus whatever ``more`` changes."""
    vocabulary = 128_256
    modules = (
        *_block(prefix, layers, hidden, kv, inner),
        *_ends(prefix, vocabulary, hidden, tied=tied),
        *more.pop("extra", ()),
    )
    total = sum(m.weights for m in modules) + (2 * layers + 1) * hidden
    fields: dict[str, Any] = {
        "name": name, "model_type": "llama", "kind": "dense", "total_params": total, "active_params": total,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 128,
        "num_key_value_heads": kv // 128, "head_dim": 128, "intermediate_size": inner, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, "max_position_embeddings": 131_072, "modules": modules,
    }  # fmt: skip
    return ModelFacts(**(fields | more))


def _mixture() -> ModelFacts:
    """A mixture of 128 experts, 8 active, with attention, a linear router and fused expert parameters."""
    layers, hidden, inner = 48, 2048, 768
    attention = tuple(m for m in _block("model", layers, hidden, 512, inner) if m.role == "attention")
    experts = tuple(
        LinearModule(
            path=f"model.layers.*.mlp.experts.{name}",
            d_in=i,
            d_out=o,
            count=layers,
            role="expert",
            kind="parameter",
            experts=128,
        )
        for name, i, o in (("gate_up_proj", hidden, 2 * inner), ("down_proj", inner, hidden))
    )
    router = LinearModule(path="model.layers.*.mlp.gate", d_in=hidden, d_out=128, count=layers, role="router")
    modules = (*attention, router, *experts, *_ends("model", 151_936, hidden, tied=False))
    total = sum(m.weights for m in modules)
    active = sum(m.weights // (16 if m.role == "expert" else 1) for m in modules)
    return _decoder("example/mixture-30b", layers, hidden, 512, inner).changed(
        {
            "kind": "moe", "model_type": "qwen3_moe", "total_params": total, "active_params": active,
            "num_experts": 128,
            "num_experts_per_tok": 8, "modules": modules, "vocab_size": 151_936,
        }
    )  # fmt: skip


def _vision_language() -> ModelFacts:
    tower = tuple(
        LinearModule(path=f"model.visual.blocks.*.{name}", d_in=i, d_out=o, count=32, role="vision", bias=True)
        for name, i, o in (("attn.qkv", 1280, 3840), ("attn.proj", 1280, 1280), ("mlp.up_proj", 1280, 3420))
    )
    return _decoder(
        "example/vision-8b", 32, 4096, 1024, 14_336, prefix="model.language_model", extra=tower, kind="vlm",
        has_vision=True,
        model_type="qwen2_5_vl",
    )  # fmt: skip


def _hybrid() -> ModelFacts:
    mixers = tuple(
        LinearModule(path=f"model.layers.*.linear_attn.{name}", d_in=i, d_out=o, count=24, role="mixer")
        for name, i, o in (("in_proj_qkvz", 2560, 10_240), ("out_proj", 4096, 2560))
    )
    return _decoder(
        "example/hybrid-4b", 32, 2560, 512, 9216, extra=mixers, kind="hybrid", model_type="qwen3_next",
        recurrent_layers=24,
    )  # fmt: skip


def _state_space() -> ModelFacts:
    layers, hidden, vocabulary = 64, 2560, 50_280
    mixers = tuple(
        LinearModule(path=f"backbone.layers.*.mixer.{name}", d_in=i, d_out=o, count=layers, role="mixer")
        for name, i, o in (
            ("in_proj", 2560, 10_240),
            ("x_proj", 5120, 192),
            ("dt_proj", 160, 5120),
            ("out_proj", 5120, 2560),
        )
    )
    total = sum(m.weights for m in mixers) + vocabulary * hidden
    return ModelFacts(
        name="state-spaces/mamba-2.8b-hf", model_type="mamba", kind="ssm", total_params=total, active_params=total,
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=1, num_key_value_heads=1, head_dim=hidden,
        intermediate_size=2 * hidden, vocab_size=vocabulary, tie_word_embeddings=True, recurrent_layers=layers, modules=mixers,
    )  # fmt: skip


EXAMPLE_MODELS: dict[str, ModelFacts] = {
    "llama-3.1-8b": _decoder("meta-llama/Llama-3.1-8B-Instruct", 32, 4096, 1024, 14_336),
    "small": _decoder("meta-llama/Llama-3.2-1B-Instruct", 16, 2048, 512, 8192, tied=True),
    "large": _decoder("meta-llama/Llama-3.3-70B-Instruct", 80, 8192, 1024, 28_672),
    "short-context": _decoder("example/short-8b", 32, 4096, 1024, 14_336, max_position_embeddings=2048),
    "soft-capped": _decoder("example/soft-capped-9b", 32, 4096, 1024, 14_336, model_type="gemma2"),
    "stored-in-mxfp4": _decoder("example/mxfp4-8b", 32, 4096, 1024, 14_336, checkpoint_quantization="mxfp4"),
    "mixture-of-experts": _mixture(),
    "vision-language": _vision_language(),
    "hybrid": _hybrid(),
    "state-space": _state_space(),
}
"""Models that examples may name. Shapes are those of the published models, or of their kind where the name is
``example/``."""
