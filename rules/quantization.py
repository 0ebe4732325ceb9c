"""Rules about 4-bit types, sharded quantized bases, and what a device supports."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, HardwareFacts, ModelFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.model_kernels import DEQUANTIZED, attention_refused, foreign_format
from lora_advise.published import stored_as
from lora_advise.reading import Reading
from lora_advise.rule import rule


@rule("fp4-base", "QNT410", Severity.WARNING, Confidence.MEASURED, ("dettmers-2023",))
def fp4_base(quant: QuantFacts) -> Iterator[Hit]:
    """The 4-bit base uses FP4, which is worse than NF4 at the same size.

    Why: NF4's sixteen values are placed for normally distributed weights, FP4's are not.
    Example:
        quant: {load_in_4bit: true, bnb_4bit_quant_type: fp4}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, bnb_4bit_quant_type: nf4}
        hardware: null
    Evidence: QLoRA: FP4 lost about one point of MMLU against NF4, which matched 16 bits.
    Known problems: FP4 is the default of bitsandbytes itself.
    """
    if quant.load_in_4bit and quant.bnb_4bit_quant_type == "fp4":
        yield Hit(
            "The base is stored as FP4, which lost about one point of MMLU against NF4 at the same size: set "
            "bnb_4bit_quant_type to nf4.",
            ("quant.bnb_4bit_quant_type",),
            (Change("quant.bnb_4bit_quant_type", "nf4"),),
        )


@rule("sharded-4bit-storage", "QNT411", Severity.ERROR, Confidence.FACT, ("peft-code", "bnb-code"))
def sharded_4bit_storage(quant: QuantFacts, train: TrainFacts, stack: StackFacts) -> Iterator[Hit]:
    """A 4-bit base is to be sharded by FSDP while it is stored as integers.

    Why: FSDP flattens parameters of one floating type; 4-bit weights must be packed into the training type to be
        sharded.
    Example:
        quant: {load_in_4bit: true}
        stack: {sharding: fsdp}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, bnb_4bit_quant_storage: bfloat16}
        stack: {sharding: fsdp}
        hardware: null
    Evidence: "Must flatten tensors with uniform dtype" otherwise.
    Known problems: FSDP2 is more tolerant in recent versions, and still shards only floating storage.
    """
    if quant.load_in_4bit and stack.sharding == "fsdp" and quant.bnb_4bit_quant_storage != train.dtype:
        yield Hit(
            f"FSDP cannot shard 4-bit weights stored as {quant.bnb_4bit_quant_storage} beside parameters in "
            f"{train.dtype}: set bnb_4bit_quant_storage to {train.dtype}.",
            ("quant.bnb_4bit_quant_storage",),
            (Change("quant.bnb_4bit_quant_storage", train.dtype),),
        )


@rule("four-bit-unsupported", "QNT412", Severity.ERROR, Confidence.FACT, ("bnb-code",))
def four_bit_unsupported(quant: QuantFacts, hardware: HardwareFacts) -> Iterator[Hit]:
    """A 4-bit base is asked for on a device that bitsandbytes cannot use.

    Why: 4-bit weights need bitsandbytes' kernels for that device.
    Example:
        quant: {load_in_4bit: true}
        hardware: {name: Apple M2 Max, kind: mps, memory_gib: 64.0, bitsandbytes_4bit: false, flash_attention_2: false}
    Instead:
        quant: null
        hardware: {name: Apple M2 Max, kind: mps, memory_gib: 64.0, bitsandbytes_4bit: false, flash_attention_2: false}
    Evidence: bitsandbytes' table of backends.
    Known problems: support grows from release to release.
    """
    if quant.load_in_4bit and hardware.bitsandbytes_4bit is False:
        yield Hit(
            f"bitsandbytes has no 4-bit kernels for {hardware.name}: load the base in 16 bits.",
            ("quant.load_in_4bit",),
            (Change("quant.load_in_4bit", False),),
        )


@rule("flash-attention-unsupported", "QNT413", Severity.ERROR, Confidence.FACT, ("gpu-datasheets", "transformers-code"))
def flash_attention_unsupported(train: TrainFacts, hardware: HardwareFacts) -> Iterator[Hit]:
    """FlashAttention 2 is asked for on a device that does not run it, or in float32.

    Why: its kernels need Ampere or later and a 16-bit type; loading the model fails otherwise.
    Example:
        hardware: {name: Tesla T4, memory_gib: 40.0, bf16: false, flash_attention_2: false}
        train: {dtype: float16, attn_implementation: flash_attention_2}
    Instead:
        hardware: {name: Tesla T4, memory_gib: 40.0, bf16: false, flash_attention_2: false}
        train: {dtype: float16, attn_implementation: sdpa}
    Evidence: the support table of flash-attn and the check in transformers.
    Known problems: none.
    """
    if train.attn_implementation != "flash_attention_2":
        return
    why = f"{hardware.name} does not run FlashAttention 2" if hardware.flash_attention_2 is False else ""
    why = (
        "FlashAttention 2 computes in 16-bit types only, not in float32"
        if not why and train.dtype == "float32"
        else why
    )
    if why:
        yield Hit(
            f"{why}: set attn_implementation to sdpa.",
            ("train.attn_implementation",),
            (Change("train.attn_implementation", "sdpa"),),
        )


@rule("attention-not-in-class", "QNT414", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def attention_not_in_class(model: ModelFacts, train: TrainFacts) -> Iterator[Hit]:
    """The model's class in transformers does not have the attention kernel that is asked for.

    Why: from_pretrained raises for a kernel that the class does not declare, so the run ends while it loads.
    Example:
        model: soft-capped
        train: {attn_implementation: sdpa}
        hardware: null
    Instead:
        model: soft-capped
        train: {attn_implementation: eager}
        hardware: null
    Evidence: the class attributes _supports_sdpa and _supports_flash_attn.
    Known problems: later releases of transformers may add a kernel; trainers with their own model code may have one.
    """
    if attention_refused(model.model_type, train.attn_implementation):
        yield Hit(
            f"The classes of transformers for {model.model_type} refuse {train.attn_implementation} attention: set "
            "attn_implementation to eager.",
            ("train.attn_implementation",),
            (Change("train.attn_implementation", "eager"),),
        )


@rule("quantized-checkpoint-again", "QNT415", Severity.ERROR, Confidence.FACT, ("checkpoint-formats",))
def quantized_checkpoint_again(
    model: ModelFacts, quant: QuantFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """bitsandbytes is to quantize a checkpoint that is quantized already.

    Why: transformers refuses to load a checkpoint of one format with the configuration of another.
    Example:
        model: stored-in-mxfp4
        quant: {load_in_4bit: true}
        hardware: null
    Instead:
        model: stored-in-mxfp4
        quant: null
        hardware: null
    Evidence: "The model is quantized with Mxfp4Config but you are passing a BitsAndBytesConfig config."
    Known problems: a copy of the model in 16 bits can be quantized; name that copy. Unsloth takes a 4-bit copy of its own and is
        not judged.
    """
    if facts.stack is not None and facts.stack.framework == "unsloth":
        return
    stored = model.checkpoint_quantization or _named(config)
    if not foreign_format(stored) or not (quant.load_in_4bit or quant.load_in_8bit):
        return
    way = "load it dequantized to 16 bits" if stored in DEQUANTIZED else "name the model that it was made from"
    yield Hit(
        f"{model.name} is stored in {stored}, and transformers refuses to quantize it again: {way}.",
        ("quant.load_in_4bit", "quant.load_in_8bit"),
        (Change("quant.load_in_4bit", False), Change("quant.load_in_8bit", False)),
        # Which of the others are published in FP8 is known from their makers' cards only.
        Severity.WARNING if (stored == "fp8" and model.path is None) or not model.checkpoint_quantization else None,
    )


def _named(config: Reading | None) -> str | None:
    """The format that the model's name says; LLaMA-Factory passes over its own bits for such a base."""
    if config is None or config.dialect.name == "llamafactory":
        return None
    kind = stored_as(str(config.value("model", "")))
    return kind if kind in ("gptq", "awq", "aqlm", "eetq", "hqq") else None


QUANTIZATION_RULES = (
    fp4_base,
    sharded_4bit_storage,
    four_bit_unsupported,
    flash_attention_unsupported,
    attention_not_in_class,
    quantized_checkpoint_again,
)
