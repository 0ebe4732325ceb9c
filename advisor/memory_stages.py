"""The stages of a training step; the peak is the highest of them, never their sum."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.memory_case import PAIRED, Case
from lora_advise.memory_layers import WHOLE_MASK, checkpoints_per_token, layer_size, mask_entries, traced
from lora_advise.memory_loss import head_bytes, loss_bytes
from lora_advise.memory_static import Term, gradient_terms, static_terms, step_term

EVALUATED = 10 / 12
"""Share of the loss that an evaluation needs: logits, their fp32 copy and the log-softmax, but no gradient of it."""


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
    """Every stage of a training step: forward pass, loss, both ends of the backward pass, optimizer, and what comes after."""
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
        Stage("forward pass", (*common, *kept, *forward_terms(case, rows, length))),
        Stage("loss", (*common, *kept, *loss)),
        Stage("backward pass, last layer", (*common, *kept, *layer)),
        Stage("backward pass, first layer", (*common, *late, *held, *layer)),
        Stage("optimizer step", (*resident, *shards, step_term(case))),
    ]
    if case.evaluated:
        found.append(_evaluation(case, batch, length))
    if case.trainer in ("grpo", "ppo"):
        found.append(Stage("generation", (*common, _cache(case, case.completions, length))))
    return tuple(found)


def kept_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """What the forward pass left behind for the backward pass."""
    tokens = rows * length
    seen = "image tokens count as part of max_length; the vision tower's own activations do not" if case.vision else ""
    mask = Term("mask", "Attention mask", WHOLE_MASK * mask_entries(case, rows, length), "padding, packing or a window")
    if case.checkpointing:
        inputs = (checkpoints_per_token(case) + _kept_by_rounding(case)) * tokens
        found: tuple[Term, ...] = (Term("checkpoints", "Layer inputs kept by checkpointing", inputs, seen), mask)
    else:
        layer = layer_size(case, "kept", rows, length).activations + _kept_by_versions(case) * tokens + case.merged_kept
        size = layer * case.width.layers
        found = (
            Term("activations", "Activations of every layer", size, "no activation checkpointing"),
            mask,
            _copies(case),
        )
    return tuple(term for term in found if term.bytes)


def layer_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """The layer at work in the backward pass."""
    tokens = rows * length
    size = layer_size(case, "hump" if case.checkpointing else "hump_kept", rows, length)
    activations = size.activations
    if case.checkpointing:
        # A checkpoint that computes again from the outside holds the layer's output beside its gradient.
        again = case.stack.residual_bytes * case.width.hidden if case.stack.reentrant else 0
        activations += (_versions_per_token(case) + again) * tokens
    terms = [
        Term("layer", "The layer at work", max(0.0, activations), _layer_note(case)),
        Term("dequant", "Dequantised copy of the largest matrix", size.matrix),
        Term("merged", "Merged adapter weights", _merged(case), "DoRA, or adapters on fused experts"),
    ]
    if case.checkpointing:
        terms.append(_copies(case, layers=1))
    residual = case.stack.residual_bytes * case.width.hidden
    if _holds(case):
        # Measured on FSDP1: the gradient of every layer's input stays alive to the end of backward (section 11).
        held = residual * max(0, case.width.layers - 2) * tokens
        terms.append(Term("fsdp", "Gradients of layer inputs held by FSDP", held, "FSDP1 law; FSDP2 is not measured"))
    if case.sharding == "fsdp":
        # Full fine-tuning peaks in the last layer: its unit, the one prefetched for the next, and its gradient.
        units = 0 if case.stack.keeps_gathered else 3 if case.method == "full" else 1
        terms.append(Term("unit", "Gathered layers", units * case.weights.layer if case.shards_weights else 0))
    return tuple(term for term in terms if term.bytes)


def _merged(case: Case) -> int:
    """Without checkpointing every layer keeps what its backward pass needs again; it is counted there."""
    return case.merged if case.checkpointing else case.merged - case.merged_kept


def forward_terms(case: Case, rows: int, length: int) -> tuple[Term, ...]:
    """The layer at work in the forward pass."""
    size = layer_size(case, "forward" if case.checkpointing else "forward_kept", rows, length)
    terms = [
        Term("layer", "The layer at work", size.activations, _layer_note(case)),
        Term("dequant", "Dequantised copy of the largest matrix", size.matrix),
    ]
    if case.checkpointing:
        terms.append(_copies(case))
    return tuple(term for term in terms if term.bytes > 0)


def _copies(case: Case, layers: int | None = None) -> Term:
    """Autocast keeps 16-bit copies of fp32 adapters to the end of its region: a whole forward pass, or one layer's second one."""
    stack = case.stack
    cast = stack.mode in ("amp", "kbit-amp") or (stack.mode == "nf4" and stack.adapter_bytes == 4)
    share = 1.0 if layers is None else layers / case.width.layers
    return Term("copies", "16-bit copies of adapters", 2.0 * case.adapters * share if cast else 0.0, "made by autocast")


