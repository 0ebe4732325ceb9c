"""Activations of the decoder layers: what a layer keeps, and how high its backward pass rises.

Coefficients are bytes per token for each unit of hidden width, key-value width and MLP width, traced with the real
library code on the meta device (memory model, section 4; retained exact, hump within 3 %). The tables hold for
fused attention (flash or memory-efficient).
"""

from __future__ import annotations

from lora_advise.memory_case import Case
from lora_advise.memory_stack import Mode

Coefficients = tuple[float, float, float]
Layer = tuple[Coefficients, Coefficients]
"""What a layer keeps without activation checkpointing, and the highest point of its recomputation and backward pass."""

ALL, ATTENTION = True, False

_TRACED: dict[tuple[Mode, bool, bool], Layer] = {
    ("amp", ALL, False): ((16.1, 4.1, 8.0), (19.9, 4.1, 12.1)),
    ("amp", ALL, True): ((30.1, 4.1, 9.0), (41.9, 4.1, 11.1)),
    ("no-amp", ALL, False): ((36.0, 4.1, 10.0), (51.9, 4.2, 12.1)),
    ("no-amp", ALL, True): ((42.0, 4.1, 11.0), (57.9, 4.2, 17.1)),
    ("no-amp", ATTENTION, False): ((28.0, 4.0, 6.0), (31.9, 4.1, 12.1)),
    ("no-amp", ATTENTION, True): ((32.0, 4.0, 6.0), (35.9, 4.1, 12.1)),
    ("bf16", ALL, False): ((16.0, 4.0, 8.0), (19.9, 4.1, 12.1)),
    ("nf4", ALL, False): ((16.0, 4.0, 8.0), (17.1, 5.5, 10.8)),
    ("kbit", ATTENTION, False): ((20.0, 8.0, 12.0), (3.4, 17.1, 27.4)),
    ("kbit-amp", ALL, True): ((30.1, 4.1, 15.0), (20.5, 13.1, 25.6)),
}
"""Rows of the table: by precision, whether the MLP has adapters too, and whether they have dropout."""

_DERIVED: dict[tuple[Mode, bool, bool], Layer] = {
    # The product of a gated MLP is kept for the A of down_proj alone (2 B); the hump is the one with all adapters, an upper bound.
    ("amp", ATTENTION, False): ((16.1, 4.1, 6.0), (19.9, 4.1, 12.1)),
    ("amp", ATTENTION, True): ((30.1, 4.1, 7.0), (41.9, 4.1, 11.1)),
    ("bf16", ATTENTION, False): ((16.0, 4.0, 6.0), (19.9, 4.1, 12.1)),
    ("nf4", ATTENTION, False): ((16.0, 4.0, 6.0), (17.1, 5.5, 10.8)),
    # Dropout adds to 16-bit layers what it adds under autocast: the dropped copy, and a mask of one byte.
    # For nf4 a full trace of Mistral 7B gives 303,384 B a token (section 11), this row 306,278.
    ("bf16", ALL, True): ((30.0, 4.0, 9.0), (41.9, 4.1, 11.1)),
    ("bf16", ATTENTION, True): ((30.0, 4.0, 7.0), (41.9, 4.1, 11.1)),
    ("nf4", ALL, True): ((30.0, 4.0, 9.0), (39.1, 5.5, 9.8)),
    ("nf4", ATTENTION, True): ((30.0, 4.0, 7.0), (39.1, 5.5, 9.8)),
    # Traced in one form only; the fp32 stream outweighs the rest.
    ("kbit", ALL, False): ((20.0, 8.0, 12.0), (3.4, 17.1, 27.4)),
    ("kbit", ALL, True): ((24.0, 8.0, 12.0), (3.4, 17.1, 27.4)),
    ("kbit", ATTENTION, True): ((24.0, 8.0, 12.0), (3.4, 17.1, 27.4)),
    ("kbit-amp", ALL, False): ((16.1, 4.1, 14.0), (20.5, 13.1, 25.6)),
    ("kbit-amp", ATTENTION, False): ((16.1, 4.1, 14.0), (20.5, 13.1, 25.6)),
    ("kbit-amp", ATTENTION, True): ((30.1, 4.1, 15.0), (20.5, 13.1, 25.6)),
}
"""What was not traced by itself, with its reason."""

LAYERS = _TRACED | _DERIVED

QUERY_SHARE = 6 / 16
"""Share of the hidden-width terms that are really of width heads * head_dim: query, rotated query, attention output."""

EAGER_HUMP = 14.8
"""Eager attention: about 7.4 score matrices of 2 B in the layer at work (fitcheck's fit; memory model, section 5)."""
EAGER_KEPT = 5.8
"""And 2.9 of them kept per layer without checkpointing."""


def retained_per_token(case: Case) -> float:
    """Bytes that one layer keeps per token when activations are not checkpointed."""
    a, b, c = _layer(case)[0]
    width = case.width
    base = a * _wide(case) + b * width.kv + c * (width.dense + width.expert * width.chosen)
    return base + _gathered(case) / 2


def hump_per_token(case: Case) -> float:
    """Bytes per token at the highest point of one layer's backward pass.

    With experts in a loop (transformers 4) the retained part counts once per chosen expert and the transient part only
    for one expert's tokens; the grouped kernel of transformers 5 holds all of it for all chosen experts, and a gathered
    copy of the input and the output for each (section 9; the grouped form is arithmetic, not measured).
    """
    kept, (a, b, c) = _layer(case)
    width = case.width
    base = a * _wide(case) + b * width.kv + c * width.dense + _saved_inputs(case)
    if not width.expert:
        return base
    if case.stack.experts == "grouped":
        return base + c * width.expert * width.chosen + _gathered(case)
    return base + width.expert * width.chosen * (kept[2] + (c - kept[2]) / max(1, width.experts))


def checkpoints_per_token(case: Case) -> int:
    """Bytes per token of the layer inputs that checkpointing keeps: one of hidden width for every layer.

    Unsloth keeps them in host memory; two buffers for their way back and the last layer's input stay.
    """
    layers = min(3, case.width.layers) if case.stack.offloads_checkpoints else case.width.layers
    return case.stack.residual_bytes * case.width.hidden * layers


def attention_matrices(case: Case, rows: int, length: int) -> tuple[float, float]:
    """Bytes of S x S terms: in the layer at work, and kept over all layers without checkpointing.

    Eager attention keeps score matrices; sdpa with padding or packing one mask of the query's dtype for the model.
    """
    square = rows * length * length
    if case.attn == "eager":
        return (
            EAGER_HUMP * case.width.heads * square,
            EAGER_KEPT * case.width.heads * square * case.width.softmax_layers,
        )
    masked = case.attn == "sdpa" and (rows > 1 or case.packing)
    return (2.0 * square if masked else 0.0), 0.0


def _layer(case: Case) -> Layer:
    return LAYERS[case.stack.mode, case.all_targets or case.method == "full", case.dropout]


def _saved_inputs(case: Case) -> float:
    """Bytes per token of the inputs that bitsandbytes kept in the layer at work before 0.43.2: 2 B of each matrix's."""
    width = case.width
    return 2.0 * (6 * width.hidden + width.dense + width.expert * width.chosen) if case.stack.saves_inputs else 0.0


def _gathered(case: Case) -> float:
    """Bytes per token of the copies, and their gradients, that the grouped kernel gathers for every chosen expert."""
    if case.stack.experts != "grouped":
        return 0.0
    return 8.0 * case.width.hidden * case.width.chosen


def _wide(case: Case) -> float:
    return case.width.hidden * (1 - QUERY_SHARE) + case.width.attention * QUERY_SHARE
