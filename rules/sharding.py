"""Rules about several devices, and about checkpointing under an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import Facts, LoraFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.program_settings import called
from lora_advise.published import stored_as
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.unknown import UnknownFact

SHARDED = ("zero3", "fsdp")
NAMES = {"zero3": "DeepSpeed ZeRO-3", "fsdp": "FSDP"}


def older(config: Reading | None, library: str, release: int) -> bool | None:
    """Whether that library is known to be before a major release; None where its version is not known."""
    stated = config.versions.get(library, "") if config is not None else ""
    major = stated.partition(".")[0]
    return int(major) < release if major.isdecimal() else None


@rule("quantized-base-under-sharding", "DST1201", Severity.ERROR, Confidence.FACT, ("llamafactory-history", "peer-checks", "bnb-code"))
def quantized_base_under_sharding(quant: QuantFacts, stack: StackFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
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
    elif kind is not None and "bnb" not in kind and kind not in ("4bit", "nf4"):
        yield Hit(
            f"{name[:80]} is stored as {kind.upper()}, which {how} cannot shard: take ZeRO-2 or plain data parallelism, or the 16-bit "
            "model.",
            ("stack.sharding", "config.model"), severity=Severity.WARNING if stack.sharding == "fsdp" else None,
        )  # fmt: skip
    elif quant.load_in_4bit and stack.sharding == "zero3" and config is not None and not _sound(config):
        yield Hit(
            "A base in 4 bits under ZeRO-3 needs transformers 4.45 and bitsandbytes 0.43.3 or later, with weights stored in the training "
            "type; older ones stop while loading. ZeRO-2 works with all.",
            fields, severity=Severity.WARNING,
        )  # fmt: skip


def _sound(config: Reading) -> bool:
    """Whether the version is known and recent enough for 4 bits under ZeRO-3."""
    parts = config.versions.get("transformers", "0.0").split(".")
    return all(part.isdecimal() for part in parts[:2]) and tuple(map(int, parts[:2])) >= (4, 45)


@rule("input-gradients-missing", "DST1202", Severity.WARNING, Confidence.FACT, ("transformers-code", "input-gradient-reports"))
def input_gradients_missing(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """An adapter is trained with checkpointing, and nothing lets gradients into the frozen inputs.

    Why: reentrant checkpointing computes no gradient for a block whose inputs need none. With frozen embeddings that is every
        block: the loss has no gradient, or the adapter stays at zero.
    Example:
        hf: |
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM, TrainingArguments
            model = AutoModelForCausalLM.from_pretrained("mine")
            model.gradient_checkpointing_enable()
            model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM"))
            args = TrainingArguments(output_dir="out", learning_rate=3e-4, bf16=True)
    Instead:
        hf: |
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM, TrainingArguments
            model = AutoModelForCausalLM.from_pretrained("mine")
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
            model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM"))
            args = TrainingArguments(output_dir="out", learning_rate=3e-4, bf16=True)
    Evidence: "element 0 of tensors does not require grad" in reports of PEFT and of trainers; transformers 5 lets gradients in
        by itself and checkpoints without reentrance.
    Known problems: with transformers 5 it is over: a stated version from 5 on silences it. TRL, Axolotl, LLaMA-Factory,
        ms-swift and Unsloth do what is needed themselves.
    """
    if config.dialect.name != "hf" or config.config.shape != "calls" or older(config, "transformers", 5) is False:
        return
    if not called(config.config, "get_peft_model") or called(config.config, *_REMEDIES) or _reaches_embeddings(lora):
        return
    if not config.value("train.activation_checkpointing") and not called(config.config, "gradient_checkpointing_enable"):
        return
    if any(entry.path[-1] == "use_reentrant" and entry.value is not True for entry in config.config.entries):
        return
    yield Hit(
        "Checkpointing is on under an adapter, and the frozen embeddings give no gradient to start from: before transformers 5 nothing "
        'is learned. Call model.enable_input_require_grads(), or set gradient_checkpointing_kwargs={"use_reentrant": False}.',
        ("train.activation_checkpointing", "config.gradient_checkpointing", "config.gradient_checkpointing_enable"),
        severity=Severity.ERROR if older(config, "transformers", 5) else None,
    )


_REMEDIES = ("enable_input_require_grads", "prepare_model_for_kbit_training", "register_forward_hook", "SFTTrainer", "make_inputs_require_grad")


def _reaches_embeddings(lora: LoraFacts) -> bool:
    """Whether embeddings are trained too, which need gradients anyway."""
    try:
        targets = lora.target_modules if isinstance(lora.target_modules, tuple) else ()
    except UnknownFact:
        targets = ()
    return any(name.rsplit(".", 1)[-1] in EMBEDDING_NAMES for name in (*lora.modules_to_save, *targets))


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
        yield Hit("deepspeed and fsdp are both set, and only one of them can spread the run: keep one.", ("config.deepspeed", "config.fsdp"))
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
    return bool(value) and not isinstance(value, Unresolved) and str(value).lower() not in ("false", "none", "no", "[]", "{}")


def _spread(config: Reading) -> Entry | None:
    """The setting that spreads a model over every device that a process sees."""
    for entry in config.config.entries:
        if entry.path[-1] == "device_map" and isinstance(entry.value, str) and entry.value.startswith(("auto", "balanced", "sequential")):
            return entry
    return None


@rule("reentrant-mismatch", "DST1204", Severity.WARNING, Confidence.FACT, ("trainer-code", "peer-checks"))
def reentrant_mismatch(config: Reading, quant: QuantFacts, stack: StackFacts) -> Iterator[Hit]:
    """Checkpointing is reentrant where it must not be, or the other way round.

    Why: under ZeRO-3 the parameters are gathered anew in the backward pass, which only reentrant checkpointing allows for. With
        layers that are unfrozen by name it drops their gradients.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            gradient_accumulation_steps: 2
            sequence_len: 512
            deepspeed: deepspeed_configs/zero3_bf16.json
            gradient_checkpointing: true
            gradient_checkpointing_kwargs:
              use_reentrant: false
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            gradient_accumulation_steps: 2
            sequence_len: 512
            deepspeed: deepspeed_configs/zero3_bf16.json
            gradient_checkpointing: true
            gradient_checkpointing_kwargs:
              use_reentrant: true
    Evidence: TRL sets it to true for adapters under ZeRO-3, Axolotl warns; Axolotl refuses true with unfrozen_parameters.
    Known problems: only where use_reentrant is written.
    """
    entry = next((e for e in config.config.entries if e.path[-1] == "use_reentrant"), None)
    if entry is None or not isinstance(entry.value, bool):
        return
    if entry.value is False and stack.sharding == "zero3" and config.dialect.name in ("axolotl", "trl", "hf"):
        forced = " (TRL sets it so itself)" if config.dialect.name == "trl" else ""
        yield Hit(
            f"use_reentrant is false under ZeRO-3, where an adapter's backward pass stops with a CheckpointError: set it to true{forced}.",
            (f"config.{'.'.join(map(str, entry.path))}", "config.deepspeed"),
        )
    elif entry.value is True and config.config.get("unfrozen_parameters") is not None:
        yield Hit(
            "use_reentrant is true beside unfrozen_parameters, which Axolotl refuses: set it to false.",
            (f"config.{'.'.join(map(str, entry.path))}",), severity=Severity.ERROR,
        )  # fmt: skip


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


SHARDING_RULES = (
    quantized_base_under_sharding, input_gradients_missing, sharding_conflict, reentrant_mismatch, optimizer_refused_by_sharding,
)  # fmt: skip