def _evaluation(case: Case, batch: int, length: int) -> Stage:
    """A forward pass without gradients, with the rows of an evaluation batch."""
    rows = max(1, round(batch * case.evaluated)) * (2 if case.trainer in PAIRED else 1)
    resident = tuple(term for term in static_terms(case) if term.name != "gradients")
    size = layer_size(case, "evaluation", rows, length)
    loss = loss_bytes(case, rows * length) * EVALUATED
    terms = [
        Term("layer", "The layer at work", max(size.activations, loss), "evaluation: nothing is kept"),
        Term("dequant", "Dequantised copy of the largest matrix", size.matrix),
        Term("mask", "Attention mask", WHOLE_MASK * mask_entries(case, rows, length)),
        _copies(case),
    ]
    return Stage("evaluation", (*resident, *(term for term in terms if term.bytes > 0)))


def _holds(case: Case) -> bool:
    """Whether frozen FSDP units keep every layer's input and gradient (seen with adapters, not in full fine-tuning)."""
    return case.sharding == "fsdp" and case.method != "full" and case.checkpointing


def _kept_by_versions(case: Case) -> float:
    """Bytes per token that frameworks and versions add to what a layer keeps without checkpointing."""
    width = case.width
    kept = case.stack.dora - _one_dropout(case)
    if case.stack.saves_inputs:
        # Inputs of 4-bit products: the two norms' outputs and the MLP's inner product.
        kept += 4.0 * width.hidden + 2.0 * (width.dense + width.expert * width.chosen)
    return kept


def _kept_by_rounding(case: Case) -> float:
    """Bytes per token of the inputs of 8-bit products, which stay beside the checkpoints: of query, key and value together,
    of the output projection, of gate and up together, of the down projection."""
    if not case.stack.rounded or case.stack.reentrant:
        return 0.0
    width = case.width
    return float(case.stack.residual_bytes * (2 * width.hidden + width.attention + width.dense) * width.layers)


def _one_dropout(case: Case) -> float:
    """Bytes per token saved where query, key and value share the dropped copy of their input and its mask."""
    return 6.0 * case.width.hidden if case.stack.one_dropout and case.dropout else 0.0


def _versions_per_token(case: Case) -> float:
    """Bytes per token that kernels and library versions add to the layer at work, or save in it."""
    width = case.width
    change = case.stack.dora - _one_dropout(case)
    if case.stack.repeats_kv:
        change += 4.0 * max(0, width.attention - width.kv)
    if case.stack.saves_inputs:
        # Inputs of 4-bit products: one 16-bit tensor feeds q, k and v and one feeds gate and up, and flash attention keeps
        # its output anyway; where autocast casts an fp32 stream, every product has a copy of its own.
        inputs = 4.0 if case.stack.mode == "nf4" else 12.0
        change += inputs * width.hidden + 2.0 * (width.dense + width.expert * width.chosen)
    if case.stack.triton:
        # Two norms keep no fp32 input (4 h each) but the 16-bit stream between attention and MLP; the fused adapters
        # of quantised layers add their product in place instead of to a copy of the result.
        change -= (8.0 if case.method == "qlora" else 6.0) * width.hidden
    return change


def _cache(case: Case, completions: int, length: int) -> Term:
    size = 4 * case.width.kv * case.width.attention_layers * completions * length
    note = "transformers generates all completions of a step at once; a lower bound"
    return Term("cache", "Keys and values of generation", size, note)


def _layer_note(case: Case) -> str:
    if not traced(case):
        return "the closed form is rough for this family, and its band is wide: rehearse it with --exact"
    if case.width.softmax_layers < case.width.layers:
        return "recurrent layers as transformers computes them without the packages for their kernels"
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
