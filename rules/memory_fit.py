"""Rules about memory and devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_advise.facts import (
    GIB,
    Facts,
    HardwareFacts,
    LoraFacts,
    ModelFacts,
    QuantFacts,
    StackFacts,
    TrainFacts,
)
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.section import Section, stated
from lora_advise.unknown import unknown_fields

if TYPE_CHECKING:
    from lora_advise.plan import MemoryVerdict


def _changes(verdict: MemoryVerdict) -> tuple[Change, ...]:
    """The ways out, cheapest first, up to the one with which the run fits."""
    values: dict[str, object] = {}
    for way in verdict.ways_out:
        for field, value in way.values.items():
            values = {key: old for key, old in values.items() if not key.startswith(f"{field}.")}
            values.update(
                {f"{field}.{key}": new for key, new in stated(value).items()}
                if isinstance(value, Section) and field != "lora"
                else {field: value}
            )
        if way.enough:
            break
    return tuple(Change(field, value) for field, value in values.items())


@rule("does-not-fit", "MEM501", Severity.ERROR, Confidence.MEASURED, ("memory-model", "fms-measured"))
def does_not_fit(model: ModelFacts, train: TrainFacts, hardware: HardwareFacts, facts: Facts) -> Iterator[Hit]:
    """The run needs more memory than the device has.

    Why: even the low end of the forecast is above the device's memory. The run ends with an out-of-memory error, at the
        longest
        batch at the latest.
    Example:
        hardware: {name: NVIDIA GeForce RTX 4060, memory_gib: 7.6}
    Instead:
        hardware: {name: NVIDIA RTX A6000, memory_gib: 47.4}
    Evidence: a forecast calibrated on measured runs; docs/evidence.md gives its error.
    Known problems: kernels and versions that it does not know may need less or more.
    """
    from lora_advise.memory import fit, judge

    if fit(facts) != "does not fit":
        return
    verdict = judge(facts)
    way = "; ".join(
        f"{w.change} (saves {w.saves / GIB:.1f} GiB)" if w.saves else w.change for w in verdict.ways_out[:3]
    )
    yield Hit(
        f"The run does not fit: {verdict.needs}."
        + (f" Ways out: {way}." if way else " Use a larger or a second device."),
        ("train.per_device_train_batch_size", "train.max_length"),
        _changes(verdict),
    )


@rule("memory-tight", "MEM502", Severity.WARNING, Confidence.MEASURED, ("memory-model", "fms-measured"))
def memory_tight(model: ModelFacts, train: TrainFacts, hardware: HardwareFacts, facts: Facts) -> Iterator[Hit]:
    """The run may or may not fit: the device's memory lies inside the forecast.

    Why: the allocator's fragmentation decides, and the longest batch comes when it comes.
    Example:
        hardware: {name: NVIDIA RTX 4000 Ada, memory_gib: 19.6}
    Instead:
        hardware: {name: NVIDIA RTX A6000, memory_gib: 47.4}
    Evidence: the band of the forecast.
    Known problems: a rehearsal of a few steps on the longest examples tells.
    """
    from lora_advise.memory import fit, judge

    if fit(facts) == "tight":
        verdict = judge(facts)
        yield Hit(
            f"The run may run out of memory: {verdict.needs}. Rehearse it on the longest examples first.",
            ("train.per_device_train_batch_size", "train.max_length"),
            _changes(verdict),
        )


@rule("checkpointing-off-on-long-batch", "MEM503", Severity.WARNING, Confidence.MEASURED, ("memory-model",))
def checkpointing_off_on_long_batch(train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Activation checkpointing is off with more than 8,192 tokens per micro-batch, on a device that is not known.

    Why: without it every layer keeps all its intermediate results, 10 to 30 times the memory of the checkpoints alone.
    Example:
        hardware: null
        train: {activation_checkpointing: false, per_device_train_batch_size: 16, gradient_accumulation_steps: 1}
    Instead:
        hardware: null
        train: {activation_checkpointing: true, per_device_train_batch_size: 16, gradient_accumulation_steps: 1}
    Evidence: the memory model's activation terms.
    Known problems: when the device is known the forecast decides instead.
    """
    tokens = train.per_device_train_batch_size * train.max_length
    named = facts.hardware is not None and "memory_gib" not in unknown_fields(facts.hardware)
    if not named and not train.activation_checkpointing and tokens > 8192:
        yield Hit(
            f"A micro-batch of {tokens:,} tokens without activation checkpointing keeps every intermediate result: "
            "turn it on, or name the device.",
            ("train.per_device_train_batch_size", "train.max_length", "train.activation_checkpointing"),
            (Change("train.activation_checkpointing", True),),
        )


@rule("devices-idle", "MEM504", Severity.WARNING, Confidence.FACT, ("transformers-code", "arithmetic"))
def devices_idle(hardware: HardwareFacts, stack: StackFacts, train: TrainFacts) -> Iterator[Hit]:
    """Several devices are there, but the run uses one of them.

    Why: without DDP, FSDP or ZeRO one process trains on one device, or splits the layers so that one works at a time.
    Example:
        hardware: {count: 4}
    Instead:
        hardware: {count: 4}
        stack: {sharding: ddp}
        train: {gradient_accumulation_steps: 1}
    Evidence: how the Trainer is launched.
    Known problems: the other devices may be for another run.
    """
    if hardware.count > 1 and stack.sharding == "none":
        accumulation = max(1, round(train.gradient_accumulation_steps / hardware.count))
        yield Hit(
            f"{hardware.count} devices and no sharding: only one would train. With ddp set gradient_accumulation_steps "
            f"to {accumulation} to keep the batch.",
            ("stack.sharding",),
            (Change("stack.sharding", "ddp"), Change("train.gradient_accumulation_steps", accumulation)),
        )


@rule("four-bit-for-nothing", "MEM505", Severity.NOTE, Confidence.CONVENTION, ("litgpt-measured", "raschka-2023"))
def four_bit_for_nothing(
    model: ModelFacts, train: TrainFacts, hardware: HardwareFacts, lora: LoraFacts, quant: QuantFacts, facts: Facts
) -> Iterator[Hit]:
    """The base is in 4 bits although the run would fit in 16 bits with a fifth of the memory to spare.

    Why: expanding 4-bit weights for every multiplication cost 39 to 50 % of the speed.
    Example:
        hardware: {name: NVIDIA H200, memory_gib: 139.8}
        quant: {load_in_4bit: true}
    Instead:
        hardware: {name: NVIDIA H200, memory_gib: 139.8}
    Evidence: two sets of measurements.
    Known problems: other work on the same device wants memory too.
    """
    from lora_advise.memory import estimate

    if not quant.load_in_4bit:
        return
    high = estimate(facts.changed({"quant": None})).device[1] / GIB
    if high <= 0.8 * hardware.memory_gib:
        yield Hit(
            f"In 16 bits the run needs at most {high:.1f} of {hardware.memory_gib:.1f} GiB: the 4-bit base only costs "
            "speed (39 to 50 % in measurements).",
            ("quant.load_in_4bit",),
            (Change("quant.load_in_4bit", False),),
        )


MEMORY_RULES = (does_not_fit, memory_tight, checkpointing_off_on_long_batch, devices_idle, four_bit_for_nothing)
