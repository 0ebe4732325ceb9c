"""Terms that do not depend on batch and length: weights, adapters, gradients, optimizer states, sharding buffers."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.memory_case import Case

WORKSPACES = 2 * 8_519_680
"""cuBLAS workspaces of the forward and the autograd thread, measured on an A100 (memory model, section 7)."""
LIVE_PARAMETERS = 1_000_000_000
"""ZeRO-3 keeps up to this many gathered parameters (DeepSpeed ``stage3_max_live_parameters``)."""
REDUCE_BUCKET = 500_000_000
"""Elements of ZeRO's reduce bucket (DeepSpeed ``reduce_bucket_size``)."""
WEIGHT_SHARDS = ("fsdp", "zero3")
GRADIENT_SHARDS = ("fsdp", "zero2", "zero3")
ZERO = ("zero2", "zero3")


class Term(NamedTuple):
    """One term of a stage, bytes on one device."""

    name: str
    label: str
    bytes: float
    note: str = ""


def static_terms(case: Case) -> tuple[Term, ...]:
    """What is alive all through the step on one device."""
    hosted = case.offload and case.sharding in WEIGHT_SHARDS
    share = case.devices if case.sharding in WEIGHT_SHARDS else 1
    states = case.devices if case.sharding in GRADIENT_SHARDS else 1
    saved = 0 if case.method == "full" else case.saved_bytes * case.saved
    width = case.stack.adapter_bytes
    optimizer = case.adapters * _state(case, case.states, width) + case.saved * _state(
        case, case.saved_states * _upcast(case), case.saved_bytes
    )
    terms = [
        Term("weights", "Base weights", _weights(case), _weights_note(case)),
        Term("adapters", "Adapters", 0 if hosted else case.adapters * width / share, f"{width} B a parameter"),
        Term("saved", "Copies of modules_to_save", 0 if hosted else saved / share, "beside the frozen originals"),
        Term("optimizer", "Optimizer states", 0 if hosted else optimizer / states),
        Term("buffers", "Sharding buffers", _buffers(case), f"{case.sharding} over {case.devices} devices"),
        Term("workspaces", "cuBLAS workspaces", WORKSPACES),
        Term("caches", "Rotary embeddings of every position", case.stack.extra, "one table in every layer"),
    ]
    if case.accumulation > 1:
        terms += gradient_terms(case)
    return tuple(term for term in terms if term.bytes)


def gradient_terms(case: Case, *, whole: bool = True) -> tuple[Term, ...]:
    """Gradients of everything trained: all alive at the end of backward, and all along under accumulation.

    Between the micro-batches of a step FSDP keeps them ``whole``, in the precision of the backward pass (accelerate's
    ``no_sync``; ``sync_each_batch`` is off).
    """
    whole = whole and case.sharding == "fsdp" and case.accumulation > 1
    share = case.devices if case.sharding in GRADIENT_SHARDS and not whole else 1
    wide = 1 if whole else _upcast(case)
    size = (case.adapters * case.stack.adapter_bytes + case.saved_bytes * wide * case.saved) / share
    return (Term("gradients", "Gradients", size),)


def step_term(case: Case) -> Term:
    """Temporaries of the optimizer step."""
    share = case.devices if case.sharding in GRADIENT_SHARDS else 1
    size = (case.adapters * case.temporary + case.saved * case.saved_temporary * _upcast(case)) / share
    return Term("step", "Temporaries of the optimizer step", size)


def _upcast(case: Case) -> int:
    """2 where FSDP under mixed precision holds 16-bit trained parameters, their gradients and states in fp32."""
    return 2 if case.stack.upcasts_trained and case.method == "full" and case.saved_bytes == 2 else 1


def _state(case: Case, states: float, width: int) -> float:
    """Bytes of optimizer state per parameter: DeepSpeed keeps it in fp32, beside an fp32 copy of 16-bit parameters."""
    if case.sharding not in ZERO or width != 2 or not states:
        return states
    return 2 * states + 4 if states == 2 * width else states + 4


def _weights(case: Case) -> float:
    weights = case.weights
    if case.sharding not in WEIGHT_SHARDS or not case.shards_weights:
        return weights.total
    # Quantisation scales are replicated: sharding moves parameters, and they are none (section 11).
    whole = (weights.matrices + weights.rest) * _upcast(case)
    return weights.scales + (0 if case.offload else whole / case.devices)


def _buffers(case: Case) -> float:
    if case.sharding == "ddp":
        # gradient_as_bucket_view is off by default: buckets hold a second copy of every gradient.
        return case.adapters * case.stack.adapter_bytes + case.saved_bytes * case.saved
    if case.sharding == "fsdp":
        # Embeddings and head stay gathered (section 11).
        gathered = case.weights.total if case.stack.keeps_gathered else case.weights.root
        return gathered if case.shards_weights else 0
    if case.sharding == "zero2":
        return 2 * min(REDUCE_BUCKET, case.trained)
    if case.sharding == "zero3":
        live = min(2 * LIVE_PARAMETERS, case.weights.total) if case.shards_weights else 0
        return live + 2 * min(REDUCE_BUCKET, case.trained)
    return 0.0


def _weights_note(case: Case) -> str:
    if case.method != "qlora":
        return ""
    bits = 32 if case.stack.embedding_bytes == 4 and case.stack.mode.startswith("kbit") else 16
    experts = f"; fused experts, which are never packed, in {bits} bits" if case.weights.experts else ""
    whole = (
        "; not sharded, because 4-bit storage is uint8"
        if case.sharding in WEIGHT_SHARDS and not case.shards_weights
        else ""
    )
    return f"linear layers in 4 bits, embeddings and head in {bits}{experts}{whole}"
