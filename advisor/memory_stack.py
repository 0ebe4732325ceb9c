"""Which libraries' behaviour a memory forecast assumes: precision, adapter dtype, loss head, expert kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lora_advise.facts import Facts

Mode = Literal["amp", "no-amp", "bf16", "nf4", "kbit", "kbit-amp"]
Loss = Literal["tiled", "full", "liger", "chunked", "adaptive", "none"]

BF16_ADAPTERS = ("torchtune", "litgpt")
"""Frameworks that make adapters in the model's dtype (memory model, section 3); PEFT itself makes them fp32."""

NO_AUTOCAST = ("peft", "torchtune", "litgpt")
"""Hand-written loops: no accelerate, so no bf16 autocast around the model."""

TITLES = {
    "trl": "TRL 1.16", "transformers": "HF Trainer", "peft": "PEFT loop", "unsloth": "Unsloth", "axolotl": "Axolotl",
    "llamafactory": "LLaMA-Factory", "ms-swift": "ms-swift", "torchtune": "torchtune", "litgpt": "LitGPT",
}  # fmt: skip
"""Frameworks as people write them."""

LIBRARIES = {
    "trl": "transformers 5.23, PEFT 0.21, bitsandbytes 0.50", "unsloth": "unsloth_zoo 2026.8.13", "axolotl": "0.18",
    "llamafactory": "0.9.6.dev", "ms-swift": "4.6", "torchtune": "0.7, torchao",
}  # fmt: skip
"""The versions whose code was read."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The branch of the libraries that is forecast. ``mode`` selects the coefficients of the layers."""

    name: str
    mode: Mode
    adapter_bytes: int
    loss: Loss
    logit_bytes: int = 12
    """Bytes per token and vocabulary entry at the peak of an unfused loss: 12 since transformers 4.49 (log-softmax
    backward: output, gradient, result in fp32), 14 in 4.46 to 4.48, 16 with an fp32 head (memory model, section 6)."""
    embedding_bytes: int = 2
    norm_bytes: int = 2
    residual_bytes: int = 2
    """4 where ``prepare_model_for_kbit_training`` made norms or embeddings fp32: the whole residual stream follows."""
    experts: Literal["grouped", "loop"] = "grouped"
    """transformers 5 computes all experts' tokens in one grouped matrix product; transformers 4 looped over experts."""
    saves_inputs: bool = False
    """bitsandbytes before 0.43.2 kept the input of every 4-bit matrix for the backward pass."""
    offloads_checkpoints: bool = False
    """Layer inputs wait in host memory; two buffers and the last layer's input stay on the device."""
    extra: int = 0
    """Bytes kept besides: RoPE caches of every layer before transformers 4.43, outputs held by a hand-written loop."""


def stack_of(facts: Facts, framework: str | None = None) -> Stack:
    """The named stack with its defaults; ``framework`` replaces the one of the facts.

    TRL 1.16: ``bf16=True`` unless fp16, hence autocast; adapters of a quantised base are cast to bf16
    (``sft_trainer.py``), others stay fp32 as PEFT makes them, but bf16 under ZeRO-3; SFT, DPO, KTO, GRPO and RLOO use
    the tiled loss head ``add_fused_lm_head``; the experimental ORPO and CPO trainers materialise all logits.
    HF Trainer: a QLoRA script as PEFT's documentation writes it, with ``prepare_model_for_kbit_training``.
    Axolotl calls that too and casts norms and embeddings back (``loaders/model.py``); LLaMA-Factory does not call it.
    Unsloth: fp32 adapters (``training_utils.py``), layer inputs in host memory (``gradient_checkpointing.py``), a loss in
    chunks that follow the free memory. torchtune: everything in bf16, the loss in eight chunks.
    """
    framework = framework or (facts.stack.framework if facts.stack else "trl")
    stack = Stack(
        name=_name(facts, framework),
        mode=_mode(facts, framework),
        adapter_bytes=_adapter_bytes(facts, framework),
        loss=_loss(facts, framework),
        offloads_checkpoints=framework == "unsloth",
    )
    if facts.train is not None and facts.train.dtype == "float32":
        return replace(stack, embedding_bytes=4, norm_bytes=4, residual_bytes=4)
    if stack.mode.startswith("kbit"):
        return replace(stack, embedding_bytes=4, norm_bytes=4, residual_bytes=4)
    return stack


def _name(facts: Facts, framework: str) -> str:
    title, versions = TITLES.get(framework, framework), facts.stack.versions if facts.stack else {}
    if versions and facts.stack is not None and facts.stack.framework == framework:
        return f"{title} (" + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())[:4]) + ")"
    if framework in ("transformers", "peft"):
        return f"{title}, {LIBRARIES['trl']}"
    return f"{title}, {LIBRARIES[framework]}" if framework in LIBRARIES else title


def _mode(facts: Facts, framework: str) -> Mode:
    autocast = framework not in NO_AUTOCAST
    if facts.method == "qlora":
        # FSDP flattens a layer's parameters, which must be of one dtype: nothing can be cast up.
        if framework in ("transformers", "peft") and (facts.stack is None or facts.stack.sharding != "fsdp"):
            return "kbit-amp" if autocast else "kbit"
        return "nf4"
    if facts.method == "full" or framework in BF16_ADAPTERS:
        return "bf16"
    return "amp" if autocast else "no-amp"


def _adapter_bytes(facts: Facts, framework: str) -> int:
    if framework in BF16_ADAPTERS:
        return 2
    sharding = facts.stack.sharding if facts.stack else "none"
    quantised = facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit)
    if framework == "trl" and (quantised or sharding == "zero3"):
        return 2
    return 4


def _loss(facts: Facts, framework: str) -> Loss:
    trainer = facts.task.trainer if facts.task else "sft"
    if trainer in ("reward", "classification") or (facts.model is not None and facts.model.kind == "encoder"):
        return "none"
    if framework == "unsloth":
        return "adaptive"
    if framework == "torchtune":
        return "chunked"
    if framework == "trl" and trainer not in ("orpo", "simpo", "ppo"):
        return "tiled"
    if facts.train is not None and facts.train.use_liger_kernel:
        return "liger"
    return "full"
