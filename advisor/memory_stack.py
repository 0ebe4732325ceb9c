"""Which libraries' behaviour a memory forecast assumes: precision, adapter dtype, loss head, expert kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lora_advise.facts import Facts, LoraFacts, ModelFacts

Mode = Literal["amp", "no-amp", "bf16", "nf4", "kbit", "kbit-amp"]
Loss = Literal["tiled", "full", "liger", "chunked", "adaptive", "none"]

BF16_ADAPTERS = ("torchtune", "litgpt")
"""Frameworks that make adapters in the model's dtype (memory model, section 3); PEFT itself makes them fp32."""

NO_AUTOCAST = ("peft", "torchtune", "litgpt")
"""Hand-written loops: no accelerate, so no bf16 autocast around the model."""

OWN_LAYERS = ("torchtune", "litgpt", "unsloth")
"""Frameworks with layers or kernels of their own."""

REMOTE = ("qwen", "baichuan", "chatglm", "xverse", "internlm")
"""Model types whose layers come with the checkpoint instead of transformers."""

TITLES = {
    "trl": "TRL 1.16", "transformers": "HF Trainer", "peft": "PEFT loop", "unsloth": "Unsloth", "axolotl": "Axolotl",
    "llamafactory": "LLaMA-Factory", "ms-swift": "ms-swift", "torchtune": "torchtune", "litgpt": "LitGPT",
}  # fmt: skip
"""Frameworks as people write them."""

LIBRARIES = {
    "trl": "transformers 5.24, PEFT 0.21, bitsandbytes 0.50", "unsloth": "unsloth_zoo 2026.8.13", "axolotl": "0.18",
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
    traced: bool = True
    """Whether its layers are transformers' under PEFT, of which traces exist; see ``memory_spread``."""
    reentrant: bool = False
    """Checkpoints are of the reentrant kind: transformers' default before version 5, and what LLaMA-Factory sets."""
    keeps_gathered: bool = False
    """Frozen layers that FSDP gathered for the backward pass stay gathered to its end (LitGPT's FSDP strategy)."""
    dora: float = 0.0
    """Bytes per token and layer that DoRA keeps: the base's product and the adapter's, in the adapters' precision."""
    extra: int = 0
    """Bytes kept besides: RoPE caches of every layer before transformers 4.43."""
    packing: Literal["bnb", "gptq"] = "bnb"
    """How 4-bit weights are stored."""
    group: int = 128
    """Weights that share one scale in GPTQ; 0 where a whole column does."""
    triton: bool = False
    """Triton kernels for RMSNorm, rotary embedding and cross-entropy, and for the adapters of quantised layers."""
    repeats_kv: bool = False
    """Keys and values are copied to all heads before flash attention."""
    upcasts_trained: bool = False
    """accelerate makes the trained FSDP parameters fp32 under mixed precision, and gathers them in 16 bits."""
    own_head: bool = False
    """The output head is a matrix of its own even where the model ties it, and is quantised like the rest (LitGPT)."""
    rounded: bool = False
    """An 8-bit base: its products keep their inputs as plain attributes, which no checkpoint but a reentrant one drops
    (bitsandbytes 0.50, ``MatMul8bitLt``)."""
    one_dropout: bool = False
    """One dropout feeds the adapters of query, key and value together, which are one matrix (LitGPT)."""


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
    from lora_advise.memory_versions import versioned

    framework = framework or (facts.stack.framework if facts.stack else "trl")
    sharding = facts.stack.sharding if facts.stack else "none"
    stack = Stack(
        name=_name(facts, framework),
        mode=_mode(facts, framework),
        adapter_bytes=_adapter_bytes(facts, framework),
        loss=_loss(facts, framework),
        offloads_checkpoints=framework == "unsloth",
        traced=_traced(facts, framework),
        rounded=_rounded(facts),
        reentrant=framework == "llamafactory",
        keeps_gathered=sharding == "fsdp" and framework == "litgpt",
        upcasts_trained=sharding == "fsdp" and facts.method == "full" and framework not in NO_AUTOCAST,
    )
    if facts.lora is not None and facts.lora.use_dora and facts.model is not None:
        stack = replace(stack, dora=_dora(facts.model, facts.lora, stack.adapter_bytes))
    if (facts.train is not None and facts.train.dtype == "float32") or stack.mode.startswith("kbit"):
        stack = replace(stack, embedding_bytes=4, norm_bytes=4, residual_bytes=4)
    return versioned(_loop(stack, facts, framework), facts, framework)


FP32_LOGITS = ("mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Model types whose class returns its logits in fp32 (``.float()`` behind the head, transformers 5.24)."""


def _loop(stack: Stack, facts: Facts, framework: str) -> Stack:
    """What a hand-written loop does to the logits.

    A PEFT loop's ``outputs`` hold them, mostly in the head's dtype, while the loss is computed (section 6). LitGPT cuts them and
    the loss into pieces of 128 tokens, all in 16 bits: they stay, and so do the log-softmaxes (``litgpt/utils.py``).
    """
    if framework == "litgpt":
        return replace(stack, logit_bytes=4, one_dropout=True, own_head=True)
    if framework != "peft" or stack.loss != "full":
        return stack
    wide = facts.model is not None and facts.model.model_type in FP32_LOGITS
    return replace(stack, logit_bytes=stack.logit_bytes + (4 if wide else stack.embedding_bytes))


def _dora(model: ModelFacts, lora: LoraFacts, width: int) -> float:
    """Both products are scaled by a trained magnitude, so the backward pass needs them (PEFT ``tuners/lora/dora.py``)."""
    from lora_advise.adapters import targets

    features = sum(t.module.d_out * t.module.count for t in targets(model, lora) if t.module.kind == "linear")
    return 2.0 * width * features / max(1, model.num_hidden_layers)


def _traced(facts: Facts, framework: str) -> bool:
    model = facts.model
    return framework not in OWN_LAYERS and not (model and model.model_type in REMOTE) and not _rounded(facts)


def _rounded(facts: Facts) -> bool:
    return facts.quant is not None and facts.quant.load_in_8bit and not facts.quant.load_in_4bit


def _name(facts: Facts, framework: str) -> str:
    title, versions = TITLES.get(framework, framework), facts.stack.versions if facts.stack else {}
    if versions and facts.stack is not None and facts.stack.framework == framework:
        title = title.split()[0] if framework in versions else title
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
    if _rounded(facts) and _adapter_bytes(facts, framework) == 2:
        return "nf4"
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
