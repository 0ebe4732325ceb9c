"""The stages of a training step; the peak is the highest of them, never their sum."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.memory_case import PAIRED, Case
from lora_advise.memory_layers import attention_matrices, checkpoints_per_token, hump_per_token, retained_per_token
from lora_advise.memory_loss import head_bytes, loss_bytes
from lora_advise.memory_static import Term, gradient_terms, static_terms, step_term


class Stage(NamedTuple):
    """A moment of the step and what is alive in it."""

    name: str
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> float:
        """Sum of its terms."""
        return sum(term.bytes for term in self.terms)


def peak_stage(case: Case, batch: int, length: int) -> Stage:
    """The highest stage of a step with this micro-batch and row length."""
    return max(stages(case, batch, length), key=lambda stage: stage.bytes)


def stages(case: Case, batch: int, length: int) -> tuple[Stage, ...]:
    """Every stage of a training step: loss, last and first layer of the backward pass, optimizer, generation."""
    rows = batch * (2 if case.trainer in PAIRED else 1)
    tokens = rows * length
    common = static_terms(case)
    # Gradients appear as the backward pass goes, and stay from one micro-batch to the next under accumulation.
    late = () if case.accumulation > 1 else gradient_terms(case)
    kept, layer = kept_terms(case, rows, length), layer_terms(case, rows, length)
    loss = (
        Term("loss", "Logits and loss", loss_bytes(case, tokens), _loss_note(case)),
        Term("head", "Final norm and its gradient", head_bytes(case, tokens)),
    )
    # Frozen FSDP units hold every layer's input, and its gradient, to the end of backward; trained units do not.
    held = kept if _holds(case) else ()
    # The optimizer steps on shards; what was gathered is free by then.
    resident, shards = common, late
    if case.sharding == "fsdp":
        resident = tuple(t for t in common if t.name not in ("buffers", "gradients"))
        shards = gradient_terms(case, whole=False)
    found = [
        Stage("loss", (*common, *kept, *loss)),
        Stage("backward pass, last layer", (*common, *kept, *layer)),
        Stage("backward pass, first layer", (*common, *late, *held, *layer)),
        Stage("optimizer step", (*resident, *shards, step_term(case))),
    ]
    if case.trainer in ("grpo", "ppo"):
        found.append(Stage("generation", (*common, _cache(case, case.completions, length))))
    return tuple(found)


def kept_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """What the forward pass left behind for the backward pass."""
    tokens = rows * length
    seen = "image tokens count as part of max_length; the vision tower's own activations do not" if case.vision else ""
    if case.checkpointing:
        return (Term("checkpoints", "Layer inputs kept by checkpointing", checkpoints_per_token(case) * tokens, seen),)
    squares = attention_matrices(case, rows, length)[1] + math_attention(case, rows, length)[1]
    per_token = retained_per_token(case) + _expanded_per_token(case, rows) + _kept_by_versions(case)
    size = (per_token * tokens + case.merged_kept) * case.width.layers + squares
    return (Term("activations", "Activations of every layer", size, "no activation checkpointing"),)


def layer_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """The layer at work in the backward pass."""
    tokens = rows * length
    hump = hump_per_token(case) + _versions_per_token(case) + _expanded_per_token(case, rows)
    if not case.checkpointing:
        hump = max(0.0, hump - retained_per_token(case) - _expanded_per_token(case, rows) - _kept_by_versions(case))
    residual = case.stack.residual_bytes * case.width.hidden
    squares = attention_matrices(case, rows, length)[0] + math_attention(case, rows, length)[0]
    terms = [
        Term("layer", "The layer at work", (hump + residual) * tokens, _layer_note(case)),
        Term("attention", "S x S attention terms", squares, case.attn),
        Term("dequant", "Dequantised copy of the largest matrix", case.weights.dequant),
        Term("merged", "Merged adapter weights", case.merged, "DoRA, or adapters on fused experts"),
    ]
    if _holds(case):
        # Measured on FSDP1: the gradient of every layer's input stays alive to the end of backward (section 11).
        held = residual * max(0, case.width.layers - 2) * tokens
        terms.append(Term("fsdp", "Gradients of layer inputs held by FSDP", held, "FSDP1 law; FSDP2 is not measured"))
    if case.sharding == "fsdp":
        # Full fine-tuning peaks in the last layer: its unit, the one prefetched for the next, and its gradient.
        units = 0 if case.stack.keeps_gathered else 3 if case.method == "full" else 1
        terms.append(Term("unit", "Gathered layers", units * case.weights.layer if case.shards_weights else 0))
    return tuple(term for term in terms if term.bytes)


def _holds(case: Case) -> bool:
    """Whether frozen FSDP units keep every layer's input and gradient (seen with adapters, not in full fine-tuning)."""
    return case.sharding == "fsdp" and case.method != "full" and case.checkpointing


