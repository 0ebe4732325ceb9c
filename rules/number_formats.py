"""Rules about the number format of a run beside that of the published weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from lora_advise.facts import Facts, LoraFacts, ModelFacts, QuantFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Rewrite, Severity
from lora_advise.published import native_dtype, stored_as
from lora_advise.rates import format_lr
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.conflicts import is_on
from lora_advise.unknown import UnknownFact

SIXTEEN = ("bf16", "fp16", "pure_bf16", "fp8", "bfloat16", "float16")
"""Settings that say which 16-bit format a run computes in."""


@rule(
    "precision-unset",
    "QNT416",
    Severity.WARNING,
    Confidence.FACT,
    ("trainer-code", "trl-history", "llamafactory-history"),
)
def precision_unset(config: Reading, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Neither bf16 nor fp16 is on, and the trainer turns none on by itself.

    Why: the run then computes in float32, or in whatever type the weights have without any scaling: slower, with twice the
        memory, and on a quantized base with a loss of zero or NaN.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: LLaMA-Factory warns of it and goes on; TRL turns bf16 on unless it is told otherwise, and its first releases did
        not, so there it is a note, only where nothing says which release runs and the file speaks of precision otherwise.
    Known problems: a script of one's own may load the weights in 16 bits and train them so; it is not judged.
    """
    name = config.dialect.name
    if (
        name not in ("llamafactory", "trl")
        or config.config.shape == "calls"
        or (config.has("do_train") and not is_on(config, "do_train"))
    ):
        return
    if any(config.has(key) or config.config.get(key) is not None for key in (*SIXTEEN, "use_cpu")):
        return
    if config.has("tokenized_path") and not config.has("train.learning_rate"):
        return
    spoken = config.has("load_in_4bit") or config.has("load_in_8bit")
    if name == "trl" and (config.has("dtype") or not spoken or config.config.program or "trl" in config.versions):
        return
    named = [field for field in ("bits", "load_in_4bit", "load_in_8bit") if config.has(field)]
    says = "the run computes in float32" + "; on the quantized base the loss is likely to be 0" * is_on_bits(config)
    if name == "trl":
        says = "newer TRL turns bf16 on by itself, older releases train in float32"
    yield Hit(
        f"Neither bf16 nor fp16 is set: {says}. Write bf16: true, or fp16: true on a card without bfloat16.",
        ("config.bf16", "config.fp16", *(f"config.{field}" for field in named)),
        (Change("config.bf16", True),) if name == "llamafactory" else (),
        Severity.NOTE if name == "trl" else None,
    )


def is_on_bits(config: Reading) -> bool:
    """Whether the file loads the base in 4 or 8 bits."""
    return config.value("bits") in (4, 8) or any(is_on(config, name) for name in ("load_in_4bit", "load_in_8bit"))


@rule(
    "bf16-adapter-weights",
    "QNT417",
    Severity.NOTE,
    Confidence.MEASURED,
    ("peer-checks", "trl-code", "torchtune-recipes"),
)
def bf16_adapter_weights(config: Reading, lora: LoraFacts, train: TrainFacts) -> Iterator[Hit]:
    """The adapter's own weights are bfloat16, and the learning rate is so low that most steps round away.

    Why: bfloat16 has 8 bits of mantissa, so a step below 1/256 of a weight changes nothing. In float32 nothing is lost.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: dpo
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 2.0e-5
            pure_bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: dpo
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 2.0e-5
            bf16: true
    Evidence: a trial with AdamW: at 1e-6, 0.8 % of the motion of A and 24 % of that of B arrived in bfloat16, at 1e-4 about 30 %.
    Known problems: measured on a small problem, and ten recipes that trainers ship do it at 2e-5, so it is a note down to
        5e-6 and a warning below. Stochastic rounding, which some optimizers have, avoids it and is not seen.
    """
    if train.learning_rate > 2e-5 or not _in_bf16(config):
        return
    yield Hit(
        f"The adapter is kept in bfloat16 and trained at {format_lr(train.learning_rate)}: most steps are smaller than its rounding "
        "and are lost. Keep the trainable weights in float32, or raise the learning rate.",
        ("train.learning_rate", "config.pure_bf16", "config.dtype"),
        severity=Severity.WARNING if train.learning_rate <= 5e-6 else None,
    )


def _in_bf16(config: Reading) -> bool:
    """Whether the trainer keeps the trainable weights in bfloat16."""
    if config.dialect.name == "torchtune":
        return bool(config.value("dtype") == "bf16")
    return config.dialect.name == "llamafactory" and is_on(config, "pure_bf16")


