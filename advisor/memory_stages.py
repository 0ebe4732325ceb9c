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
    held = kept if case.sharding == "fsdp" and case.checkpointing else ()
    found = [
        Stage("loss", (*common, *kept, *loss)),
        Stage("backward pass, last layer", (*common, *kept, *layer)),
        Stage("backward pass, first layer", (*common, *late, *held, *layer)),
        Stage("optimizer step", (*common, *late, step_term(case))),
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
    squares = attention_matrices(case, rows, length)[1]
    size = (retained_per_token(case) * tokens + case.merged_kept) * case.width.layers + squares
    return (Term("activations", "Activations of every layer", size, "no activation checkpointing"),)


def layer_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """The layer at work in the backward pass."""
    tokens = rows * length
    hump = hump_per_token(case)
    if not case.checkpointing:
        hump = max(0.0, hump - retained_per_token(case))
    residual = case.stack.residual_bytes * case.width.hidden
    terms = [
        Term("layer", "The layer at work", (hump + residual) * tokens, _layer_note(case)),
        Term("attention", "S x S attention terms", attention_matrices(case, rows, length)[0], case.attn),
        Term("dequant", "Dequantised copy of the largest matrix", case.weights.dequant),
        Term("merged", "Merged adapter weights", case.merged, "DoRA, or adapters on fused experts"),
    ]
    if case.sharding == "fsdp":
        # Measured on FSDP1: the gradient of every layer's input stays alive to the end of backward (section 11).
        held = residual * max(0, case.width.layers - 2) * tokens
        terms.append(Term("fsdp", "Gradients of layer inputs held by FSDP", held, "FSDP1 law; FSDP2 is not measured"))
        terms.append(Term("unit", "One gathered layer", case.weights.layer if case.shards_weights else 0))
    return tuple(term for term in terms if term.bytes)


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
