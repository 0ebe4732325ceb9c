"""How long a run takes: tokens per second, seconds per step, hours, and what that costs at a price that the user gives.

A device works through arithmetic and memory traffic (:mod:`lora_advise.throughput_work`) at a share of its stated rates
(:mod:`lora_advise.throughput_rates`). The fast end of every band overlaps that with launching operations and with the
exchange between devices; the slow end does one after the other.
"""

from math import ceil, isfinite, log
from typing import NamedTuple

from lora_advise.adapters import trainable_params
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, TrainFacts
from lora_advise.memory_case import length_of
from lora_advise.plan import TimeEstimate, TimePart
from lora_advise.throughput_rates import LAUNCH, PCIE, Band, Rates, link_of, rates_of
from lora_advise.throughput_work import Passes, Shape, Work, passes, shape_of, step_work

SOURCES = ("throughput-model", "throughput-trace", "gpu-datasheets", "fms-measured")
TAIL = 4.6
"""The 99th percentile over the mean of lengths that fall off exponentially: ln 100."""
ONLINE = ("grpo", "ppo")
"""Trainers that generate completions between their training passes."""


class Exchange(NamedTuple):
    """Bytes that a device sends in each micro-batch and once a step, and over its host link in each micro-batch."""

    batch: float = 0.0
    step: float = 0.0
    host: float = 0.0


class Pace(NamedTuple):
    """Seconds: of one optimizer step and of one evaluation batch, each as fast and slow end."""

    step: Band
    evaluation: Band


def forecast(facts: Facts, price: float | None = None) -> TimeEstimate | str:
    """The time of the run on its devices, or a sentence on why it cannot be told.

    ``price`` is for one device and hour, in any currency. Raises LoraAdviseError for missing sections.
    """
    if facts.hardware is None:
        raise LoraAdviseError("Time cannot be forecast without the facts' hardware section; give it.")
    shape = shape_of(facts)
    rates = rates_of(facts.hardware, shape.train.dtype)
    if isinstance(rates, str):
        return rates
    made = passes(shape, shape.train.per_device_train_batch_size, padded_length(facts, shape.train))
    pace = _pace(facts, link_of(facts.hardware, facts.data_parallel)[0], shape, rates, made)
    if shape.trainer in ONLINE:
        return (
            f"Not forecast: {shape.trainer} generates completions between its training passes, at the speed of the engine that "
            f"generates; with rows of full length the training passes alone take {pace.step[0]:.2g} s a step or more."
        )
    return _estimate(facts, shape, rates, made, pace, price)


def padded_length(facts: Facts, train: TrainFacts, rows: int | None = None) -> float:
    """Mean tokens of a row of a micro-batch with its padding: what the device computes.

    Packed rows are full. Else every row is as long as the longest of its micro-batch, which for lengths with an exponential
    tail through the 99th percentile (of the data, else 4.6 means) lies at the quantile 1 - 1/rows.
    """
    longest, data = length_of(facts, train), facts.data
    if train.packing or data is None or (facts.task is not None and facts.task.trainer in ONLINE):
        return float(longest)
    mean = min(data.tokens_per_example, longest)
    top = min(longest, data.p99_tokens or TAIL * mean)
    grown = mean + (top - mean) * log(rows or train.per_device_train_batch_size) / log(100)
    return max(float(mean), min(grown, float(longest)))


def _pace(facts: Facts, link: Band, shape: Shape, rates: Rates, made: Passes) -> Pace:
    accumulation, sent = shape.train.gradient_accumulation_steps, exchange(facts, shape)
    optimizer = step_work(shape, _trained(facts) / _shards(facts))
    step = made.all.times(accumulation) + optimizer
    exchanged = sent.batch * accumulation + sent.step
    host = sent.host * accumulation
    rows = shape.train.per_device_eval_batch_size
    forward = passes(shape, rows, padded_length(facts, shape.train, rows))
    looked = forward.forward + forward.reference
    return Pace(
        (
            max(fast(step, rates), exchanged / link[1], host / PCIE[1]),
            slow(step, rates) + exchanged / link[0] + host / PCIE[0],
        ),
        (fast(looked, rates), slow(looked, rates) + sent.batch / 2 / link[0]),  # gathered once instead of twice
    )