@rule("fp16-on-bf16-model", "QNT418", Severity.WARNING, Confidence.MEASURED, ("fp16-overflow-reports", "hub-metadata"))
def fp16_on_bf16_model(
    model: ModelFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """A model that was made in bfloat16 is trained in float16.

    Why: float16 ends at 65,504. Models that were trained in bfloat16 have activations beyond that, which become infinite:
        the loss is NaN or 0 and the gradient scaler skips every step.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            fp16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: four reports of a loss of 0 or NaN with Baichuan 2 and Qwen 2, which bf16 ended; GLM-4's makers say so too.
    Known problems: many such runs do train, on cards without bfloat16 by necessity: with such a card nothing is said. The
        format is known by family; unknown ones are not judged, nor are GPTQ and AWQ copies, which are made for float16.
    """
    if train.dtype != "float16" or native_dtype(model) != "bfloat16":
        return
    stored = stored_as(str(config.value("model", ""))) if config is not None else None
    if stored in ("gptq", "awq", "int4", "int8") or _lacks_bf16(facts):
        return
    flag = config.written.get("fp16") if config is not None else None
    rename = flag is not None and config is not None and flag.key is not None and not config.config.get("bf16")
    yield Hit(
        f"{model.name} was published in bfloat16 and is trained in float16, where its larger activations overflow: the loss turns "
        "to 0 or NaN. Train in bf16; on a card without it, watch the first steps and keep the scaler on.",
        ("train.dtype", "config.fp16"),
        () if flag is not None else (Change("train.dtype", "bfloat16"),),
        rewrites=(Rewrite(flag, "write bf16 in place of fp16", key="bf16"),) if rename else (),
    )


def _lacks_bf16(facts: Facts) -> bool:
    with suppress(UnknownFact):
        return facts.hardware is not None and facts.hardware.bf16 is False
    return False


@rule("precision-flag-against-weights", "QNT419", Severity.WARNING, Confidence.FACT, ("trainer-code", "peer-checks"))
def precision_flag_against_weights(config: Reading, train: TrainFacts) -> Iterator[Hit]:
    """The weights are loaded in one 16-bit format and the run computes in the other.

    Why: every matrix is converted on its way, with a loss of range or of digits. Unsloth refuses it.
    Example:
        trl: |
            model_name_or_path: meta-llama/Llama-3.1-8B
            dataset_name: trl-lib/Capybara
            use_peft: true
            lora_target_modules: all-linear
            packing: false
            learning_rate: 2.0e-4
            num_train_epochs: 1
            dtype: float16
            bf16: true
    Instead:
        trl: |
            model_name_or_path: meta-llama/Llama-3.1-8B
            dataset_name: trl-lib/Capybara
            use_peft: true
            lora_target_modules: all-linear
            packing: false
            learning_rate: 2.0e-4
            num_train_epochs: 1
            dtype: bfloat16
            bf16: true
    Evidence: the check in Unsloth's trainer; elsewhere it runs and is slower.
    Known problems: only where both are written.
    """
    weights, flag = (
        str(config.value("dtype")).rpartition(".")[2],
        "bf16" if is_on(config, "bf16") else "fp16" if is_on(config, "fp16") else None,
    )
    wanted = {"bf16": "bfloat16", "fp16": "float16"}.get(flag or "")
    if flag is None or weights not in ("bfloat16", "float16") or weights == wanted:
        return
    refused = config.dialect.name == "unsloth"
    yield Hit(
        f"The weights are loaded in {weights} and {flag} is on{', which Unsloth refuses' if refused else ''}: load them in {wanted}, "
        f"or switch {flag} off.",
        ("config.dtype", f"config.{flag}"),
        severity=Severity.ERROR if refused else None,
        rewrites=(Rewrite(config.written["dtype"], f"load the weights in {wanted}", value=wanted),)
        if config.config.shape != "calls"
        else (),
    )


@rule("quantized-by-name", "QNT420", Severity.NOTE, Confidence.FACT, ("file-itself", "checkpoint-formats"))
def quantized_by_name(config: Reading, lora: LoraFacts, quant: QuantFacts) -> Iterator[Hit]:
    """The base is stored below 16 bits by its name, and nothing else in the file says so.

    Why: the adapter is trained on a quantized base, and cannot be merged into it. Who does not know that plans the merge, the
        memory and the precision for another model.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct-AWQ
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: the makers' naming: -GPTQ, -AWQ, -Int4, -FP8, -bnb-4bit.
    Known problems: a folder that is only called so, or such a base on purpose. Unsloth takes the 16-bit model by itself.
    """
    name = str(config.value("model", ""))
    kind = stored_as(name)
    if config.dialect.name.startswith("unsloth") or kind is None:
        return
    if quant.load_in_4bit or quant.load_in_8bit or config.config.get("peft_type") is not None:
        return
    if any(
        "quant" in str(entry.path[-1]).lower() or "gptq" in str(entry.path[-1]).lower()
        for entry in config.config.entries
    ):
        return
    yield Hit(
        f"{name[:80]} is stored as {kind.upper()} by its name: the adapter learns on that base and cannot be merged into it. Take the "
        "16-bit model where you want to merge.",
        ("config.model",),
    )


NUMBER_FORMAT_RULES = (
    precision_unset, bf16_adapter_weights, fp16_on_bf16_model, precision_flag_against_weights, quantized_by_name
)  # fmt: skip
