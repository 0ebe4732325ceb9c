"""What a run needs beside the device: disk for its checkpoints, host memory while the base model loads."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from lora_advise.adapters import targets
from lora_advise.facts import Facts, TrainFacts
from lora_advise.memory_case import Case
from lora_advise.memory_weights import state_bytes

SOURCES = ("checkpoint-code", "host-load")
CHECKPOINT_BYTES = 2
"""Bytes per parameter of the base model's files: bf16 or fp16, as nearly all are published."""
EMBEDDINGS = ("embed_tokens", "lm_head")
"""PEFT's ``EMBEDDING_LAYER_NAMES``: an adapter on one of these is saved with the whole base matrix beside it."""


class Beside(NamedTuple):
    """Bytes beside the device's memory."""

    checkpoint: int
    """One checkpoint: trained weights and optimizer states. Tokenizer and logs come on top: some tens of MB at most."""
    kept: int
    """Checkpoints on the disk at once, at most: one more than are kept, until the trainer deletes the oldest."""
    adapter: int
    """The adapter's file; 0 in full fine-tuning."""
    mapped: int
    """The base model's files, read through the page cache: the system may drop them again at any time."""
    copied: int
    """Host memory that loading has to hold besides, for all processes together."""


def beside(facts: Facts, case: Case) -> Beside:
    """Disk and host memory of a run, in bytes, as transformers' trainer, PEFT and safetensors write and read.

    Sharded runs write the same states in shards; what DeepSpeed adds to them (fp32 copies) is not counted.
    """
    weights = case.adapters * case.stack.adapter_bytes + case.saved_bytes * case.saved + _embeddings(facts, case)
    full = case.method == "full"
    total = facts.model.total_params if facts.model else 0
    mapped, copied = CHECKPOINT_BYTES * total, _copied(facts, total)
    if facts.train is None:
        return Beside(0, 0, 0, mapped, copied)
    states = optimizer_bytes(facts, case)
    return Beside(weights + states, kept(facts, facts.train), 0 if full else weights, mapped, copied)


def optimizer_bytes(facts: Facts, case: Case) -> int:
    """Optimizer states as ``optimizer.pt`` holds them: paged ones too, which torch does not count on the device."""
    if facts.train is None:
        return 0
    optim = facts.train.optim.lower().replace("paged_", "")
    if "adafactor" in optim:
        # Two fp32 vectors for each matrix: r + d_in and d_out + r numbers, which is about 4/r B per parameter of A and B.
        return round(4 * case.adapters / facts.lora.r) if facts.lora else 0
    return round(
        case.adapters * state_bytes(optim, case.stack.adapter_bytes) + case.saved * state_bytes(optim, case.saved_bytes)
    )


def _embeddings(facts: Facts, case: Case) -> int:
    """Base embeddings that PEFT saves beside an adapter on them (``save_embedding_layers="auto"``)."""
    if facts.model is None or facts.lora is None or facts.lora.trainable_token_indices is not None:
        return 0
    adapted = [t.module for t in targets(facts.model, facts.lora) if t.module.path.rsplit(".", 1)[-1] in EMBEDDINGS]
    return case.saved_bytes * sum(m.d_in * m.d_out for m in adapted)


def kept(facts: Facts, train: TrainFacts) -> int:
    """Checkpoints that lie on the disk at once, at most.

    The trainer writes a checkpoint before it deletes the oldest; it never deletes the best one where it loads that at
    the end (transformers ``rotate_checkpoints``), and it saves the last step too.
    """
    if train.save_strategy == "no":
        return 0
    if train.save_strategy == "epoch":
        made = max(1, ceil(train.num_train_epochs))
    else:
        every = train.save_steps or train.eval_steps or train.logging_steps
        made = max(1, ceil((facts.optimizer_steps or every) / max(1, every)))
    if train.save_total_limit is None or train.save_total_limit <= 0:
        return made
    return min(made, max(train.save_total_limit, 2 if train.load_best_model_at_end else 1) + 1)


def _copied(facts: Facts, total: int) -> int:
    """Host memory for weights that are not used as the files hold them.

    safetensors are mapped: weights of the files' own format go from there to the device. Another format is a copy in
    each process before the model moves; a quantised base is converted and moved tensor by tensor. Where the device is
    the host, the weights are in the run's peak already.
    """
    hardware, train = facts.hardware, facts.train
    if train is None or train.dtype == "bfloat16" or (hardware is not None and hardware.kind in ("cpu", "mps")):
        return 0
    if facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit):
        return 0
    return total * (4 if train.dtype == "float32" else 2) * facts.data_parallel
