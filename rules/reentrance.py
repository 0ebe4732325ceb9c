"""Rules about activation checkpointing under an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import LoraFacts, QuantFacts, StackFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.program_settings import called
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.unknown import UnknownFact


def older(config: Reading | None, library: str, release: int) -> bool | None:
    """Whether that library is known to be before a major release; None where its version is not known."""
    stated = config.versions.get(library, "") if config is not None else ""
    major = stated.partition(".")[0]
    return int(major) < release if major.isdecimal() else None


@rule(
    "input-gradients-missing",
    "DST1202",
    Severity.WARNING,
    Confidence.FACT,
    ("transformers-code", "input-gradient-reports"),
)
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
    if not config.value("train.activation_checkpointing") and not called(
        config.config, "gradient_checkpointing_enable"
    ):
        return
    if any(entry.path[-1] == "use_reentrant" and entry.value is not True for entry in config.config.entries):
        return
    yield Hit(
        "Checkpointing is on under an adapter, and the frozen embeddings give no gradient to start from: before transformers 5 nothing "
        'is learned. Call model.enable_input_require_grads(), or set gradient_checkpointing_kwargs={"use_reentrant": False}.',
        ("train.activation_checkpointing", "config.gradient_checkpointing", "config.gradient_checkpointing_enable"),
        severity=Severity.ERROR if older(config, "transformers", 5) else None,
    )


_REMEDIES = (
    "enable_input_require_grads",
    "prepare_model_for_kbit_training",
    "register_forward_hook",
    "SFTTrainer",
    "make_inputs_require_grad",
)


def _reaches_embeddings(lora: LoraFacts) -> bool:
    """Whether embeddings are trained too, which need gradients anyway."""
    try:
        targets = lora.target_modules if isinstance(lora.target_modules, tuple) else ()
    except UnknownFact:
        targets = ()
    return any(name.rsplit(".", 1)[-1] in EMBEDDING_NAMES for name in (*lora.modules_to_save, *targets))


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


REENTRANCE_RULES = (input_gradients_missing, reentrant_mismatch)
