"""What to change when a run does not fit: cheapest first, each with what it saves and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from lora_advise import memory
from lora_advise.facts import GIB, Facts, HardwareFacts, Method, StackFacts, TrainFacts
from lora_advise.memory_case import case_of, length_of
from lora_advise.memory_stages import peak_stage
from lora_advise.model_kernels import NO_FOUR_BITS, attention_refused, foreign_format
from lora_advise.plan import WayOut

SHORTEST = 512
"""Tokens below which a shorter ``max_length`` is no longer offered."""
SMALL = 1_500_000_000
"""Parameters below which 4 bits save next to nothing (evidence, section 5.1)."""
LARGE_RANK = 64
"""Rank above which a smaller one is offered; published recipes for small data go no higher."""
WORTH = 0.02
"""Share of the peak that a change must save to be worth naming."""
COUNTS = (2, 4, 8, 16, 32)
HOSTS = tuple(2**n for n in range(3, 15))
"""GiB of memory of machines that are on offer."""
_SHARDED = {"stack.sharding": "fsdp", "quant.bnb_4bit_quant_storage": "bfloat16"}
"""FSDP, and 4-bit weights stored so that they shard."""
FEWEST = 3
"""Ways out that are named even when the first is enough: a user may not be free to take it."""


class _Step(NamedTuple):
    change: str
    costs: str
    values: dict[str, Any]


def find(facts: Facts) -> tuple[WayOut, ...]:
    """Changes that lower the memory, cheapest first, applied one upon the other until the run fits.

    A change that saves next to nothing on top of those before it is left out. Raises LoraAdviseError without hardware.
    """
    found: list[WayOut] = []
    current = facts
    for options in _steps(facts):
        step = next((s for s in options if memory.fit(apply(current, s.values)) == "fits"), options[-1])
        changed = apply(current, step.values)
        saves = _peak(current) - _peak(changed)
        if saves <= WORTH * _peak(current):
            continue
        current = changed
        enough = memory.fit(current) == "fits"
        found.append(WayOut(change=step.change, saves=saves, costs=step.costs, enough=enough, values=step.values))
        if enough and len(found) >= FEWEST:
            return tuple(found)
    if len(found) < FEWEST:
        larger = (_larger_host(current), _larger_device(facts, current))
        found += [way for way in larger if way is not None]
    return (*found, _smaller_model(current))


def apply(facts: Facts, values: dict[str, Any]) -> Facts:
    """The facts with these field paths set; a path without a dot replaces a whole section."""
    updates: dict[str, Any] = {}
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not field:
            updates[section] = value
            continue
        old = updates.get(section, getattr(facts, section))
        if old is None and section == "stack":
            old = StackFacts()
        if old is not None:
            updates[section] = old.changed({field: value})
    return facts.changed(updates)


def _peak(facts: Facts) -> int:
    if facts.train is None:
        return 0
    batch = facts.train.per_device_train_batch_size
    return round(peak_stage(case_of(facts), batch, length_of(facts, facts.train)).bytes)


def _steps(facts: Facts) -> Iterator[tuple[_Step, ...]]:
    """The changes in order. Of one with several degrees the mildest that is enough is taken, else the last."""
    train = facts.train
    if train is None:
        return
    for step in (*_same_result(facts, train), *_other_precision(facts, train)):
        yield (step,)
    shorter = _shorter(length_of(facts, train))
    for degrees in (*_fewer_completions(facts, train), shorter, _offload(facts), _more_devices(facts)):
        if degrees:
            yield degrees


def _shorter(length: int) -> tuple[_Step, ...]:
    powers = [1 << n for n in range(SHORTEST.bit_length() - 1, 22) if 1 << n < length]
    costs = "longer examples are cut or dropped"
    return tuple(_Step(f"max_length {n:,}", costs, {"train.max_length": n}) for n in reversed(powers))


def _fewer_completions(facts: Facts, train: TrainFacts) -> Iterator[tuple[_Step, ...]]:
    """Online RL: shorter completions, then fewer of them per step, down to one group."""
    if facts.task is None or facts.task.trainer not in ("grpo", "ppo"):
        return
    longest, batch = train.max_completion_length or 0, train.per_device_train_batch_size
    yield tuple(
        _Step(f"completions of at most {n:,} tokens", "longer answers are cut", {"train.max_completion_length": n})
        for n in (4096, 2048, 1024, 512, 256) if n < longest
    )  # fmt: skip
    group = -(-(train.num_generations or 1) // (batch * facts.data_parallel))
    counts = [train.gradient_accumulation_steps // 2**n for n in range(1, 8)]
    yield tuple(
        _Step(f"{n} accumulation steps, so {n * batch} completions at once", "a noisier update",
              {"train.gradient_accumulation_steps": n})
        for n in counts if n >= max(1, group)
    )  # fmt: skip


def _same_result(facts: Facts, train: TrainFacts) -> Iterator[_Step]:
    """Changes after which the run computes the same, in another order or with other kernels."""
    batch = train.per_device_train_batch_size
    if batch > 1:
        accumulation = train.gradient_accumulation_steps * batch
        yield _Step(
            f"micro-batch 1 with {accumulation} accumulation steps",
            "speed only: the effective batch stays the same",
            {"train.per_device_train_batch_size": 1, "train.gradient_accumulation_steps": accumulation,
             "train.per_device_eval_batch_size": 1},
        )  # fmt: skip
    elif train.per_device_eval_batch_size > 1 and train.eval_strategy != "no":
        yield _Step("evaluation batch 1", "speed of the evaluation only", {"train.per_device_eval_batch_size": 1})
    if not train.activation_checkpointing:
        yield _Step(
            "activation checkpointing on", "about a third more compute", {"train.activation_checkpointing": True}
        )
    yield from _kernels(facts, train)
    if not train.use_liger_kernel:
        yield _Step("fused loss (Liger kernel)", "a package to install", {"train.use_liger_kernel": True})


def _kernels(facts: Facts, train: TrainFacts) -> Iterator[_Step]:
    """Attention that writes no score matrix, where the model's class has it."""
    kind = facts.model.model_type if facts.model else ""
    if train.attn_implementation == "eager" and not attention_refused(kind, "sdpa"):
        yield _Step("fused attention (sdpa)", "nothing", {"train.attn_implementation": "sdpa"})
    elif train.attn_implementation != "flash_attention_2" and not attention_refused(kind, "flash_attention_2"):
        yield _Step("FlashAttention 2: no mask", "a package to install, on Ampere or newer",
                    {"train.attn_implementation": "flash_attention_2"})  # fmt: skip


