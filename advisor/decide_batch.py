"""Effective batch, epochs and the step budget that they make."""

from __future__ import annotations

from math import ceil, log2
from typing import NamedTuple

from lora_advise.draft import Draft
from lora_advise.errors import LoraAdviseError
from lora_advise.plan import Confidence
from lora_advise.report_words import counted

MIN_STEPS = 100
"""Optimizer steps below which an adapter is usually under-trained (tinker-docs)."""
FEW = 50
"""Examples below which a prompt is the better tool, and 60 steps have to do (unsloth-guide)."""


class _Choice(NamedTuple):
    """A value, why, and what says so."""

    value: float
    why: str
    sources: tuple[str, ...]
    confidence: Confidence


def decide_batch(draft: Draft) -> tuple[int, float]:
    """Choose the effective batch wanted and the epochs together, so that enough optimizer steps remain."""
    batch, epochs = _batch(draft), _epochs(draft)
    rows, why, why_epochs = _rows(draft), batch.why, epochs.why
    wanted, least = int(batch.value), draft.hardware.count
    if wanted < least:
        why += f" Raised to {least:,}: each of the devices takes a row at every step."
        wanted = least
    shrunk, stretched = _with_steps(draft, rows, wanted, epochs.value)
    if shrunk != wanted:
        why += f" Lowered from {wanted} to leave {counted(_steps(rows, shrunk, epochs.value), 'step')}."
    if stretched != epochs.value:
        why_epochs += f" Raised from {epochs.value:g} for want of steps."
    steps = _steps(rows, shrunk, stretched)
    if steps < MIN_STEPS / 2 and draft.data.examples >= FEW and draft.task.family == "preference":
        draft.note("warning", f"Only {counted(steps, 'optimizer step')}, although batch and passes are at their limits: an adapter "
                   f"needs {MIN_STEPS} or more, so collect more pairs.", "tinker-docs")  # fmt: skip
    supervised = draft.task.family == "sft"
    value = draft.decide(
        "effective_batch", "batch", "Effective batch", shrunk, sweep=batch_sweep(shrunk) if supervised else None,
        because=why, sources=batch.sources, confidence=batch.confidence,
        flips="Data of another size: the best batch follows the data, not the model or the rank.",
    )  # fmt: skip
    chosen = draft.decide(
        "train.num_train_epochs", "batch", "Epochs", stretched,
        shown=f"{stretched:g}", sweep=_epoch_sweep(stretched) if supervised else None, because=why_epochs,
        sources=epochs.sources, confidence=epochs.confidence,
        flips="Held-out loss that still falls at the end (one more), or rises before it (stop there).",
    )  # fmt: skip
    return int(value), float(chosen)


