"""How much memory a run needs on one device, whether it fits, and what to change when it does not.

A closed form of about fifteen terms for a named stack (:mod:`lora_advise.memory_stack`). The coefficients come from
traces of the libraries' code and from storage formats; none is fitted to a measured peak.
"""

from __future__ import annotations

from collections.abc import Callable

from lora_advise.adapters import lora_params
from lora_advise.calibration import calibrated
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import GIB, Facts, HardwareFacts, LoraFacts, Method, QuantFacts, TrainFacts
from lora_advise.memory_case import Case, case_of, length_of
from lora_advise.memory_disk import SOURCES as BESIDE
from lora_advise.memory_disk import beside
from lora_advise.memory_spread import Spread, spread
from lora_advise.memory_stack import Stack
from lora_advise.memory_stages import Stage, stages
from lora_advise.plan import Fit, MemoryEstimate, MemoryPart, MemoryVerdict, WayOut

RESERVED = (1.0, 1.15)
"""Band of reserved over allocated: never below; a replay of the allocator lands near 3 % above, variable lengths push it
to about 15 % (memory model, sections 0 and 8). Whole logits and layers that were not traced widen it (``memory_spread``)."""
CONTEXT = (GIB // 2, 2 * GIB)
"""CUDA context and library handles: 0.18 to 2.1 GiB over the measured machines, a constant of each (section 8)."""
NCCL = 3 * GIB // 2
"""Buffers of NCCL outside torch: 0.3 to 1.5 GiB a process with several communicators (section 7)."""
LARGEST_MICRO_BATCH = 64
"""Beyond this a micro-batch buys no speed that we know of."""
LONGEST = 1_048_576
"""Tokens at which the search for the longest sequence stops when the model states no limit."""
STEP = 256
"""Tokens to which the longest sequence is rounded down."""
SHARE = {"mps": 0.75, "cpu": 0.9}
"""Unified and host memory is shared: Metal's working set is about 3/4 of it; a tenth is left to the system."""
SOURCES = ("memory-model", "fms-measured", "trl-code", "peft-code", "bnb-code")
MEASURED = ("trl", "transformers", "peft")
"""Frameworks whose figures go back to measured runs; for the others see ``framework-memory-code``."""


def estimate(facts: Facts, stack: Stack | None = None) -> MemoryEstimate:
    """Predicted peak of one training step on one device, with its parts. Needs the model and train sections.

    ``stack`` replaces the branch of the libraries that the facts imply. Raises LoraAdviseError for missing sections.
    """
    train = _train(facts)
    case = case_of(facts, stack)
    return _estimate(facts, case, stages(case, train.per_device_train_batch_size, length_of(facts, train)))


def spread_of(facts: Facts, stack: Stack | None = None) -> Spread:
    """How far the peak of allocated memory may be from the estimate, in bytes. Arguments and errors of ``estimate``."""
    train = _train(facts)
    case = case_of(facts, stack)
    return spread(case, stages(case, train.per_device_train_batch_size, length_of(facts, train)))


def _estimate(facts: Facts, case: Case, found: tuple[Stage, ...]) -> MemoryEstimate:
    stage = max(found, key=lambda one: one.bytes)
    parts = tuple(
        MemoryPart(name=t.name, label=t.label, bytes=round(t.bytes), note=t.note) for t in stage.terms if round(t.bytes)
    )
    allocated = sum(part.bytes for part in parts)
    model = facts.model
    aside = beside(facts, case)
    reserved, device = _bands(case, found, facts.hardware)
    return MemoryEstimate(
        stack=case.stack.name, method=case.method, parts=parts, peak_stage=stage.name, allocated=allocated,
        reserved=reserved, device=device,
        adapter_params=lora_params(model, facts.lora) if model and facts.lora else 0,
        adapter_file=aside.adapter, checkpoint_disk=aside.checkpoint, checkpoints_kept=aside.kept,
        host_load=aside.mapped + aside.copied, host_copy=aside.copied, sources=_sources(facts, case.stack),
    )  # fmt: skip


def _sources(facts: Facts, stack: Stack) -> tuple[str, ...]:
    framework = facts.stack.framework if facts.stack else "trl"
    own = ("own-calibration",) if calibrated(facts.hardware, CONTEXT, RESERVED) else ()
    foreign = () if framework in MEASURED else ("framework-memory-code",)
    versions = ("memory-versions",) if _by_version(facts) else ()
    wide = () if stack.traced and stack.loss != "full" else ("memory-accuracy",)
    return (*SOURCES, *BESIDE, *own, *foreign, *versions, *wide)


def _by_version(facts: Facts) -> bool:
    stack = facts.stack
    return stack is not None and bool(stack.versions or stack.sharding == "fsdp" or stack.framework == "litgpt")


def bands(allocated: float, hardware: HardwareFacts | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bands for what torch reserves and for what the driver shows, in bytes."""
    context, factors = calibrated(hardware, CONTEXT, RESERVED) or (CONTEXT, RESERVED)
    low, high = int(allocated * factors[0]), int(allocated * factors[1])
    if hardware is not None and hardware.kind in SHARE:
        context = (0, 0)
    return (low, high), (low + context[0], high + context[1])


def _bands(
    case: Case, found: tuple[Stage, ...], hardware: HardwareFacts | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The same for a step with these stages, as wide as what is known of its stack allows."""
    wide = spread(case, found)
    least, most = bands(wide.low, hardware), bands(wide.high, hardware)
    reserved = (least[0][0], most[0][1] + wide.blocks)
    exchange = NCCL if case.devices > 1 else 0
    return reserved, (least[1][0], most[1][1] + wide.blocks + exchange)


def capacity(hardware: HardwareFacts) -> int:
    """Bytes of one device that the driver could hand out, context included."""
    return int(hardware.memory_gib * GIB * SHARE.get(hardware.kind, 1.0))


def usable_bytes(hardware: HardwareFacts) -> int:
    """Bytes that the allocator may reserve: the driver's figure less the smallest context, or shared memory's share."""
    context = (calibrated(hardware, CONTEXT, RESERVED) or (CONTEXT, RESERVED))[0]
    return max(0, capacity(hardware) - (0 if hardware.kind in SHARE else context[0]))


def fit(facts: Facts, share: float = 1.0) -> Fit:
    """``fits`` when the top of the device band does, ``does not fit`` when its bottom does not, ``tight`` between.

    The top must fit into that ``share`` of the device. Raises LoraAdviseError when model, train or hardware are unknown.
    """
    train = _train(facts)
    return _fit(case_of(facts), _hardware(facts), train.per_device_train_batch_size, length_of(facts, train), share)


def _fit(case: Case, hardware: HardwareFacts, batch: int, length: int, share: float = 1.0) -> Fit:
    low, high = _bands(case, stages(case, batch, length), hardware)[1]
    room = capacity(hardware)
    return "fits" if high <= share * room else "tight" if low <= room else "does not fit"


def _spare(case: Case, hardware: HardwareFacts, batch: int, length: int) -> int:
    """Bytes between the top of the device band and the device's capacity; negative when it does not fit."""
    return capacity(hardware) - _bands(case, stages(case, batch, length), hardware)[1][1]


def judge(facts: Facts, *, ways_out: bool = True) -> MemoryVerdict:
    """Does the run fit one of its devices? With the ways out, unless it fits or ``ways_out`` is off."""
    from lora_advise.memory_ways_out import find

    train, hardware = _train(facts), _hardware(facts)
    case = case_of(facts)
    batch, length = train.per_device_train_batch_size, length_of(facts, train)
    verdict = _fit(case, hardware, batch, length)
    return MemoryVerdict(
        method=facts.method, hardware=hardware.name, count=hardware.count, memory_gib=hardware.memory_gib,
        usable=usable_bytes(hardware), fit=verdict, estimate=_estimate(facts, case, stages(case, batch, length)),
        micro_batch=_micro_batch(case, hardware, length), longest=_longest(case, hardware, facts),
        sharding=case.sharding, ways_out=find(facts) if ways_out and verdict != "fits" else (),
    )  # fmt: skip


def largest_micro_batch(facts: Facts) -> int:
    """Largest power of two up to 64 that fits at the plan's length; 1 where one row is tight, 0 where none fits."""
    return _micro_batch(case_of(facts), _hardware(facts), length_of(facts, _train(facts)))


def _micro_batch(case: Case, hardware: HardwareFacts, length: int) -> int:
    powers = LARGEST_MICRO_BATCH.bit_length()
    found = _largest(powers, lambda n: _spare(case, hardware, 2 ** (n - 1), length))
    return 2 ** (found - 1) if found else int(_fit(case, hardware, 1, length) == "tight")


def longest_sequence(facts: Facts) -> int:
    """Longest row in tokens (a multiple of 256) that fits at micro-batch 1, up to the model's limit; 0 for none."""
    return _longest(case_of(facts), _hardware(facts), facts)


def _longest(case: Case, hardware: HardwareFacts, facts: Facts) -> int:
    stated = facts.model.max_position_embeddings if facts.model else None
    most = max(1, (stated or LONGEST) // STEP)
    single = case._replace(completions=case.accumulation)
    return STEP * _largest(most, lambda n: _spare(single, hardware, 1, n * STEP))


def _largest(most: int, spare: Callable[[int], int]) -> int:
    """Largest n from 0 to ``most`` with ``spare(n) >= 0``, for a spare that falls; 0 stands for none.

    Memory grows almost linearly, so a straight line between the two ends finds the neighbourhood in a step or two;
    every other step halves the interval, which bounds the search where the line misleads.
    """
    if (top := spare(most)) >= 0:
        return most
    if most == 1 or (bottom := spare(1)) < 0:
        return 0
    low, high, line = 1, most, True
    while high - low > 1:
        guess = low + (high - low) * bottom // (bottom - top) if line else (low + high) // 2
        middle = min(max(guess, low + 1), high - 1)
        if (value := spare(middle)) >= 0:
            low, bottom = middle, value
        else:
            high, top = middle, value
        line = not line
    return low


def ways_out(facts: Facts) -> tuple[WayOut, ...]:
    """Changes that lower the memory, cheapest first; ``enough`` counts every change listed before."""
    from lora_advise.memory_ways_out import find

    return find(facts)


def with_method(facts: Facts, method: Method) -> Facts:
    """The same run by another method. An adapter of rank 16 on all linear layers stands in where the plan has none."""
    lora = facts.lora or LoraFacts(r=16, lora_alpha=32)
    if method == "full":
        return facts.changed({"lora": None, "quant": QuantFacts()})
    return facts.changed({"lora": lora, "quant": _four_bits(facts) if method == "qlora" else QuantFacts()})


def _four_bits(facts: Facts) -> QuantFacts:
    if facts.quant is not None and facts.quant.load_in_4bit:
        return facts.quant
    sharded = facts.stack is not None and facts.stack.sharding in ("fsdp", "zero3")
    # 4-bit weights are sharded only when they are stored in the dtype of the other parameters (section 11).
    return QuantFacts(load_in_4bit=True, bnb_4bit_quant_storage="bfloat16" if sharded else "uint8")


def _train(facts: Facts) -> TrainFacts:
    if facts.train is None:
        raise LoraAdviseError(
            "Memory cannot be forecast without the facts' train section; give a batch size and a length."
        )
    return facts.train


def _hardware(facts: Facts) -> HardwareFacts:
    if facts.hardware is None:
        raise LoraAdviseError("Whether a run fits cannot be judged without the facts' hardware section; give --gpu.")
    return facts.hardware
