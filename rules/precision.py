"""Rules about quantized bases and numeric types."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, HardwareFacts, LoraFacts, ModelFacts, QuantFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule

SVD_INITS = ("pissa", "olora", "corda")
"""Initializations that decompose the base weight (peft-code)."""


def initialization(lora: LoraFacts) -> str:
    """The name of the initialization in lower case, empty for PEFT's default."""
    return lora.init_lora_weights.lower() if isinstance(lora.init_lora_weights, str) else ""


@rule("bf16-unsupported", "QNT401", Severity.ERROR, Confidence.FACT, ("gpu-datasheets", "transformers-code"))
def bf16_unsupported(train: TrainFacts, hardware: HardwareFacts) -> Iterator[Hit]:
    """bfloat16 is asked for on a device that does not have it.

    Why: GPUs before Ampere compute bfloat16 by emulation or not at all; transformers refuses bf16 there.
    Example:
        hardware: {name: Tesla T4, memory_gib: 40.0, bf16: false, flash_attention_2: false, compute_capability: "7.5"}
    Instead:
        hardware: {name: Tesla T4, memory_gib: 40.0, bf16: false, flash_attention_2: false, compute_capability: "7.5"}
        train: {dtype: float16}
    Evidence: compute capability 8.0 is the first with bfloat16 tensor cores.
    Known problems: none.
    """
    if train.dtype == "bfloat16" and hardware.bf16 is False:
        yield Hit(
            f"{hardware.name} has no bfloat16: train in float16, with the adapter's weights in float32.",
            ("train.dtype",),
            (Change("train.dtype", "float16"),),
        )


@rule("fp16-compute-on-4bit", "QNT402", Severity.WARNING, Confidence.MEASURED, ("dettmers-2023",))
def fp16_compute_on_4bit(quant: QuantFacts, facts: Facts) -> Iterator[Hit]:
    """A 4-bit base computes in float16 although the device may have bfloat16.

    Why: float16 overflows at 65,504, and 4-bit bases were seen to do so.
    Example:
        quant: {load_in_4bit: true, bnb_4bit_compute_dtype: float16}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, bnb_4bit_compute_dtype: bfloat16}
        hardware: null
    Evidence: by the authors of QLoRA, one in five 7 B runs did not complete with float16.
    Known problems: on Turing and Volta there is no choice, and nothing is said.
    """
    bf16 = facts.hardware.bf16 if facts.hardware else None
    if quant.load_in_4bit and quant.bnb_4bit_compute_dtype == "float16" and bf16 is not False:
        yield Hit(
            "The 4-bit base computes in float16, with which one in five 7 B runs did not complete: set "
            "bnb_4bit_compute_dtype to bfloat16.",
            ("quant.bnb_4bit_compute_dtype",),
            (Change("quant.bnb_4bit_compute_dtype", "bfloat16"),),
        )


@rule("float32-compute-on-4bit", "QNT403", Severity.WARNING, Confidence.FACT, ("bnb-code", "trl-code"))
def float32_compute_on_4bit(quant: QuantFacts, facts: Facts) -> Iterator[Hit]:
    """A 4-bit base computes in float32, which is bitsandbytes' default when nothing is said.

    Why: every matrix is expanded to float32 before it is multiplied: twice the memory for it and no tensor cores.
    Example:
        quant: {load_in_4bit: true, bnb_4bit_compute_dtype: float32}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, bnb_4bit_compute_dtype: bfloat16}
        hardware: null
    Evidence: the default of BitsAndBytesConfig.
    Known problems: none; on a CPU, where float32 is sensible, it is silent.
    """
    on_cpu = facts.hardware is not None and facts.hardware.kind == "cpu"
    if not on_cpu and quant.load_in_4bit and quant.bnb_4bit_compute_dtype == "float32":
        yield Hit(
            "The 4-bit base computes in float32, slowly and with twice the working memory: set bnb_4bit_compute_dtype "
            "to bfloat16.",
            ("quant.bnb_4bit_compute_dtype",),
            (Change("quant.bnb_4bit_compute_dtype", "bfloat16"),),
        )


