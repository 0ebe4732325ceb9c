"""The output head and the loss: the term that decides most peaks, and that differs most between stacks."""

from __future__ import annotations

from lora_advise.facts import GIB
from lora_advise.memory_case import Case
from lora_advise.memory_traced import TYPE

TILE = 32_768
"""Vocabulary entries that TRL 1.16 scores at a time (``_CHUNKED_LOGPROB_CHUNK_SIZE``)."""
TILE_TOKENS = 4_096
"""Tokens of one tile (``TOKEN_CHUNK_SIZE`` in ``trl/kernels/chunked_logprob.py``)."""
TILED_HIDDEN = 8
"""The tiled head copies the scored hidden states (2 B) and holds their gradient in fp32 (4 B) and in bf16 (2 B)."""

CHUNKS = 8
"""torchtune's ``num_output_chunks``: the log-softmax of every chunk is kept in fp32 (4 B), and at the first chunk of the
backward pass two gradients of it exist besides (8 B); read in ``cross_entropy_loss.py``, not measured."""
ADAPTIVE = 4 * GIB
"""Unsloth sizes its chunks so that their fp32 logits stay below this, and below half of the free memory
(``fused_losses/cross_entropy_loss.py``)."""


SOFTCAPPED = ("gemma2", "gemma3n", "gemma3n_text", "recurrent_gemma")
"""Model types that cap their logits with a tanh (``final_logit_softcapping``), whose 16-bit result the backward pass needs."""


def loss_bytes(case: Case, tokens: int) -> float:
    """Bytes of logits and loss at their peak. ``tokens`` are the sequence positions of the micro-batch.

    TRL scores only positions with a label; the bound takes all positions, as with ``loss_on = all``.
    """
    hidden, vocab = case.width.hidden, case.width.vocab
    kind = case.stack.loss
    if kind == "none":
        return 0.0
    if kind == "tiled":
        # The gradient of a trained head is accumulated in fp32 before it is cast.
        tile = 2 * min(tokens, TILE_TOKENS) * min(vocab, TILE)
        return tile + TILED_HIDDEN * hidden * tokens + 4 * case.head_trained
    if kind == "liger":
        # Liger's chunk: tokens over ceil(V / h), rounded up to a power of two (fused_linear_cross_entropy.py).
        chunks = -(-vocab // hidden)
        chunk = 1 << (-(-tokens // chunks) - 1).bit_length()
        return 2 * min(chunk, tokens) * vocab + 2 * hidden * tokens + 2 * case.head_trained
    if kind == "chunked":
        return (4 + 8 / CHUNKS) * vocab * tokens + 2 * case.head_trained
    if kind == "adaptive":
        # Compiled: 16-bit logits of a chunk and their gradient, and the gradient of the hidden states.
        return min(4 * vocab * tokens, ADAPTIVE) + 2 * hidden * tokens + 2 * case.head_trained
    # The peak comes before the gradient of a trained head exists: in the forward loss, or in the log-softmax behind it.
    capped = 2 if case.key[TYPE] in SOFTCAPPED else 0
    return (case.stack.logit_bytes + capped) * vocab * tokens + _head_copy(case)


def _head_copy(case: Case) -> int:
    """A 16-bit copy of the head for its product: of an fp32 head under autocast, or of a quantised one."""
    stack = case.stack
    upcast = stack.mode == "kbit-amp" and stack.embedding_bytes == 4
    copied = upcast or (stack.own_head and case.method == "qlora")
    return 2 * case.width.vocab * case.width.hidden if copied else 0


def head_bytes(case: Case, tokens: int) -> float:
    """Bytes of the final norm and of the gradient behind it: 3 residual widths, 4 under FSDP (section 11).

    A Triton norm keeps its input in 16 bits, so that only the hidden state and its gradient remain.
    """
    factor = 2 if case.stack.triton else 4 if case.sharding == "fsdp" else 3
    return factor * case.stack.residual_bytes * case.width.hidden * tokens