def _other_precision(facts: Facts, train: TrainFacts) -> Iterator[_Step]:
    """Changes of what is trained, and of the bits that it is kept in."""
    model = facts.model
    if facts.method == "full":
        yield _Step("LoRA instead of full fine-tuning", "capacity for very large data sets", _values(facts, "lora"))
    if "8bit" not in train.optim:
        yield _Step("paged 8-bit AdamW", "a little precision in the moments; states spill to host memory",
                    {"train.optim": "paged_adamw_8bit"})  # fmt: skip
    if facts.lora is not None and facts.lora.r > LARGE_RANK:
        yield _Step(f"rank {LARGE_RANK}", "capacity that few data sets need", {"lora.r": LARGE_RANK})
    if model is None or facts.method == "qlora" or model.kind == "encoder" or model.total_params <= SMALL:
        return
    if foreign_format(model.checkpoint_quantization) or model.model_type in NO_FOUR_BITS:
        return
    if not model.model_type.startswith("qwen3_5"):
        # Trainers of that hybrid family advise against 4 bits (evidence, section 5.1, point 6).
        yield _Step("QLoRA: the base in 4 bits", "39 to 50 % more time and a small loss", _values(facts, "qlora"))


def _values(facts: Facts, method: Method) -> dict[str, Any]:
    changed = memory.with_method(facts, method)
    adapter: dict[str, Any] = {"lora": changed.lora} if facts.lora is None else {}
    return {**adapter, "quant": changed.quant}


def _offload(facts: Facts) -> tuple[_Step, ...]:
    """Weights that are sharded already may wait in host memory."""
    if facts.stack is None or facts.stack.sharding not in ("fsdp", "zero3") or facts.stack.cpu_offload:
        return ()
    return (_Step("weights wait in host memory (CPU offload)", "slower steps: every layer travels from the host",
                  {"stack.cpu_offload": True}),)  # fmt: skip