@rule("two-quantizations", "QNT404", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def two_quantizations(quant: QuantFacts) -> Iterator[Hit]:
    """Both 4-bit and 8-bit loading are asked for.

    Why: transformers raises.
    Example:
        quant: {load_in_4bit: true, load_in_8bit: true}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, load_in_8bit: false}
        hardware: null
    Evidence: BitsAndBytesConfig.
    Known problems: none.
    """
    if quant.load_in_4bit and quant.load_in_8bit:
        yield Hit(
            "load_in_4bit and load_in_8bit are both true, and only one can be: keep load_in_4bit.",
            ("quant.load_in_8bit", "quant.load_in_4bit"),
            (Change("quant.load_in_8bit", False),),
        )


@rule("quantized-without-adapter", "QNT405", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def quantized_without_adapter(quant: QuantFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """A quantized model is to be trained without an adapter.

    Why: quantized weights have no gradient; transformers refuses to train them.
    Example:
        lora: null
        train: {learning_rate: 0.00002}
        quant: {load_in_4bit: true}
        hardware: null
    Instead:
        lora: null
        train: {learning_rate: 0.00002}
        hardware: null
    Evidence: the Trainer's check of purely quantized models.
    Known problems: adapters of other kinds (OFT, IA3) count as adapters where the file names one.
    """
    if config is not None and str(config.value("adapter", "")).lower() not in ("", "full", "none", "false", "freeze"):
        return
    if facts.train is not None and facts.lora is None and (quant.load_in_4bit or quant.load_in_8bit):
        yield Hit(
            "The base is quantized and there is no adapter to train: add LoRA, or load the base in 16 bits for full "
            "fine-tuning.",
            ("quant.load_in_4bit", "quant.load_in_8bit"),
            (Change("quant.load_in_4bit", False), Change("quant.load_in_8bit", False)),
        )


@rule("svd-init-on-quantized-base", "QNT406", Severity.ERROR, Confidence.FACT, ("peft-code", "pissa-2024"))
def svd_init_on_quantized_base(lora: LoraFacts, quant: QuantFacts) -> Iterator[Hit]:
    """An initialization that decomposes the base weights is asked for on a quantized base.

    Why: PiSSA and its kin need the singular vectors of the weights in 16 or 32 bits; PEFT raises, or older versions
        gave NaN.
    Example:
        quant: {load_in_4bit: true}
        lora: {init_lora_weights: pissa, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.00005}
        hardware: null
    Instead:
        quant: {load_in_4bit: true}
        lora: {init_lora_weights: true, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.0003}
        hardware: null
    Evidence: the dtype check in PEFT's initialization.
    Known problems: a base that was decomposed first and quantized afterwards is fine and looks the same here.
    """
    if (quant.load_in_4bit or quant.load_in_8bit) and initialization(lora).startswith(SVD_INITS):
        yield Hit(
            f"The initialization {lora.init_lora_weights} decomposes the base weights, which are quantized here: use "
            "the default initialization, or load the base in 16 bits.",
            ("lora.init_lora_weights", "quant.load_in_4bit"),
            (Change("lora.init_lora_weights", True),),
        )


@rule("qlora-on-small-model", "QNT407", Severity.WARNING, Confidence.MEASURED, ("litgpt-measured",))
def qlora_on_small_model(model: ModelFacts, quant: QuantFacts, lora: LoraFacts) -> Iterator[Hit]:
    """A model of at most 1.5 B parameters is trained on a 4-bit base, which saves no memory there.

    Why: in small models activations, logits and unquantized embeddings outweigh the weights, and every matrix is
        expanded again
        for each multiplication.
    Example:
        model: small
        quant: {load_in_4bit: true}
        hardware: null
    Instead:
        model: small
        quant: null
        hardware: null
    Evidence: measured at 1.1 B: 13.5 GB with LoRA, 16.2 GB with QLoRA, at the same micro-batch.
    Known problems: at micro-batch 1 and short sequences the weights may still decide.
    """
    if quant.load_in_4bit and model.billions <= 1.5:
        yield Hit(
            f"{model.name} has {model.billions:.2g} B parameters: at this size QLoRA took more memory and time than "
            "LoRA (13.5 against 16.2 GB at 1.1 B); load it in 16 bits.",
            ("quant.load_in_4bit",),
            (Change("quant.load_in_4bit", False),),
        )


@rule("quantized-hybrid", "QNT408", Severity.WARNING, Confidence.CONVENTION, ("unsloth-guide",))
def quantized_hybrid(model: ModelFacts, quant: QuantFacts) -> Iterator[Hit]:
    """A hybrid of attention and recurrence is trained on a 4-bit base.

    Why: one vendor advises against it, because the recurrence is sensitive to rounding.
    Example:
        model: hybrid
        quant: {load_in_4bit: true}
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
        hardware: null
    Instead:
        model: hybrid
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
        hardware: null
    Evidence: a vendor's guide, without figures.
    Known problems: memory may leave no choice.
    """
    if model.kind == "hybrid" and quant.load_in_4bit:
        yield Hit(
            f"{model.name} mixes tokens by a recurrence, which suffers from 4-bit weights by one vendor's account: "
            "load it in 16 bits if memory allows.",
            ("quant.load_in_4bit",),
            (Change("quant.load_in_4bit", False),),
        )


@rule("single-quantization", "QNT409", Severity.NOTE, Confidence.CONVENTION, ("dettmers-2023",))
def single_quantization(quant: QuantFacts) -> Iterator[Hit]:
    """The scales of a 4-bit base are stored in full precision.

    Why: quantizing them too saves 0.37 bits per weight, about 0.35 GiB at 8 B, at no measured loss.
    Example:
        quant: {load_in_4bit: true, bnb_4bit_use_double_quant: false}
        hardware: null
    Instead:
        quant: {load_in_4bit: true, bnb_4bit_use_double_quant: true}
        hardware: null
    Evidence: QLoRA, section 3.
    Known problems: loading takes a little longer.
    """
    if quant.load_in_4bit and not quant.bnb_4bit_use_double_quant:
        yield Hit(
            "Without double quantization the 4-bit base takes 0.37 bits more per weight: set bnb_4bit_use_double_quant "
            "to true.",
            ("quant.bnb_4bit_use_double_quant",),
            (Change("quant.bnb_4bit_use_double_quant", True),),
        )


PRECISION_RULES = (
    bf16_unsupported,
    fp16_compute_on_4bit,
    float32_compute_on_4bit,
    two_quantizations,
    quantized_without_adapter,
    svd_init_on_quantized_base,
    qlora_on_small_model,
    quantized_hybrid,
    single_quantization,
)
