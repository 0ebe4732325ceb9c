"""Which libraries' behaviour a memory forecast assumes: precision, adapter dtype, loss head, expert kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lora_advise.facts import Facts

Mode = Literal["amp", "no-amp", "bf16", "nf4", "kbit", "kbit-amp"]
Loss = Literal["tiled", "full", "liger", "none"]

BF16_ADAPTERS = ("unsloth", "torchtune", "litgpt")
"""Frameworks that keep adapters in bf16 unless told (memory model, section 3); PEFT itself makes them fp32."""

NO_AUTOCAST = ("peft", "torchtune", "litgpt", "unsloth")
"""Hand-written loops: no accelerate, so no bf16 autocast around the model."""


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
    extra: int = 0
    """Bytes kept besides: RoPE caches of every layer before transformers 4.43, outputs held by a hand-written loop."""


def stack_of(facts: Facts) -> Stack:
    """The named stack with its defaults: TRL 1.16, transformers 5.23, PEFT 0.21, bitsandbytes 0.50 and relatives.

    Read in trl 1.16.0: ``bf16=True`` unless fp16, hence autocast; adapters of a quantised base are cast to bf16
    (``sft_trainer.py``), others stay fp32 as PEFT makes them, but bf16 under ZeRO-3; SFT, DPO, KTO, GRPO and RLOO use
    the tiled loss head ``add_fused_lm_head``; the experimental ORPO and CPO trainers materialise all logits.
    """
    framework = facts.stack.framework if facts.stack else "trl"
    stack = Stack(
        name=_name(facts, framework),
        mode=_mode(facts, framework),
        adapter_bytes=_adapter_bytes(facts, framework),
        loss=_loss(facts, framework),
    )
    if facts.train is not None and facts.train.dtype == "float32":
        return replace(stack, embedding_bytes=4, norm_bytes=4, residual_bytes=4)
    return stack


def _name(facts: Facts, framework: str) -> str:
    versions = facts.stack.versions if facts.stack else {}
    if versions:
        return f"{framework} (" + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())[:4]) + ")"
    if framework == "trl":
        return "TRL 1.16, transformers 5.23, PEFT 0.21, bitsandbytes 0.50"
    return f"{framework}, transformers 5.23, PEFT 0.21, bitsandbytes 0.50"


def _mode(facts: Facts, framework: str) -> Mode:
    if facts.method == "qlora":
        return "nf4"
    if facts.method == "full":
        return "bf16"
    if framework in BF16_ADAPTERS:
        return "bf16"
    return "no-amp" if framework in NO_AUTOCAST else "amp"


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
        return "tiled"
    if framework == "trl" and trainer not in ("orpo", "simpo", "ppo"):
        return "tiled"
    if facts.train is not None and facts.train.use_liger_kernel:
        return "liger"
    return "full"
