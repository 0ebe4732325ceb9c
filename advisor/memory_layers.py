"""Activations of the decoder layers: what a layer keeps, and how high its backward pass rises.

Coefficients are bytes per token for each unit of hidden width, key-value width and MLP width, traced with the real
library code on the meta device (memory model, section 4; retained exact, hump within 3 %). The tables hold for
fused attention (flash or memory-efficient).
"""

from __future__ import annotations

from lora_advise.memory_case import Case
from lora_advise.memory_stack import Mode

Coefficients = tuple[float, float, float]

RETAINED: dict[Mode, Coefficients] = {
    "amp": (16.1, 4.1, 8.0), "no-amp": (36.0, 4.1, 10.0), "bf16": (16.0, 4.0, 8.0), "nf4": (16.0, 4.0, 8.0),
    "kbit": (20.0, 8.0, 12.0), "kbit-amp": (16.1, 4.1, 14.0),
}  # fmt: skip
"""Kept per layer without activation checkpointing, no dropout, all linear layers adapted."""

HUMP: dict[Mode, Coefficients] = {
    "amp": (19.9, 4.1, 12.1), "no-amp": (51.9, 4.2, 12.1), "bf16": (19.9, 4.1, 12.1), "nf4": (17.1, 5.5, 10.8),
    "kbit": (3.4, 17.1, 27.4), "kbit-amp": (20.5, 13.1, 25.6),
}  # fmt: skip
"""Highest point of one layer's recomputation and backward pass."""

DROPOUT_RETAINED: dict[Mode, Coefficients] = {
    "amp": (14.0, 0.0, 1.0), "no-amp": (6.0, 0.0, 1.0), "bf16": (14.0, 0.0, 1.0), "nf4": (14.0, 0.0, 1.0),
    "kbit": (4.0, 0.0, 0.0), "kbit-amp": (14.0, 0.0, 1.0),
}  # fmt: skip
"""What adapter dropout adds: the dropped copy and a mask of one byte for every wrapped layer."""

DROPOUT_HUMP: dict[Mode, Coefficients] = {
    "amp": (22.0, 0.0, -1.0), "no-amp": (6.0, 0.0, 5.0), "bf16": (22.0, 0.0, -1.0), "nf4": (22.0, 0.0, -1.0),
    "kbit": (0.0, 0.0, 0.0), "kbit-amp": (0.0, 0.0, 0.0),
}  # fmt: skip
"""The table's hump with dropout less the one without; for nf4 checked against a full trace (303,384 B/token on
Mistral 7B, section 11: ours 306,278). The kbit-amp row was traced with dropout already."""

ATTENTION_ONLY: dict[Mode, Coefficients] = {
    "amp": (0.0, 0.0, -2.0), "no-amp": (-8.0, 0.0, -4.0), "bf16": (0.0, 0.0, -2.0), "nf4": (0.0, 0.0, -2.0),
    "kbit": (0.0, 0.0, 0.0), "kbit-amp": (0.0, 0.0, 0.0),
}  # fmt: skip
"""What is not retained when the MLP has no adapters: its product, which only the A of down_proj would need."""

ATTENTION_ONLY_HUMP: dict[Mode, Coefficients] = {
    "amp": (0.0, 0.0, 0.0), "no-amp": (-20.0, -0.1, 0.0), "bf16": (0.0, 0.0, 0.0), "nf4": (0.0, 0.0, 0.0),
    "kbit": (0.0, 0.0, 0.0), "kbit-amp": (0.0, 0.0, 0.0),
}  # fmt: skip
"""The same for the hump; other modes were traced with all linear layers only, so theirs is an upper bound."""

QUERY_SHARE = 6 / 16
"""Share of the hidden-width terms that are really of width heads * head_dim: query, rotated query, attention output."""

EAGER_HUMP = 14.8
"""Eager attention: about 7.4 score matrices of 2 B in the layer at work (fitcheck's fit; memory model, section 5)."""
EAGER_KEPT = 5.8
"""And 2.9 of them kept per layer without checkpointing."""


def retained_per_token(case: Case) -> float:
    """Bytes that one layer keeps per token when activations are not checkpointed."""
    a, b, c = _sum(case, RETAINED, DROPOUT_RETAINED, ATTENTION_ONLY)
    width = case.width
    base = a * _wide(case) + b * width.kv + c * (width.dense + width.expert * width.chosen)
    return base + _gathered(case) / 2


def hump_per_token(case: Case) -> float:
    """Bytes per token at the highest point of one layer's backward pass.

    With experts in a loop (transformers 4) the retained part counts once per chosen expert and the transient part only
    for one expert's tokens; the grouped kernel of transformers 5 holds all of it for all chosen experts, and a gathered
    copy of the input and the output for each (section 9; the grouped form is arithmetic, not measured).
    """
    a, b, c = _sum(case, HUMP, DROPOUT_HUMP, ATTENTION_ONLY_HUMP)
    width = case.width
    base = a * _wide(case) + b * width.kv + c * width.dense + _saved_inputs(case)
    if not width.expert:
        return base
    if case.stack.experts == "grouped":
        return base + c * width.expert * width.chosen + _gathered(case)
    kept = _sum(case, RETAINED, DROPOUT_RETAINED, ATTENTION_ONLY)[2]
    return base + width.expert * width.chosen * (kept + (c - kept) / max(1, width.experts))


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


def _sum(
    case: Case,
    base: dict[Mode, Coefficients],
    dropout: dict[Mode, Coefficients],
    attention_only: dict[Mode, Coefficients],
) -> Coefficients:
    mode = case.stack.mode
    a, b, c = base[mode]
    if case.dropout:
        a, b, c = a + dropout[mode][0], b + dropout[mode][1], c + dropout[mode][2]
    if case.method != "full" and not case.all_targets:
        less = attention_only[mode]
        a, b, c = a + less[0], b + less[1], c + less[2]
    return a, b, c


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