def ideal(work: Work, rates: Rates) -> float:
    """Seconds at the stated rates: products while their weights stream in, then the traffic between them."""
    return max(work.flops / rates.flops, work.weights / rates.bytes) + work.bytes / rates.bytes


def fast(work: Work, rates: Rates) -> float:
    """Seconds when the host stays ahead, or sets the pace with cheap launches."""
    return max(ideal(work, rates) / rates.efficiency.high, work.operations * LAUNCH[0])


def slow(work: Work, rates: Rates) -> float:
    """Seconds when nothing overlaps and launches are dear."""
    return ideal(work, rates) / rates.efficiency.low + work.operations * LAUNCH[1]


def exchange(facts: Facts, shape: Shape) -> Exchange:
    """What the devices send each other.

    FSDP gathers the weights for the forward and the backward pass, ZeRO-3 for the recomputation too; both scatter gradients
    of what is trained. ZeRO-2 sums gradients in every micro-batch, DDP once a step.
    """
    devices, stack = facts.data_parallel, facts.stack
    if devices < 2 or stack is None:
        return Exchange()
    others = (devices - 1) / devices
    gradients = _trained(facts) * (shape.stack.adapter_bytes if facts.lora else 2)
    if stack.sharding == "ddp":
        return Exchange(step=2 * others * gradients)
    if stack.sharding == "zero2":
        return Exchange(batch=others * gradients, step=others * gradients)
    whole = _gathered(facts, shape)
    times = 3 if stack.sharding == "zero3" and shape.train.activation_checkpointing else 2
    host = times * whole / devices if stack.cpu_offload else 0.0
    return Exchange(batch=others * (times * whole + gradients), host=host)


def _gathered(facts: Facts, shape: Shape) -> float:
    """Bytes of the weights that are spread over the devices; packed ones only where bf16 storage lets them be."""
    model, quant = shape.model, facts.quant
    if shape.bits and (quant is None or quant.bnb_4bit_quant_storage == "uint8"):
        return 2.0 * max(0.0, model.total_params - shape.quantised)
    return 2.0 * (model.total_params - shape.quantised) + shape.quantised * (0.516 if shape.bits == 4 else 1.0)


def _trained(facts: Facts) -> float:
    model = facts.model
    if model is None:
        return 0.0
    return float(trainable_params(model, facts.lora) if facts.lora else model.total_params)


def _shards(facts: Facts) -> int:
    sharding = facts.stack.sharding if facts.stack else "none"
    return facts.data_parallel if sharding in ("fsdp", "zero2", "zero3") else 1


def _estimate(facts: Facts, shape: Shape, rates: Rates, made: Passes, pace: Pace, price: float | None) -> TimeEstimate:
    accumulation, devices = shape.train.gradient_accumulation_steps, facts.data_parallel
    tokens = made.tokens * accumulation
    steps = facts.optimizer_steps
    looks = _evaluations(facts, steps)
    run = None if steps is None else (_hours(pace, steps, looks, 0), _hours(pace, steps, looks, 1))
    paid = facts.hardware.count if facts.hardware else 1
    return TimeEstimate(
        rate=(tokens / pace.step[1], tokens / pace.step[0]),
        rate_all=(devices * tokens / pace.step[1], devices * tokens / pace.step[0]),
        step_tokens=round(devices * tokens), step_seconds=pace.step, steps=steps, hours=run, devices=devices,
        evaluation_batches=looks, evaluation_seconds=pace.evaluation,
        efficiency=(rates.efficiency.low, rates.efficiency.high), efficiency_of=rates.efficiency.of,
        parts=_parts(facts, shape, rates, made), limit=_limit(made, rates), assumptions=_assumptions(facts, shape, looks),
        price=price, cost=None if price is None or run is None else (run[0] * paid * price, run[1] * paid * price),
        sources=SOURCES,
    )  # fmt: skip


