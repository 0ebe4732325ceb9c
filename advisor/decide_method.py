"""LoRA or QLoRA (or full fine-tuning), precision, sharding and the micro-batch that fits."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from lora_advise.draft import Draft
from lora_advise.facts import Facts, HardwareFacts, LoraFacts, Method, QuantFacts, Sharding, StackFacts, TrainFacts
from lora_advise.model_kernels import DEQUANTIZED, NO_FOUR_BITS, OWN, foreign_format
from lora_advise.plan import Fit

SMALL = 1.5
"""Billions of parameters up to which 4 bits save nothing at equal micro-batch (litgpt-measured)."""


HEADROOM = 0.92
"""Share of a device that the top of the forecast may take before a method counts as tight: lengths vary (memory-model)."""


class Candidate(NamedTuple):
    """One way to run: a method and how it is spread over the devices."""

    method: Method
    sharding: Sharding


def assemble(draft: Draft, candidate: Candidate, hardware: HardwareFacts | None = None, micro: int = 1) -> Facts:
    """The facts of the plan so far under that candidate; what is not decided yet has its plain default."""
    values = draft.values
    lora = (
        None if candidate.method == "full" else LoraFacts(**{"task_type": _task_type(draft), **section(values, "lora")})
    )
    train = {
        "learning_rate": draft.task.rate,
        "gradient_accumulation_steps": _accumulation(draft, hardware or draft.hardware, micro),
        "max_length": 1024,
        "optim": optimizer_for(draft, candidate.method),
        **section(values, "train"),
        "per_device_train_batch_size": values.get("train.per_device_train_batch_size", micro),
    }
    return Facts(
        task=draft.task.facts(), model=draft.model, lora=lora, data=draft.data,
        quant=quantization(draft, candidate), train=TrainFacts(**train), hardware=hardware or draft.hardware,
        stack=StackFacts(framework=draft.framework, sharding=candidate.sharding,
                         cpu_offload=bool(values.get("stack.cpu_offload", False))),
    )  # fmt: skip


def _accumulation(draft: Draft, hardware: HardwareFacts, micro: int) -> int:
    """Two at least: gradients stay alive between micro-batches, the larger case. Online RL generates the completions of
    a whole step at once, so there it is the true number.
    """
    batch = draft.values.get("effective_batch") if draft.task.family == "rl" else None
    return max(2, ceil(batch / (hardware.count * micro))) if batch else 2


def optimizer_for(draft: Draft, method: Method) -> str:
    """8-bit states that page out where bitsandbytes runs and memory is short; else AdamW, fused where CUDA has it."""
    if draft.hardware.kind != "cuda":
        return "adamw_torch"
    return "paged_adamw_8bit" if method == "qlora" else "adamw_torch_fused"


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The chosen values of one section, by field name."""
    prefix = f"{name}."
    return {field[len(prefix) :]: value for field, value in values.items() if field.startswith(prefix)}


def _task_type(draft: Draft) -> str:
    if draft.task.trainer in ("classification", "reward"):
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if draft.model.kind == "encoder-decoder" else "CAUSAL_LM"


def quantization(draft: Draft, candidate: Candidate) -> QuantFacts:
    """NF4 with double quantization for QLoRA; under FSDP the packed weights are stored in 16 bits so that they shard."""
    if candidate.method != "qlora":
        return QuantFacts(**section(draft.values, "quant"))
    compute = "float16" if draft.fp16_only else "float32" if draft.hardware.kind == "cpu" else "bfloat16"
    storage = compute if candidate.sharding in ("fsdp", "zero3") else "uint8"
    chosen: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": storage,
    }
    return QuantFacts(**{**chosen, **section(draft.values, "quant")})


