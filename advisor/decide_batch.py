"""Effective batch, epochs and the step budget that they make."""

from __future__ import annotations

from math import ceil

from lora_advise.draft import Draft

MIN_STEPS = 100
"""Optimizer steps below which a supervised run is usually under-trained (tinker-docs)."""


def decide_batch(draft: Draft) -> tuple[int, float]:
    """Choose the effective batch wanted and the epochs together, so that enough optimizer steps remain."""
    wanted, why = _batch(draft)
    epochs, why_epochs = _epochs(draft)
    rows = _rows(draft)
    family = draft.task.family
    least = draft.hardware.count
    if wanted < least:
        why += f" Raised to {least:,}: each of the devices takes a row at every step."
        wanted = least
    shrunk, stretched = wanted, epochs
    if family in ("sft", "classification", "pretraining"):
        floor = max(least, 4 if draft.data.examples < 500 else 8)
        while _steps(rows, shrunk, stretched) < MIN_STEPS and shrunk > floor:
            shrunk = max(floor, shrunk // 2)
        limit = 5.0 if family != "pretraining" else 2.0
        while _steps(rows, shrunk, stretched) < MIN_STEPS and stretched < limit:
            stretched += 1
    if shrunk != wanted:
        why += f" Lowered from {wanted} to leave {_steps(rows, shrunk, epochs):,} steps."
    if stretched != epochs:
        why_epochs += f" Raised from {epochs:g} for want of steps."
    batch = draft.decide(
        "effective_batch", "batch", "Effective batch", shrunk, sweep=(8, 16, 32) if family == "sft" else None,
        because=why, sources=("batch-size-2026", "lwr-2025", "baseten-2026"), confidence="measured",
        flips="Data of another size: the best batch follows the data, not the model or the rank.",
    )  # fmt: skip
    chosen = draft.decide(
        "train.num_train_epochs", "batch", "Epochs", stretched,
        shown=f"{stretched:g}", sweep=(1, 2, 3) if family == "sft" else None, because=why_epochs,
        sources=("baseten-2026", "raschka-2023", "unsloth-guide"), confidence="measured",
        flips="Held-out loss that still falls at the end (one more), or rises before it (stop there).",
    )  # fmt: skip
    return int(batch), float(chosen)


def _rows(draft: Draft) -> int:
    """Training rows per epoch before the final rounding: examples, or packed blocks."""
    data = draft.data
    if draft.values["train.packing"]:
        length: int = draft.values["train.max_length"]
        return max(1, ceil(data.examples * data.tokens_per_example / length))
    return data.examples


def _steps(rows: int, batch: int, epochs: float) -> int:
    return max(1, ceil(ceil(rows / batch) * epochs))


def _batch(draft: Draft) -> tuple[int, str]:
    n, family = draft.data.examples, draft.task.family
    if family == "preference":
        return 32, "Preference runs use 32 to 64 pairs a step."
    if family == "rl":
        return 64, "64 completions a step: 8 prompts with a group of 8."
    if family == "pretraining":
        length = draft.values["train.max_length"]
        return 2 ** round(_log2(262_144 / length)), f"About a quarter million tokens a step in blocks of {length:,}."
    for limit, batch in ((150, 4), (500, 8), (50_000, 16), (500_000, 32)):
        if n < limit:
            return batch, f"{n:,} examples: LoRA does best at small batches, 8 to 32."
    return 64, f"{n:,} examples: the optimum grows slowly with the data."


def _log2(x: float) -> float:
    from math import log2

    return log2(max(1.0, x))


def _epochs(draft: Draft) -> tuple[float, str]:
    n, task = draft.data.examples, draft.task
    if task.family in ("pretraining", "reward", "preference"):
        return 1.0, "One pass: repeats add little for pretraining text and over-optimize preferences."
    if task.family == "rl":
        return 1.0, "Online RL stops at the reward plateau; one pass over the prompts is the budget."
    if draft.model.kind == "encoder":
        epochs = 20.0 if n < 2_500 else 10.0 if n < 25_000 else 5.0 if n < 100_000 else 3.0
        return (
            epochs,
            "Encoders start from a random head: LoRA's own GLUE runs took 10 to 80 epochs; stop early on held-out loss.",
        )
    if task.name == "math" and draft.data.completion_tokens > 2_000 and n < 5_000:
        return 5.0, "Long reasoning traces are the exception: repeating few examples beat one pass over many."
    epochs = 3.0 if n < 1_000 else 2.0 if n < 20_000 else 1.0
    why = f"{n:,} examples: held-out loss bottoms near two passes, fewer on more data."
    if task.name in ("classification", "extraction") and n < 100_000:
        return min(5.0, epochs + 1), why + " One more for short outputs."
    return epochs, why


def decide_split(draft: Draft, batch: int, micro: int, replicas: int) -> tuple[int, int, int]:
    """Split the effective batch into micro-batch, accumulation and replicas; returns micro, accumulation, effective."""
    micro = max(1, min(micro, batch // replicas or 1))
    micro = int(
        draft.decide(
            "train.per_device_train_batch_size", "batch", "Micro-batch", micro,
            because="The largest power of two that fits the device; it moves speed and memory, not quality.",
            sources=("memory-model", "arithmetic"), confidence="derived",
            flips="A measured peak that leaves room, or an out-of-memory error on the longest batch.",
        )
    )  # fmt: skip
    accumulation = int(
        draft.decide(
            "train.gradient_accumulation_steps", "batch", "Accumulation", max(1, ceil(batch / (micro * replicas))),
            because=f"ceil({batch} / ({micro} x {replicas})): the number of devices belongs in the formula.",
            sources=("arithmetic",), confidence="derived", flips="Another micro-batch or number of devices.",
        )
    )  # fmt: skip
    return micro, accumulation, micro * accumulation * replicas