def batch_sweep(batch: int) -> tuple[int, ...]:
    """Effective batches worth trying: the usual three, or half and twice a value that is not among them."""
    return (8, 16, 32) if batch in (8, 16, 32) else tuple(sorted({max(1, batch // 2), batch, 2 * batch}))


def _epoch_sweep(epochs: float) -> tuple[float, ...]:
    return (1, 2, 3) if epochs <= 3 else (epochs - 2, epochs - 1, epochs)


def _with_steps(draft: Draft, rows: int, batch: int, epochs: float) -> tuple[int, float]:
    """The batch shrunk, then the epochs raised, until there are enough steps or both are at their limits."""
    family, n = draft.task.family, draft.data.examples
    if family not in ("sft", "classification", "pretraining", "preference"):
        return batch, epochs
    enough = 60 if n < FEW else MIN_STEPS
    small = 1 if n < FEW else 2 if n < 150 else 4 if n < 500 else 8
    floor = max(draft.hardware.count, 8 if family == "preference" else small)
    limit = {"pretraining": 2.0, "preference": 3.0}.get(family, 5.0)
    while _steps(rows, batch, epochs) < enough and batch > max(floor, 4):
        batch = max(floor, 4, batch // 2)
    while _steps(rows, batch, epochs) < enough and epochs < limit:
        epochs += 1
    while _steps(rows, batch, epochs) < enough and batch > floor:
        batch = max(floor, batch // 2)
    return batch, epochs


def _rows(draft: Draft) -> int:
    """Training rows per epoch before the final rounding: examples that are not held out, or packed blocks."""
    data = draft.data
    share = float(draft.values.get("train.eval_share", 0.0))
    examples = max(1, data.examples - ceil(data.examples * share))
    if draft.values["train.packing"]:
        length: int = draft.values["train.max_length"]
        return max(1, ceil(examples * data.tokens_per_example / length))
    return examples


def _steps(rows: int, batch: int, epochs: float) -> int:
    return max(1, ceil(ceil(rows / batch) * epochs))


def _batch(draft: Draft) -> _Choice:
    n, family = draft.data.examples, draft.task.family
    if family == "preference":
        return _Choice(32, "Preference runs use 32 to 64 pairs a step.", ("alignment-handbook",), "convention")
    if family == "rl":
        why = "64 completions a step: 8 prompts with a group of 8."
        return _Choice(64, why, ("trl-code", "tinker-docs"), "convention")
    if family == "pretraining":
        length = draft.values["train.max_length"]
        why = f"About a quarter million tokens a step in blocks of {length:,}."
        return _Choice(2 ** round(log2(max(1.0, 262_144 / length))), why, ("convention",), "convention")
    sources = ("batch-size-2026", "lwr-2025", "baseten-2026")
    for limit, batch in ((150, 4), (500, 8), (50_000, 16), (500_000, 32)):
        if n < limit:
            return _Choice(
                batch, f"{counted(n, 'example')}: LoRA does best at small batches, 8 to 32.", sources, "measured"
            )
    return _Choice(64, f"{n:,} examples: the optimum grows slowly with the data.", sources, "measured")


def _epochs(draft: Draft) -> _Choice:  # noqa: PLR0911 - a decision list reads best as one
    n, task = draft.data.examples, draft.task
    if task.family in ("reward", "preference"):
        return _Choice(1.0, "One pass: repeats over-optimize preferences.", ("alignment-handbook",), "convention")
    if task.family == "pretraining":
        return _Choice(1.0, "One pass: new text teaches more than text seen before.", ("muennighoff-2023",), "measured")
    if task.family == "rl":
        why = "Online RL stops at the reward plateau; one pass over the prompts is the budget."
        return _Choice(1.0, why, ("convention",), "convention")
    if draft.model.kind == "encoder":
        epochs = 20.0 if n < 2_500 else 10.0 if n < 25_000 else 5.0 if n < 100_000 else 3.0
        why = "Encoders start from a random head: LoRA's own RoBERTa runs took 25 to 80 epochs; stop early on held-out loss."
        return _Choice(epochs, why, ("hu-2021",), "measured")
    if task.name == "math" and draft.data.completion_tokens > 2_000 and n < 5_000:
        why = "Long reasoning traces are the exception: repeating few examples beat one pass over many."
        return _Choice(5.0, why, ("long-cot-2026",), "measured")
    epochs = 3.0 if n < 1_000 else 2.0 if n < 20_000 else 1.0
    why = f"{counted(n, 'example')}: held-out loss bottoms near two passes, fewer on more data."
    sources = ("baseten-2026", "raschka-2023", "unsloth-guide")
    if task.name in ("classification", "extraction") and n < 100_000:
        return _Choice(min(5.0, epochs + 1), why + " One more for short outputs.", sources, "measured")
    return _Choice(epochs, why, sources, "measured")


def decide_split(draft: Draft, batch: int, micro: int, replicas: int) -> tuple[int, int, int]:
    """Split the effective batch into micro-batch, accumulation and replicas; returns micro, accumulation, effective.

    Raises LoraAdviseError where the user gave all three and they contradict each other.
    """
    micro = max(1, min(micro, batch // replicas or 1))
    micro = int(
        draft.decide(
            "train.per_device_train_batch_size", "batch", "Micro-batch", micro,
            because="The largest power of two that fits the device with room to spare; it moves speed and memory, not quality.",
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
    effective = micro * accumulation * replicas
    _agree(draft, batch, micro, accumulation, replicas)
    return micro, accumulation, effective


def _agree(draft: Draft, batch: int, micro: int, accumulation: int, replicas: int) -> None:
    """Say where the effective batch differs from what the user asked. Raises where he asked for a contradiction."""
    effective = micro * accumulation * replicas
    if "effective_batch" not in draft.overrides or effective == batch:
        return
    product = f"micro-batch {micro} x accumulation {accumulation}" + (f" x {replicas} devices" if replicas > 1 else "")
    if {"train.per_device_train_batch_size", "train.gradient_accumulation_steps"} <= set(draft.overrides):
        raise LoraAdviseError(
            f"--batch: {batch} contradicts {product}, which is {effective}; leave one of the three out."
        )
    draft.note(
        "warning", f"An effective batch of {batch} cannot be split so: {product} makes {effective}.", "arithmetic"
    )