def decide_method(draft: Draft) -> tuple[Candidate, int]:
    """The best method that fits the device, and the largest micro-batch with it."""
    ours = _best(draft, None)
    forced = draft.overrides.get("method")
    candidate, fit = _best(draft, forced) if forced else ours
    draft.decide(
        "method", "method", "Method", ours[0].method, shown=_method_name(draft, candidate),
        because=_why_method(draft, candidate, fit),
        sources=("raschka-2023", "litgpt-measured", "dettmers-2023", "memory-model"), confidence="derived",
        flips=_method_flip(draft, candidate, fit),
    )  # fmt: skip
    _say_stored(draft, candidate)
    return candidate, 1 if fit == "does not fit" else _micro_batch(draft, candidate)


def _best(draft: Draft, forced: str | None) -> tuple[Candidate, Fit]:
    """The first way to run that fits with room to spare; else the first that is tight; else the last that was tried."""
    best: tuple[Candidate, Fit] | None = None
    rank = {"fits": 0, "tight": 1, "does not fit": 2}
    for candidate in candidates(draft, forced):
        fit = comfort(assemble(draft, candidate))
        if best is None or rank[fit] < rank[best[1]] or fit == best[1] == "does not fit":
            best = (candidate, fit)
        if fit == "fits":
            break
    return best or (Candidate("lora", draft.overrides.get("stack.sharding", "none")), "does not fit")


def _micro_batch(draft: Draft, candidate: Candidate) -> int:
    """The largest power of two that leaves the room by which methods are judged, so that naming it changes nothing."""
    from lora_advise import memory

    micro = max(1, memory.largest_micro_batch(assemble(draft, candidate)))
    if "train.per_device_train_batch_size" in draft.overrides:
        return micro
    while micro > 1 and comfort(assemble(draft, candidate, micro=micro)) != "fits":
        micro //= 2
    return micro


def _say_stored(draft: Draft, candidate: Candidate) -> None:
    """What a checkpoint that is published below 16 bits means for this run."""
    model, stored = draft.model, draft.model.checkpoint_quantization
    if not foreign_format(stored):
        return
    if stored in DEQUANTIZED:
        text = f"{model.name} is published in {stored}: the run turns it into 16-bit weights while it loads ({2 * model.billions:,.0f} GB)."
    else:
        text = f"{model.name} is stored in {stored}; plan and forecast are for 16-bit weights: name the model that it was made from."
    if candidate.method == "qlora":
        text += " QLoRA cannot start from it: transformers refuses to quantize a quantized checkpoint again."
    draft.note(
        "warning" if candidate.method == "qlora" or stored not in DEQUANTIZED else "assumption",
        text,
        "checkpoint-formats",
    )


def comfort(facts: Facts) -> Fit:
    """Like the verdict on memory, but tight already when the top of the forecast leaves less than 8 % of the device."""
    from lora_advise import memory

    return memory.fit(facts, HEADROOM)


def candidates(draft: Draft, forced: str | None) -> list[Candidate]:
    """Ways to run, best quality and speed first: no quantization, then 4 bits; replicas, then shards."""
    many = draft.hardware.count > 1
    forced_sharding = draft.overrides.get("stack.sharding")
    plain: Sharding = "ddp" if many else "none"
    order: list[tuple[Method, Sharding]] = [("lora", plain), ("qlora", plain)]
    if many:
        fast = 1 if draft.hardware.nvlink else 2
        order[fast:fast] = [("lora", "fsdp")]
        order.append(("qlora", "fsdp"))
    if forced:
        shardings: list[Sharding] = [plain, "fsdp"] if many else [plain]
        order = [(forced, s) for s in shardings]  # type: ignore[misc]
    elif draft.model.checkpoint_quantization == OWN:
        order = [(m, s) for m, s in order if m == "qlora"]
    elif not four_bits_possible(draft):
        order = [(m, s) for m, s in order if m != "qlora"]
    if forced_sharding:
        order = list(dict.fromkeys((m, forced_sharding) for m, _ in order))
    return [Candidate(m, s) for m, s in order]


