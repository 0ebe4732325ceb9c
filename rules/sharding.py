"""Rules about runs on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import Facts, QuantFacts, StackFacts, TrainFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.published import stored_as
from lora_advise.reading import Reading
from lora_advise.rule import rule

SHARDED = ("zero3", "fsdp")
UNCUTTABLE = ("gptq", "awq", "int4", "int8", "aqlm", "eetq", "hqq")
NAMES = {"zero3": "DeepSpeed ZeRO-3", "fsdp": "FSDP"}


@rule(
    "quantized-base-under-sharding",
    "DST1201",
    Severity.ERROR,
    Confidence.FACT,
    ("llamafactory-history", "peer-checks", "bnb-code"),
)
def quantized_base_under_sharding(
    quant: QuantFacts, stack: StackFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """A quantized base is to be split over the devices by ZeRO-3 or FSDP.

    Why: sharding cuts tensors of floating numbers into equal pieces. Weights in 8 bits, GPTQ, AWQ and their like are packed
        integers with tables beside them, so loading stops.
    Example:
        quant: {load_in_8bit: true}
        stack: {sharding: zero3}
        hardware: null
    Instead:
        quant: {load_in_8bit: true}
        stack: {sharding: zero2}
        hardware: null
    Evidence: LLaMA-Factory refuses ZeRO-3 and FSDP with anything but 4 bits of bitsandbytes, transformers stops while loading.
    Known problems: GPTQ under FSDP is shipped as working by PEFT, so it is a warning, and Axolotl ships 8 bits under FSDP2. In 4 bits it works from transformers 4.45
        with bitsandbytes 0.43.3 on if the weights are stored in the training type; the version unknown, ZeRO-3 is a warning.
    """
    if stack.sharding not in SHARDED or facts.train is None:
        return
    how = NAMES[stack.sharding]
    name = str(config.value("model", "")) if config is not None else facts.model.name if facts.model else ""
    kind = stored_as(name)
    fields = ("stack.sharding", "quant.load_in_8bit", "quant.load_in_4bit", *(("config.model",) if kind else ()))
    if quant.load_in_8bit and not (stack.sharding == "fsdp" and config is not None and second_fsdp(config)):
        yield Hit(
            f"{how} cannot shard weights in 8 bits: take ZeRO-2 or plain data parallelism, or load the base in 4 or 16 bits.", fields,
        )  # fmt: skip
    elif kind in UNCUTTABLE:
        yield Hit(
            f"{name[:80]} is stored as {str(kind).upper()}, which {how} cannot shard: take ZeRO-2 or plain data parallelism, or the 16-bit "
            "model.",
            ("stack.sharding", "config.model"), severity=Severity.WARNING if stack.sharding == "fsdp" else None,
        )  # fmt: skip
    elif quant.load_in_4bit and stack.sharding == "zero3" and config is not None and not _sound(config):
        yield Hit(
            "A base in 4 bits under ZeRO-3 needs transformers 4.45 and bitsandbytes 0.43.3 or later, with weights stored in the training "
            "type; older ones stop while loading. ZeRO-2 works with all.",
            fields, severity=Severity.NOTE if config.dialect.name == "llamafactory" else Severity.WARNING,
        )  # fmt: skip


def _sound(config: Reading) -> bool:
    """Whether the version is known and recent enough for 4 bits under ZeRO-3."""
    parts = config.versions.get("transformers", "0.0").split(".")
    return all(part.isdecimal() for part in parts[:2]) and tuple(map(int, parts[:2])) >= (4, 45)


@rule("sharding-conflict", "DST1203", Severity.ERROR, Confidence.FACT, ("trainer-code", "transformers-code"))
def sharding_conflict(config: Reading, train: TrainFacts) -> Iterator[Hit]:
    """Two ways of spreading a model over devices are asked for at once.

    Why: DeepSpeed and FSDP exclude each other, and a device_map lets every process spread a whole copy over all devices while
        the other way cuts it in pieces.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
            deepspeed: deepspeed_configs/zero2.json
            fsdp: [full_shard, auto_wrap]
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
            deepspeed: deepspeed_configs/zero2.json
    Evidence: Axolotl, ms-swift and transformers refuse DeepSpeed with FSDP; ms-swift and accelerate refuse either with a
        device_map.
    Known problems: a device_map that names one device for each process is right under data parallelism and is silent here.
    """
    ways = [name for name in ("deepspeed", "fsdp") if _given(config, name)]
    spread = _spread(config)
    if len(ways) == 2:
        yield Hit(
            "deepspeed and fsdp are both set, and only one of them can spread the run: keep one.",
            ("config.deepspeed", "config.fsdp"),
        )
    elif ways and spread is not None:
        yield Hit(
            f"device_map spreads the model over all devices in every process, and {ways[0]} spreads it over the processes: remove "
            "device_map.",
            (f"config.{'.'.join(map(str, spread.path))}", f"config.{ways[0]}"),
        )
    elif config.value("quantization_device_map") == "auto":
        yield Hit(
            "quantization_device_map: auto is for inference; LLaMA-Factory refuses to train with it: remove it.",
            ("config.quantization_device_map",),
        )


def _given(config: Reading, name: str) -> bool:
    """Whether that way is set to something."""
    entry = config.written.get(name)
    value: Any = None if entry is None else entry.value
    return (
        bool(value)
        and not isinstance(value, Unresolved)
        and str(value).lower() not in ("false", "none", "no", "[]", "{}")
    )


def _spread(config: Reading) -> Entry | None:
    """The setting that spreads a model over every device that a process sees."""
    for entry in config.config.entries:
        own = len(entry.path) == 1 or entry.path[0] == "from_pretrained" or "model_init_kwargs" in entry.path
        if (
            own
            and entry.path[-1] == "device_map"
            and isinstance(entry.value, str)
            and entry.value.startswith(("auto", "balanced", "sequential"))
        ):
            return entry
    return None


@rule("optimizer-refused-by-sharding", "DST1205", Severity.ERROR, Confidence.FACT, ("trainer-code", "axolotl-schema"))
def optimizer_refused_by_sharding(config: Reading, train: TrainFacts, stack: StackFacts) -> Iterator[Hit]:
    """The optimizer cannot work on parameters that are split over the devices.

    Why: the 8-bit optimizers of bitsandbytes do not know the tensors of FSDP2, and Muon needs whole matrices.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            sequence_len: 512
            optimizer: adamw_8bit
            fsdp_version: 2
            fsdp_config: {reshard_after_forward: true}
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            sequence_len: 512
            optimizer: adamw_torch_8bit
            fsdp_version: 2
            fsdp_config: {reshard_after_forward: true}
    Evidence: Axolotl's validator refuses both; paged_adamw_8bit passes it and fails at the first step.
    Known problems: only Axolotl's refusals, and those where the version of FSDP is written.
    """
    if config.dialect.name != "axolotl" or stack.sharding not in (*SHARDED, "zero2"):
        return
    second = second_fsdp(config)
    if stack.sharding == "fsdp" and second and train.optim in ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"):
        yield Hit(
            f"{train.optim} of bitsandbytes does not work on the tensors of FSDP2: use adamw_torch_8bit, or adamw_torch_fused.",
            ("train.optim", "config.fsdp_version"),
        )
    elif train.optim == "muon" and (stack.sharding != "fsdp" or not second):
        yield Hit(
            "muon needs whole matrices, which DeepSpeed and FSDP1 cut: use FSDP2, or adamw_torch_fused.",
            ("train.optim", "stack.sharding"),
        )


def second_fsdp(config: Reading) -> bool:
    """Whether the file asks for FSDP2."""
    return any(entry.path[-1] == "fsdp_version" and str(entry.value) == "2" for entry in config.config.entries)


SHARDING_RULES = (quantized_base_under_sharding, sharding_conflict, optimizer_refused_by_sharding)
