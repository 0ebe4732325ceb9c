"""Python programs and notebooks on TRL's trainers and transformers' own, with PEFT: dialects ``trl`` and ``hf`` in Python."""

from __future__ import annotations

from typing import Any

from lora_advise.dialect import Dialect, Renamed, Step
from lora_advise.dialect_hf import (
    ATTENTION,
    BNB_DEFAULTS,
    EVAL_INTERVAL,
    RENAMED_ARGUMENTS,
    TRAINING_DEFAULTS,
    TRAINING_STEPS,
)
from lora_advise.dialect_trl import METHOD_DEFAULTS, TRL
from lora_advise.document import Config, Unresolved
from lora_advise.launchers import put_sharding
from lora_advise.program_lenses import (
    ADAPTER,
    HELD_OUT,
    MODEL,
    PROGRAM_LENSES,
    TARGETS,
    TASK,
    arguments_known,
    closed_in,
    known_in,
    lora_lenses,
    method_of,
    put_defaults,
    switch,
    trains,
)
from lora_advise.program_settings import LORA, QUANT, arguments_class, called, is_open
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact

LENSES = (*lora_lenses(LORA), *PROGRAM_LENSES)
_OTHER_ADAPTERS = (
    "IA3Config", "PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig", "AdaLoraConfig", "LoHaConfig", "LoKrConfig",
    "OFTConfig", "BOFTConfig", "VeraConfig", "FourierFTConfig", "HRAConfig", "VBLoRAConfig", "LNTuningConfig", "XLoraConfig",
    "PolyConfig", "BoneConfig", "MissConfig", "RandLoraConfig", "C3AConfig", "ShiraConfig", "RoadConfig", "CPTConfig", "AdaptionPromptConfig",
)  # fmt: skip
"""Adapters of PEFT's that are no LoRA: a program with one of these and without ``LoraConfig`` is not judged."""
_TRL_OWN: dict[str, Any] = {"train.logging_steps": 10, "train.activation_checkpointing": True}


def is_trl(config: Config) -> bool:
    """Whether the arguments are of one of TRL's own configurations, whose defaults differ from transformers'."""
    name = arguments_class(config)
    return name.endswith("Config") if name else method_of(config) is not None


def _length(sheet: Sheet) -> None:
    """``max_length=None`` cuts nothing, so the length is the data's."""
    for name in ("max_length", "max_seq_length"):
        if sheet.entry(name) is not None:
            value = sheet.value(name)
            if value is None:
                raise UnknownFact("train.max_length")
            sheet.put("train.max_length", value, name)
            return


def _defaults(sheet: Sheet) -> None:
    """Of the configuration's class; nothing is inherited where the program fills it in when it runs."""
    if not trains(sheet.config) or not arguments_known(sheet):
        return
    trl = is_trl(sheet.config)
    own = {**METHOD_DEFAULTS.get(method_of(sheet.config) or "", {}), **_TRL_OWN} if trl else {}
    values = {**TRAINING_DEFAULTS, **own}
    if trl and "train.learning_rate" not in own:
        del values["train.learning_rate"]
    put_defaults(sheet, values, lambda fact: "TRL's" if fact in own else "transformers'")


def _quantisation(sheet: Sheet) -> None:
    """What ``BitsAndBytesConfig`` says; unknown where something else than such a call is given."""
    sheet.present.add("quant")
    stated = sheet.entry("quantization_config")
    hidden = stated is not None and isinstance(stated.value, Unresolved)
    if (hidden and not called(sheet.config, QUANT)) or is_open(sheet.config, QUANT):
        raise UnknownFact("quant.load_in_4bit")
    for name in ("load_in_4bit", "load_in_8bit"):
        sheet.put(f"quant.{name}", sheet.flag(name), name, said="nothing that quantises")
    for fact, value in BNB_DEFAULTS.items():
        if fact not in sheet.facts and fact not in sheet.unknown:
            sheet.put(fact, value, said="bitsandbytes' default")


def _precision(sheet: Sheet) -> None:
    """TRL's ``bf16`` is on unless ``fp16`` is; with transformers' arguments the weights' own type counts where both are off."""
    if not trains(sheet.config):
        return
    fp16, bf16 = switch(sheet, "fp16"), switch(sheet, "bf16")
    if fp16:
        sheet.put("train.dtype", "float16", "fp16")
    elif bf16 or (bf16 is None and arguments_known(sheet) and is_trl(sheet.config)):
        sheet.put("train.dtype", "bfloat16", "bf16", said="TRL's default")
    elif sheet.entry("bf16") is not None and bf16 is None:
        sheet.put("train.dtype", "bfloat16", "bf16")
    elif arguments_known(sheet) and sheet.value("dtype") in ("bfloat16", "float16", "float32"):
        sheet.put("train.dtype", sheet.value("dtype"), "dtype", "bf16", "fp16")


