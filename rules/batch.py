"""Rules about the effective batch and the number of optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from lora_advise.facts import DataFacts, Facts, LoraFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule


def _smaller(facts: Facts, train: TrainFacts, wanted: int) -> tuple[Change, ...]:
    """Changes that bring the effective batch down to ``wanted`` or as near as the devices allow."""
    micro = min(train.per_device_train_batch_size, max(1, wanted // facts.data_parallel))
    accumulation = max(1, wanted // (micro * facts.data_parallel))
    return (
        Change("train.per_device_train_batch_size", micro),
        Change("train.gradient_accumulation_steps", accumulation),
    )


@rule("batch-large-for-data", "MEM506", Severity.WARNING, Confidence.MEASURED, ("batch-size-2026", "lwr-2025"))
def batch_large_for_data(
    task: TaskFacts, lora: LoraFacts, train: TrainFacts, data: DataFacts, facts: Facts
) -> Iterator[Hit]:
    """The effective batch is above 64 for fewer than 10,000 examples.

    Why: LoRA loses more than full fine-tuning at large batches whatever its rank, and few examples leave few steps.
    Example:
        data: {examples: 8000}
        train: {gradient_accumulation_steps: 32}
    Instead:
        data: {examples: 8000}
        train: {gradient_accumulation_steps: 4}
    Evidence: the batch alone moved GSM8K by more than 10 points; its optimum follows the size of the data, not of the
        model.
    Known problems: with very short answers larger batches lose less.
    """
    batch = facts.effective_batch
    if task.family != "sft" or batch is None or not 64 < batch <= 128 or data.examples >= 10_000:
        return
    if batch // facts.data_parallel <= 1:
        return
    yield Hit(
        f"An effective batch of {batch} for {data.examples:,} examples is more than LoRA takes well: 8 to 32 do best.",
        ("train.gradient_accumulation_steps", "train.per_device_train_batch_size"),
        _smaller(facts, train, 16),
    )


@rule("batch-very-large", "MEM507", Severity.WARNING, Confidence.MEASURED, ("lwr-2025", "baseten-2026"))
def batch_very_large(task: TaskFacts, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The effective batch of a supervised LoRA run is above 128 sequences.

    Why: the gap between LoRA and full fine-tuning grows with the batch, and rank does not close it.
    Example:
        train: {gradient_accumulation_steps: 128}
        data: {examples: 200000}
    Instead:
        train: {gradient_accumulation_steps: 8}
        data: {examples: 200000}
    Evidence: measured over batches from 32 to 512.
    Known problems: one vendor starts at 128 and scales the rate with the root of the batch.
    """
    batch = facts.effective_batch
    if task.family != "sft" or batch is None or batch <= 128 or batch // facts.data_parallel <= 1:
        return
    yield Hit(
        f"An effective batch of {batch} sequences is where LoRA falls behind full fine-tuning: use 32 to 64.",
        ("train.gradient_accumulation_steps", "train.per_device_train_batch_size"),
        _smaller(facts, train, 32),
    )


@rule("too-few-steps", "MEM508", Severity.WARNING, Confidence.MEASURED, ("tinker-docs", "lwr-2025"))
def too_few_steps(task: TaskFacts, train: TrainFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """The run has fewer than 50 optimizer steps although a smaller batch or another epoch would give more.

    Why: B starts at zero; below a hundred steps adapters are under-trained whatever the learning rate.
    Example:
        data: {examples: 400}
        train: {num_train_epochs: 1.0, warmup_steps: 5}
    Instead:
        data: {examples: 400}
        train: {num_train_epochs: 3.0, gradient_accumulation_steps: 2, warmup_steps: 5}
    Evidence: published guidance of at least 100 steps; runs below it preferred a rate 1.5 times higher.
    Known problems: when batch and epochs are at their limits there is nothing to change, and nothing is said. Whoever
        writes so few max_steps in a file mostly means a trial, so there it is a note.
    """
    steps, batch = facts.optimizer_steps, facts.effective_batch
    if (
        task.family not in ("sft", "classification", "pretraining", "preference")
        or steps is None
        or batch is None
        or steps >= 50
        or train.num_train_epochs <= 0
    ):
        return
    if train.max_steps is not None and train.max_steps > 0:
        yield Hit(
            f"max_steps ends the run after {steps} optimizer steps; an adapter needs 100 or more.",
            ("train.max_steps",),
            (Change("train.max_steps", 100),),
            Severity.NOTE if config is not None else None,
        )
        return
    limit = {"pretraining": 2.0, "preference": 3.0}.get(task.family, 5.0)
    floor = max(8, facts.data_parallel)
    if batch <= floor and train.num_train_epochs >= limit:
        return
    changes: tuple[Change, ...] = _smaller(facts, train, floor) if batch > floor else ()
    smaller = steps * batch / min(batch, floor)
    if smaller < 100 and train.num_train_epochs < limit:
        epochs = min(limit, float(ceil(train.num_train_epochs * 100 / smaller)))
        changes = (*changes, Change("train.num_train_epochs", epochs))
    yield Hit(
        f"The run has only {steps} optimizer step{'s' * (steps != 1)} (batch {batch}, {train.num_train_epochs:g} epoch{'s' * (train.num_train_epochs != 1)}); an adapter "
        "needs 100 or more: lower the batch or add epochs.",
        ("train.num_train_epochs", "train.gradient_accumulation_steps"),
        changes,
    )


BATCH_RULES = (batch_large_for_data, batch_very_large, too_few_steps)
