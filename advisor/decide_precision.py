"""Number format, activation checkpointing and attention kernel."""

from __future__ import annotations

from lora_advise.decide_method import assemble, candidates, comfort
from lora_advise.draft import Draft
from lora_advise.model_kernels import attention_refused

OVERFLOWING = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
"""Model types whose activations pass 65,504, the largest fp16 number: T5 and its kin (transformers keeps ``wo`` in fp32)."""


def decide_precision(draft: Draft) -> None:
    """Number format, checkpointing and attention kernel: what the device can do, and what saves memory at no loss."""
    on_cpu = draft.hardware.kind == "cpu"
    overflows = draft.fp16_only and draft.model.model_type in OVERFLOWING
    dtype = "float32" if on_cpu or overflows else "float16" if draft.fp16_only else "bfloat16"
    why = {
        "float32": "The CPU computes in 32 bits."
        if on_cpu
        else f"{draft.hardware.name} has no bf16, and {draft.model.model_type} was trained in it: its activations overflow in fp16.",
        "float16": f"{draft.hardware.name} has no bf16; fp16 needs a loss scaler and half the rate.",
        "bfloat16": "The range of 32-bit floats in 16 bits: no loss scaler, no fp16 overflow.",
    }
    draft.decide(
        "train.dtype", "precision", "Precision", dtype, because=why[dtype],
        sources=("dettmers-2023", "gpu-datasheets"), confidence="derived", flips="A device of another generation.",
    )  # fmt: skip
    roomy = on_cpu and _fits_without_checkpointing(draft)
    draft.decide(
        "train.activation_checkpointing", "precision", "Checkpointing", not roomy,
        because="Off: every activation fits into this machine's memory, and time is what a CPU lacks."
        if roomy
        else "Keeps one tensor per layer instead of a dozen, for about a third more compute.",
        sources=("memory-model", "trl-code"), confidence="derived", flips="A device with room for every activation: off is faster.",
    )  # fmt: skip
    decide_attention(draft)


def _fits_without_checkpointing(draft: Draft) -> bool:
    """Whether the unquantized base fits with every activation kept, so that memory does not force a worse method."""
    draft.values["train.activation_checkpointing"] = False
    found = comfort(assemble(draft, candidates(draft, draft.overrides.get("method"))[0])) == "fits"
    del draft.values["train.activation_checkpointing"]
    return found


def decide_attention(draft: Draft) -> None:
    """PyTorch's fused attention, or the plain one where transformers' class of this model has nothing else."""
    kind = draft.model.model_type
    kernel, because = "sdpa", "PyTorch's fused attention: no S x S matrix and nothing to install."
    flips = "Packing, or very long sequences: flash_attention_2 where it is installed."
    if attention_refused(kind, "sdpa"):
        kernel = "eager"
        because = f"The classes of transformers for {kind} have no fused attention and refuse sdpa."
        flips = "A release of transformers that adds it."
        if not attention_refused(kind, "flash_attention_2") and draft.hardware.flash_attention_2:
            flips = f"flash-attn installed: flash_attention_2 is the only fused attention of {kind}."
    draft.decide(
        "train.attn_implementation", "precision", "Attention", kernel, because=because,
        sources=("transformers-code", "memory-model"), confidence="derived", flips=flips,
    )  # fmt: skip
