"""What a library's version changes in a memory forecast.

Versions that are not stated count as the ones whose code was read (see ``memory_stack.LIBRARIES``). Every threshold
names where it was seen: a library's history, a trace of that version, or a pair of measured runs before and after it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, ModelFacts
from lora_advise.memory_stack import Stack

Version = tuple[int, ...]

GPTQ_LIBRARIES = ("gptqmodel", "auto-gptq")
TRITON_LIBRARIES = ("fms-acceleration-foak",)

LOSS_REWRITTEN, LABELS_PADDED = (4, 46), (4, 49)
"""transformers: the loss left the model's forward pass with 16-bit logits still alive; then labels were padded instead of
logits copied (traces of 4.45 to 5.13; memory model, section 6)."""
LATE_LOSS = {"mistral": (4, 48), "mixtral": (4, 48)}
"""Model types whose own head was rewritten later (memory model, section 6)."""
ROPE_IN_MODEL = (4, 43)
"""transformers before this kept cosines and sines of every position in every layer (measured differences, section 2)."""
LATE_ROPE = {"mixtral": (4, 46)}
ONE_FLASH_PATH = (4, 48)
"""transformers before this repeated keys and values to all heads before flash attention in these model types."""
REPEATED = ("mistral", "mixtral")
FUSED_EXPERTS = (5,)
"""transformers before this held every expert as linear layers of their own and looped over them, and checkpointed the
reentrant way unless told otherwise."""
BNB_SAVED_INPUTS = (0, 43, 2)
"""bitsandbytes before this kept the input of every 4-bit product for the backward pass (its pull request 1270)."""
TRL_KBIT = (0, 27)
"""TRL before this called ``prepare_model_for_kbit_training`` on a quantised base, and cast all but the norms back to bf16
(TRL's history: 0.7.5 to 0.26)."""
TRL_CHUNKED = (1, 7)
"""TRL before this materialised all logits by default (``loss_type`` was ``nll``)."""


def version(text: str) -> Version:
    """The leading numbers of a version: ``4.45.2.dev0`` is (4, 45, 2). Empty when there is none."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", text[:40])
    return tuple(int(part[:6]) for part in found[1].split(".")[:4]) if found else ()


STATED = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", *GPTQ_LIBRARIES, *TRITON_LIBRARIES)
"""Libraries whose version may be stated on the command line."""


def parse_versions(words: list[str]) -> dict[str, str]:
    """``transformers=4.45.2 trl=0.12`` as a mapping. Raises LoraAdviseError for what is no library of a run or no version."""
    found = {}
    for word in words:
        name, _, text = word.replace("==", "=").partition("=")
        name = name.strip().lower().replace("_", "-")
        if name not in STATED or not version(text):
            raise LoraAdviseError(
                f"--versions: {word[:60]!r} is not NAME=VERSION with a library of {', '.join(STATED[:6])}; "
                "for instance transformers=4.45.2."
            )
        found[name] = text.strip()
    return found


def versioned(stack: Stack, facts: Facts, framework: str) -> Stack:
    """That stack as the stated versions of the libraries have it."""
    stated = {
        name.lower().replace("_", "-"): version(text)
        for name, text in (facts.stack.versions if facts.stack else {}).items()
    }
    if not stated:
        return stack
    model = facts.model
    stack = _transformers(stack, facts, stated.get("transformers", ()))
    if framework == "trl":
        stack = _trl(stack, facts, stated.get("trl", ()))
    if _before(stated.get("bitsandbytes", ()), BNB_SAVED_INPUTS) and facts.method == "qlora":
        stack = replace(stack, saves_inputs=True)
    if facts.method == "qlora" and any(name in stated for name in GPTQ_LIBRARIES):
        stack = replace(stack, packing="gptq", saves_inputs=False)
    if model is not None and any(name in stated for name in TRITON_LIBRARIES):
        stack = replace(stack, triton=True, logit_bytes=stack.logit_bytes - 4)
    return stack


def _before(stated: Version, limit: Version) -> bool:
    return bool(stated) and stated < limit


def _transformers(stack: Stack, facts: Facts, stated: Version) -> Stack:
    model = facts.model
    if not stated or model is None:
        return stack
    kind = model.model_type
    if LATE_LOSS.get(kind, LOSS_REWRITTEN) <= stated < LABELS_PADDED:
        stack = replace(stack, logit_bytes=stack.logit_bytes + 2)
    if stated < LATE_ROPE.get(kind, ROPE_IN_MODEL):
        stack = replace(stack, extra=stack.extra + _rope_caches(model))
    flash = facts.train is not None and facts.train.attn_implementation == "flash_attention_2"
    if kind in REPEATED and stated < ONE_FLASH_PATH and flash:
        stack = replace(stack, repeats_kv=True)
    if stated >= FUSED_EXPERTS:
        return stack
    trl = facts.stack is not None and facts.stack.framework == "trl"
    return replace(stack, experts="loop", reentrant=not trl)


def _rope_caches(model: ModelFacts) -> int:
    """Cosines and sines of 2 B for every position and head dimension, in every layer."""
    positions = min(model.max_position_embeddings or 0, 131_072)
    return 2 * 2 * model.num_hidden_layers * positions * model.head_dim


def _trl(stack: Stack, facts: Facts, stated: Version) -> Stack:
    if _before(stated, TRL_CHUNKED) and stack.loss == "tiled":
        liger = facts.train is not None and facts.train.use_liger_kernel
        stack = replace(stack, loss="liger" if liger else "full")
    sharded = facts.stack is not None and facts.stack.sharding in ("fsdp", "zero3")
    if _before(stated, TRL_KBIT) and facts.method == "qlora" and not sharded:
        stack = replace(stack, mode="kbit-amp", norm_bytes=4, residual_bytes=4)
    return stack