def _more_devices(facts: Facts) -> tuple[_Step, ...]:
    hardware = facts.hardware
    if hardware is None or hardware.kind in memory.SHARE:
        return ()
    sharded = facts.stack is not None and facts.stack.sharding in ("fsdp", "zero3")
    costs = "more devices, and traffic between them at every layer"
    return tuple(
        _Step(
            f"shard over {count} GPUs (FSDP)",
            costs,
            {**_SHARDED, "hardware.count": count},
        )
        for count in COUNTS
        if count > hardware.count or (count == hardware.count and not sharded)
    )


def _larger_host(facts: Facts) -> WayOut | None:
    """For a run on a CPU: the least memory of the machine, in powers of two, in which it fits."""
    hardware = facts.hardware
    if hardware is None or hardware.kind != "cpu":
        return None
    for memory_gib in HOSTS:
        values = {"hardware": hardware.changed({"memory_gib": float(memory_gib)})}
        if memory_gib > hardware.memory_gib and memory.fit(apply(facts, values)) == "fits":
            change = f"a machine with {memory_gib:,} GiB of memory"
            return WayOut(change=change, saves=0, costs="another machine, and just as slow", enough=True, values=values)
    return None


def _larger_device(facts: Facts, current: Facts) -> WayOut | None:
    """The smallest usual card on which the run fits as it is, else with the other changes; else several of the largest."""
    for run, alone in ((facts, True), (current, False)):
        for values in _larger_devices(run):
            if memory.fit(apply(run, values)) == "fits":
                card: HardwareFacts = values["hardware"]
                name = f"{card.count} x {card.name}" if card.count > 1 else card.name
                return WayOut(
                    change=f"a larger device: {name}",
                    saves=0,
                    costs=_price_of(values, alone=alone),
                    enough=True,
                    values=values,
                )
    return None


def _price_of(values: dict[str, Any], *, alone: bool) -> str:
    """What moving to that device takes beside the device."""
    also = (["shards (FSDP)"] if "train.sharding" in values else []) + (
        ["computes in bfloat16"] if "train.dtype" in values else []
    )
    if also:
        return f"another machine, which {' and '.join(also)}" + ("" if alone else ", after the changes above")
    return "another machine, and no other change" if alone else "another machine, after the changes above"


def _larger_devices(facts: Facts) -> Iterator[dict[str, Any]]:
    from lora_advise.gpus import TABLE_SIZES, card_of_size

    if facts.hardware is None or facts.train is None:
        return
    # A plan for a CPU computes in float32 since it has no fast 16 bits; these cards do.
    dtype = {"train.dtype": "bfloat16"} if facts.hardware.kind == "cpu" and facts.train.dtype == "float32" else {}
    for size in TABLE_SIZES:
        if size > 1.05 * facts.hardware.memory_gib:
            yield {"hardware": card_of_size(size).changed({"count": facts.hardware.count}), **dtype}
    for count in (*COUNTS, 64, 128):
        if count > facts.hardware.count:
            card = card_of_size(TABLE_SIZES[-1]).changed({"count": count})
            yield {"hardware": card, **_SHARDED, **dtype}


def _smaller_model(facts: Facts) -> WayOut:
    """The size at which the run would fit after everything else, by proportion."""
    costs = "quality of the base; the size is taken in proportion, judge the model itself"
    if facts.model is None or facts.hardware is None:
        return WayOut(change="a smaller model", saves=0, costs=costs, enough=False)
    peak = _peak(facts)
    context = memory.bands(0, facts.hardware)[1][1]
    factor = memory.bands(GIB, facts.hardware)[0][1] / GIB
    room = max(0.0, (memory.capacity(facts.hardware) - context) / factor)
    share = min(0.5, room / max(1, peak))
    size = facts.model.total_params * share
    shown = f"{float(format(max(size, 1e8) / 1e9, '.2g')):g}B"
    return WayOut(
        change=f"a model of at most about {shown} parameters", saves=round(peak * (1 - share)), costs=costs,
        enough=room > 0 and size >= 1e8,
    )  # fmt: skip