def four_bits_possible(draft: Draft) -> bool:
    """Whether 4-bit weights would help at all here: bitsandbytes runs, the model is not tiny, the family takes it."""
    if draft.hardware.bitsandbytes_4bit is False or draft.hardware.kind in ("mps", "npu", "hpu"):
        return False
    if draft.model.kind == "encoder" or draft.model.billions <= SMALL:
        return False
    if foreign_format(draft.model.checkpoint_quantization):
        return False
    return not draft.model.model_type.startswith("qwen3_5") and draft.model.model_type not in NO_FOUR_BITS


def _bits(draft: Draft) -> str:
    return "32-bit" if draft.values.get("train.dtype") == "float32" else "16-bit"


def _method_name(draft: Draft, candidate: Candidate) -> str:
    count = draft.hardware.count
    name = {"lora": f"LoRA, {_bits(draft)} base", "qlora": "QLoRA, 4-bit NF4 base", "full": "full fine-tuning"}[
        candidate.method
    ]
    spread = {"none": "", "ddp": f", a replica on each of {count} GPUs", "fsdp": f", sharded over {count} GPUs (FSDP)"}
    return name + spread.get(candidate.sharding, f", {candidate.sharding} over {count} GPUs")


def _why_method(draft: Draft, candidate: Candidate, fit: str) -> str:  # noqa: PLR0911 - a decision list reads best as one
    device = (
        "each " if draft.hardware.count > 1 else ""
    ) + f"{draft.hardware.name} ({draft.hardware.memory_gib:.0f} GiB)"
    stored, plain = draft.model.checkpoint_quantization, f"{_bits(draft)} LoRA"
    if draft.overrides.get("method"):
        return f"Your choice; on {device} it {_fits(fit)}."
    if stored == OWN:
        return f"The checkpoint is a 4-bit base already; it {_fits(fit)} on {device}."
    if candidate.method == "lora":
        if draft.model.kind == "encoder" or draft.model.billions <= SMALL:
            return f"At {draft.model.billions:.2g}B parameters 4 bits save nothing; {plain} {_fits(fit)} on {device}."
        if foreign_format(stored):
            return f"A checkpoint in {stored} cannot be quantized again; {plain} {_fits(fit)} on {device}."
        if fit != "fits":
            return f"{plain} {_fits(fit)} on {device}, and 4-bit weights are not to be had for this model or device."
        return f"{plain} {_fits(fit)} on {device}; 4 bits would cost 39 to 50 % more time for nothing."
    slower = "more time" if draft.hardware.kind == "cpu" else "39 to 50 % more time"
    return (
        f"{plain} {_room_for_lora(draft, candidate)} {device}; 4-bit weights take "
        f"{'an eighth' if _bits(draft) == '32-bit' else 'a quarter'}, at {slower} and a small loss. This {_fits(fit)}."
        + (
            " In fp16 only about 80 % of 7B QLoRA runs finished: watch for NaN."
            if draft.values.get("train.dtype") == "float16"
            else ""
        )
    )


def _room_for_lora(draft: Draft, candidate: Candidate) -> str:
    """How the unquantized base stands on the device: spread as the chosen candidate is, or in the plain way."""
    from lora_advise import memory

    facts = assemble(draft, Candidate("lora", candidate.sharding))
    if (fit := memory.fit(facts)) != "fits":
        return "does not fit" if fit == "does not fit" else "fits only tightly on"
    top = memory.estimate(facts).device[1]
    return f"fits with only {100 * max(0.0, 1 - top / memory.capacity(draft.hardware)):.0f} % to spare on"


def _fits(fit: str) -> str:
    return {"fits": "fits", "tight": "fits only tightly", "does not fit": "does not fit"}[fit]


def _method_flip(draft: Draft, candidate: Candidate, fit: str) -> str:
    if fit == "does not fit":
        return "Any of the ways out under Memory."
    if candidate.method == "qlora":
        return "A device on which 16-bit LoRA fits (see Memory)."
    if draft.model.model_type.startswith("qwen3_5"):
        return "A measured check of this family in 4 bits: its maker's trainers advise against it."
    return "A smaller device: QLoRA."