def math_attention(case: Case, rows: int, length: int) -> tuple[float, float]:
    """Bytes of torch's plain attention: in the layer at work, and kept over all layers without checkpointing.

    No fused kernel takes fp32 inputs with fewer key-value than query heads, so sdpa computes the fp32 softmax, its
    gradient and that of the scores, and keeps the softmax with keys and values expanded to all heads (section 5).
    """
    width = case.width
    if case.stack.mode != "kbit" or case.attn != "sdpa" or width.kv >= width.attention:
        return 0.0, 0.0
    softmax = 4.0 * width.heads * rows * length * length
    return 3 * softmax, (softmax + 8.0 * width.attention * rows * length) * width.softmax_layers


def _expanded_per_token(case: Case, rows: int) -> float:
    """Bytes per token of keys and values expanded to all heads, which sdpa needs wherever a mask reaches it."""
    width = case.width
    masked = case.attn == "sdpa" and (rows > 1 or case.packing) and case.stack.mode != "kbit"
    return 4.0 * max(0, width.attention - width.kv) * width.softmax_layers / width.layers if masked else 0.0


def _kept_by_versions(case: Case) -> float:
    """Bytes per token that frameworks and versions add to what a layer keeps without checkpointing."""
    width = case.width
    kept = case.stack.dora - _one_dropout(case)
    if case.stack.saves_inputs:
        # Inputs of 4-bit products: the two norms' outputs and the MLP's inner product.
        kept += 4.0 * width.hidden + 2.0 * (width.dense + width.expert * width.chosen)
    return kept


def _one_dropout(case: Case) -> float:
    """Bytes per token saved where query, key and value share the dropped copy of their input and its mask."""
    return 6.0 * case.width.hidden if case.stack.one_dropout and case.dropout else 0.0


def _versions_per_token(case: Case) -> float:
    """Bytes per token that kernels and library versions add to the layer at work, or save in it."""
    width = case.width
    change = case.stack.dora - _one_dropout(case)
    if case.stack.repeats_kv:
        change += 4.0 * max(0, width.attention - width.kv)
    if case.stack.saves_inputs and case.stack.mode == "nf4":
        # One 16-bit tensor feeds q, k and v and one feeds gate and up, and flash attention keeps its output anyway; the
        # layer's own figure counts every matrix's input, as where autocast casts an fp32 stream for each.
        change -= 8.0 * width.hidden
    if case.stack.triton:
        # Two norms keep no fp32 input (4 h each) but the 16-bit stream between attention and MLP; the fused adapters
        # of quantised layers add their product in place instead of to a copy of the result.
        change -= (8.0 if case.method == "qlora" else 6.0) * width.hidden
    return change


def _cache(case: Case, completions: int, length: int) -> Term:
    size = 4 * case.width.kv * case.width.softmax_layers * completions * length
    note = "transformers generates all completions of a step at once; a lower bound"
    return Term("cache", "Keys and values of generation", size, note)


def _layer_note(case: Case) -> str:
    if case.width.softmax_layers < case.width.layers:
        return "recurrent layers are counted like attention layers: an approximation"
    return "even routing is assumed" if case.width.expert else ""


def _loss_note(case: Case) -> str:
    notes = {
        "tiled": "scored in tiles; the logits are never whole",
        "liger": "Liger's fused linear cross-entropy",
        "chunked": "eight chunks, whose fp32 log-softmax is kept for the backward pass",
        "adaptive": "in chunks of at most 4 GiB, or half of the free memory",
        "full": f"{case.stack.logit_bytes} B per token and vocabulary entry",
        "none": "",
    }
    return notes[case.stack.loss]