def _hours(pace: Pace, steps: int, looks: int, end: int) -> float:
    return (steps * pace.step[end] + looks * pace.evaluation[end]) / 3600


def _evaluations(facts: Facts, steps: int | None) -> int:
    """Evaluation batches of one device over the whole run; 0 without evaluation, or when the held-out rows are unknown."""
    train, data = facts.train, facts.data
    if train is None or data is None or steps is None or train.eval_strategy == "no":
        return 0
    held_out = data.examples - (facts.train_examples or data.examples)
    times = (
        ceil(train.num_train_epochs) if train.eval_strategy == "epoch" else steps // max(1, train.eval_steps or steps)
    )
    return times * ceil(held_out / (train.per_device_eval_batch_size * facts.data_parallel))


def _parts(facts: Facts, shape: Shape, rates: Rates, made: Passes) -> tuple[TimePart, ...]:
    accumulation = shape.train.gradient_accumulation_steps
    named = (
        ("forward", "Forward pass", made.forward.times(accumulation)),
        ("recompute", "Recomputation of checkpointed layers", made.recompute.times(accumulation)),
        ("backward", "Backward pass", made.backward.times(accumulation)),
        ("reference", "Reference model", made.reference.times(accumulation)),
        ("optimizer", "Optimizer step", step_work(shape, _trained(facts) / _shards(facts))),
    )
    return tuple(
        TimePart(name=name, label=label, seconds=seconds)
        for name, label, work in named
        if (seconds := ideal(work, rates)) > 0
    )


def _limit(made: Passes, rates: Rates) -> str:
    """What a micro-batch mostly waits for."""
    work = made.all
    if work.operations * LAUNCH[1] > ideal(work, rates) / rates.efficiency.low:
        return "launching operations: larger micro-batches are faster"
    if work.weights / rates.bytes > work.flops / rates.flops:
        return "reading weights: larger micro-batches are faster"
    return (
        "arithmetic" if work.flops / rates.flops > work.bytes / rates.bytes else "memory traffic between the products"
    )


def _assumptions(facts: Facts, shape: Shape, looks: int) -> tuple[str, ...]:
    train, found = shape.train, ["loading, saving and warming up are not counted"]
    if not train.packing and facts.data is not None and train.per_device_train_batch_size > 1:
        found.append("rows of a micro-batch are padded to its longest, in random order")
    if facts.data_parallel > 1 and facts.hardware is not None:
        found.append(link_of(facts.hardware, facts.data_parallel)[1])
    if train.eval_strategy != "no" and not looks:
        found.append("evaluation is not counted: the rows of the separate file are not part of the plan")
    if facts.stack is not None and facts.stack.cpu_offload:
        found.append("the optimizer step on the host is not counted")
    if facts.hardware is not None and facts.hardware.count > facts.data_parallel:
        found.append("the devices work one after the other: only one is busy at a time")
    if shape.model.has_vision or shape.model.has_audio:
        found.append("pictures and sound are not counted, only text")
    if shape.model.recurrent_layers:
        found.append("the scans of recurrent layers are not counted, only their products")
    if facts.stack is not None and facts.stack.framework == "unsloth":
        found.append("Unsloth's fused kernels move less than the operations of transformers, which are counted")
    if shape.bits == 8:
        found.append("8-bit weights were not calibrated")
    return tuple(found)


def check_price(given: str | float | None) -> float | None:
    """The price of ``--price``. Raises LoraAdviseError for what is no positive number."""
    if given is None:
        return None
    try:
        price = float(given)
    except (ValueError, TypeError):
        price = 0.0
    if not isfinite(price) or not 0 < price <= 1e6:
        raise LoraAdviseError(
            f"--price: {str(given)[:40]!r} must be a number from 0 (exclusive) to a million: what one GPU costs in an hour, in any currency, such as 2.49."
        )
    return price
