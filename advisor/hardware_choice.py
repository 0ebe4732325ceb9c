"""Which device to assume when none is named, and the verdicts on all the usual ones."""

from __future__ import annotations

from lora_advise.draft import Draft
from lora_advise.facts import Facts, HardwareFacts, Method, Sharding, StackFacts
from lora_advise.model_kernels import foreign_format
from lora_advise.plan import MemoryVerdict

COUNTS = (1, 2, 4, 8, 16, 32)
"""Device counts that are tried for models that no single card carries."""


def assumed_hardware(draft: Draft) -> HardwareFacts:
    """The smallest usual card that carries 16-bit LoRA; else QLoRA; else the fewest of the largest card.

    Cards above 80 GB are assumed only when nothing smaller will do. An unsharded estimate decides for one card.
    """
    from lora_advise.gpus import TABLE_SIZES, card_of_size

    common = [card_of_size(size) for size in TABLE_SIZES]
    probe = _sketch(draft)
    for method in ("lora", "qlora"):
        for card in common[:-1]:
            if _carries(probe, card, method):
                return card
    for count in COUNTS:
        card = common[-1].changed({"count": count})
        if any(_carries(probe, card, method) for method in ("lora", "qlora")):
            return card
    return common[-1].changed({"count": COUNTS[-1]})


def _carries(probe: Draft, card: HardwareFacts, method: Method) -> bool:
    from lora_advise.decide_method import Candidate, assemble, comfort, four_bits_possible

    if method == "qlora" and not four_bits_possible(probe):
        return False
    sharding: Sharding = "fsdp" if card.count > 1 else "none"
    return comfort(assemble(probe, Candidate(method, sharding), hardware=card)) == "fits"


def _sketch(draft: Draft) -> Draft:
    """A copy of the draft with the values that memory depends on, decided for a bf16 card."""
    from lora_advise.decide_adapter import decide_alpha, decide_rank, decide_saved_modules
    from lora_advise.decide_batch import decide_batch
    from lora_advise.decide_data import decide_data
    from lora_advise.decide_rate import decide_beta
    from lora_advise.decide_targets import decide_targets

    probe = Draft(model=draft.model, task=draft.task, data=draft.data, hardware=draft.hardware,
                  framework=draft.framework, overrides=draft.overrides)  # fmt: skip
    probe.values.update({f: v for f, v in draft.overrides.items() if "." in f})
    rank = decide_rank(probe, decide_targets(probe))
    decide_alpha(probe, rank)
    decide_saved_modules(probe)
    decide_data(probe)
    decide_batch(probe)
    decide_beta(probe)
    return probe


def methods_on(facts: Facts) -> tuple[MemoryVerdict, ...]:
    """The plan's method on its device, with ways out; then the other methods there, one row at a time."""
    from lora_advise import memory

    first = memory.judge(facts)
    single = one_row_at_a_time(facts)
    others = tuple(
        memory.judge(memory.with_method(single, method), ways_out=False)
        for method in ("lora", "qlora", "full")
        if method != facts.method and _offered(facts, method)
    )  # fmt: skip
    return (first, *others)


def one_row_at_a_time(facts: Facts) -> Facts:
    """The same run with micro-batch 1 and accumulation: the least that a method needs, whatever the plan's batch."""
    train = facts.train
    if train is None:
        return facts
    steps = max(2, train.per_device_train_batch_size * train.gradient_accumulation_steps)
    update = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": steps}
    return facts.changed({"train": train.changed(update)})


def ladder(facts: Facts) -> tuple[MemoryVerdict, ...]:
    """16-bit LoRA and QLoRA on one card of every other usual size, one row at a time."""
    from lora_advise import memory
    from lora_advise.gpus import TABLE_SIZES, card_of_size

    rows = []
    single = one_row_at_a_time(facts)
    for size in TABLE_SIZES:
        card = card_of_size(size)
        if card == facts.hardware:
            continue
        on_card = single.changed({"hardware": card, "stack": StackFacts()})
        for method in ("lora", "qlora"):
            if _offered(facts, method):
                rows.append(memory.judge(memory.with_method(on_card, method), ways_out=False))
    return tuple(rows)


def _offered(facts: Facts, method: Method) -> bool:
    """Full fine-tuning and LoRA always; QLoRA where 4 bits can help and the checkpoint can be quantized."""
    model = facts.model
    if method != "qlora" or model is None:
        return method != "qlora"
    return model.kind != "encoder" and not foreign_format(model.checkpoint_quantization)