def _checkpointing(sheet: Sheet) -> None:
    """``prepare_model_for_kbit_training`` and ``gradient_checkpointing_enable`` switch it on whatever the arguments say."""
    prepared = called(sheet.config, "prepare_model_for_kbit_training")
    entry = sheet.config.get("prepare_model_for_kbit_training", "use_gradient_checkpointing")
    if prepared and (entry is None or entry.value is True):
        sheet.put("train.activation_checkpointing", True, said="prepare_model_for_kbit_training")
        return
    switches = called(sheet.config, "gradient_checkpointing_enable", "gradient_checkpointing_disable")
    if switches == ("gradient_checkpointing_enable",):
        sheet.put("train.activation_checkpointing", True, said="gradient_checkpointing_enable")


def _loss(sheet: Sheet) -> None:
    """Without a setting the data's columns decide, which a program does not show."""
    family = sheet.task.family if sheet.task else None
    collator = sheet.entry("data_collator")
    if family not in (None, "sft"):
        sheet.put("train.loss_on", "completion", said="the trainer")
    elif sheet.flag("assistant_only_loss"):
        sheet.put("train.loss_on", "assistant", "assistant_only_loss")
    elif sheet.has("completion_only_loss"):
        only = sheet.flag("completion_only_loss")
        sheet.put("train.loss_on", "completion" if only else "all", "completion_only_loss")
    elif called(sheet.config, "DataCollatorForCompletionOnlyLM"):
        sheet.put("train.loss_on", "completion", "data_collator")
    elif called(sheet.config, "DataCollatorForLanguageModeling") and collator is not None:
        sheet.put("train.loss_on", "all", "data_collator")
    elif sheet.has("formatting_func") and method_of(sheet.config) == "sft":
        sheet.put("train.loss_on", "all", "formatting_func")


STEPS = (
    MODEL, TASK, ADAPTER, TARGETS,
    Step(("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_quant_type", "quant.bnb_4bit_compute_dtype"), _quantisation),
    Step(("train.dtype",), _precision), Step(("train.max_length",), _length), *TRAINING_STEPS,
    Step(("train.activation_checkpointing",), _checkpointing), ATTENTION, HELD_OUT, Step(("train.loss_on",), _loss),
    Step(("stack.sharding", "stack.cpu_offload"), put_sharding), Step((), _defaults), EVAL_INTERVAL,
)  # fmt: skip


def _concerned(config: Config) -> bool:
    """Whether it is a program that trains or handles a LoRA adapter or a language model, and none of another trainer's."""
    if config.shape != "calls" or "unsloth" in " ".join(config.program):
        return False
    lora = called(config, LORA, "merge_and_unload", "get_peft_model")
    return bool(lora) or (trains(config) and not any(called(config, name) for name in _OTHER_ADAPTERS))


def _recognise_trl(config: Config) -> int:
    return 3 if _concerned(config) and method_of(config) is not None else 0


def _recognise_hf(config: Config) -> int:
    other = any(called(config, name) for name in _OTHER_ADAPTERS) and not called(config, LORA)
    return 1 if _concerned(config) and not other else 0


TRL_PROGRAM = Dialect(
    name="trl", title="TRL", framework="trl", lenses=LENSES, steps=STEPS, defaults={"stack.sharding": "none"}, known=frozenset(),
    recognise=_recognise_trl, renamed=TRL.renamed, strict=True, text_numbers="quoted", written="python", newest=TRL.newest, known_in=known_in, closed=closed_in,
)  # fmt: skip
HF_PROGRAM = Dialect(
    name="hf", title="transformers", framework="transformers", lenses=LENSES, steps=STEPS, defaults={"stack.sharding": "none"},
    known=frozenset(), recognise=_recognise_hf,
    renamed=(
        *RENAMED_ARGUMENTS,
        Renamed("gradient_checkpointing", "activation_checkpointing", "transformers", "5.23", "deprecated", "transformers-arguments"),
    ),
    strict=True, text_numbers="quoted", written="python", newest="transformers 5.24", known_in=known_in, closed=closed_in,
)  # fmt: skip
