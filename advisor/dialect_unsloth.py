"""Unsloth's scripts and notebooks (checked against 2026.10.9): its loaders, its ``get_peft_model`` and the trainers it patches."""

from __future__ import annotations

from typing import Any

from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.dialect_hf import EVAL_INTERVAL, TRAINING_DEFAULTS, TRAINING_STEPS, put_all
from lora_advise.dialect_trl import METHOD_DEFAULTS, TRL
from lora_advise.document import Config, Unresolved
from lora_advise.launchers import put_sharding
from lora_advise.program_lenses import (
    HELD_OUT,
    MODEL,
    PROGRAM_LENSES,
    TASK,
    arguments_known,
    known_in,
    lora_lenses,
    method_of,
    put_defaults,
    switch,
    trains,
)
from lora_advise.program_settings import LOADER, LORA, MASK, WRAP, arguments_class, called, is_open
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact
from lora_advise.unsloth_adapter import ADAPTER, FLAGS, TARGETS, closed

_OWN: tuple[Lens, ...] = (
    Lens("loader_max_length", f"{LOADER}.max_seq_length", "count"),
    Lens("full_finetuning", f"{LOADER}.full_finetuning", "flag"),
    Lens("load_in_16bit", f"{LOADER}.load_in_16bit", "flag"), Lens("load_in_fp8", f"{LOADER}.load_in_fp8"),
    Lens("fast_inference", f"{LOADER}.fast_inference", "flag"), Lens("max_lora_rank", f"{LOADER}.max_lora_rank", "count"),
    Lens("gpu_memory_utilization", f"{LOADER}.gpu_memory_utilization", "number"),
    Lens("loader_gradient_checkpointing", f"{LOADER}.use_gradient_checkpointing"),
    Lens("gradient_checkpointing", f"{WRAP}.use_gradient_checkpointing"),
    Lens("arguments_checkpointing", "gradient_checkpointing", "flag", ("activation_checkpointing",)),
    Lens("qat_scheme", f"{WRAP}.qat_scheme", "any", (f"{LOADER}.qat_scheme",)),
    Lens("finetune_last_n_layers", f"{WRAP}.finetune_last_n_layers", "count"),
    *(Lens(name, f"{WRAP}.{name}", "flag") for name in (*FLAGS, "finetune_audio_layers")),
)  # fmt: skip
_TAKEN = {"train.activation_checkpointing"}
LENSES = (*lora_lenses(WRAP, LORA), *_OWN, *(lens for lens in PROGRAM_LENSES if lens.name not in _TAKEN))
_PATCHED: dict[str, Any] = {
    "train.learning_rate": 5e-5, "train.per_device_train_batch_size": 4, "train.gradient_accumulation_steps": 2,
    "train.weight_decay": 0.001, "train.seed": 3407, "train.optim": "adamw_8bit", "train.per_device_eval_batch_size": 4,
    "train.logging_steps": 1, "train.num_generations": 8,
}  # fmt: skip
"""What Unsloth's copies of TRL's configurations set otherwise (``unsloth/models/rl.py``)."""
_PATCHED_WARMUP = 0.1
_PREFERENCE = ("dpo", "kto", "orpo", "cpo")
_FIXED = {"quant_type": "nf4", "use_double_quant": True, "quant_storage": "uint8"}


def _model(sheet: Sheet) -> None:
    """Of a model that is published in 8 or 4 bits Unsloth loads its own 16-bit or bitsandbytes copy."""
    MODEL.run(sheet)
    if sheet.model is not None and sheet.model.checkpoint_quantization:
        sheet.model = sheet.model.changed({"checkpoint_quantization": None})


def _is_patched(config: Config) -> bool:
    """Whether the trainer's arguments are one of TRL's configurations, which Unsloth puts its own defaults into."""
    name = arguments_class(config)
    return (name.endswith("Config") if name else method_of(config) is not None) and name != "UnslothTrainingArguments"


def _quantisation(sheet: Sheet) -> None:
    """4 bits unless the loader is told otherwise; always NF4 with double quantisation."""
    sheet.present.add("quant")
    if not called(sheet.config, LOADER) or is_open(sheet.config, LOADER):
        raise UnknownFact("quant.load_in_4bit")
    name = str(sheet.value("model", "")).lower()
    sixteen = sheet.flag("load_in_16bit") or sheet.flag("full_finetuning") or sheet.value("load_in_fp8", False)
    eight = sheet.flag("load_in_8bit")
    plain = any(c.startswith(("Fast", "Unsloth")) for c in called(sheet.config, LOADER))
    four = sheet.flag("load_in_4bit", plain and not eight) and not sixteen and not name.endswith("-bf16")
    sheet.put("quant.load_in_8bit", eight and not sixteen, "load_in_8bit")
    names = ("load_in_4bit", "load_in_8bit", "load_in_16bit", "full_finetuning")
    sheet.put("quant.load_in_4bit", four and not eight, *names)
    put_all(sheet, {f"quant.bnb_4bit_{name}": value for name, value in _FIXED.items()}, "fixed by Unsloth")


def _precision(sheet: Sheet) -> None:
    """The flags, else the weights' type: bfloat16 on a card that has it."""
    asked = sheet.value("dtype")
    native = asked if asked in ("bfloat16", "float16") else "float16" if _old_card(sheet) else "bfloat16"
    names = ["dtype"] if asked in ("bfloat16", "float16") else []
    sheet.put("quant.bnb_4bit_compute_dtype", native, *names, said="the weights' own type")
    if not trains(sheet.config):
        return
    fp16, bf16 = switch(sheet, "fp16"), switch(sheet, "bf16")
    flag = "fp16" if fp16 else "bf16" if bf16 else None
    if flag:
        sheet.put("train.dtype", "float16" if fp16 else "bfloat16", flag)
    else:
        sheet.put("train.dtype", native, *names, said="the weights' own type")


def _old_card(sheet: Sheet) -> bool:
    return sheet.hardware is not None and sheet.hardware.bf16 is False


def _length(sheet: Sheet) -> None:
    """The smaller of the loader's length and the trainer's; a ``max_length`` of TRL's own 1,024 counts as not set in SFT."""
    if not called(sheet.config, LOADER) or is_open(sheet.config, LOADER):
        raise UnknownFact("train.max_length")
    loader = sheet.value("loader_max_length", 2048)
    names, lengths = ["loader_max_length"], [loader] if loader else []
    method = method_of(sheet.config)
    for name in ("max_seq_length", "max_length"):
        value = sheet.value(name)
        if name == "max_length" and (value == 1024 or "max_seq_length" in names) and method == "sft":
            continue
        if value:
            names.append(name)
            lengths.append(value)
    if method in _PREFERENCE and len(names) == 1 and not sheet.entry("max_length"):
        lengths.append(METHOD_DEFAULTS[method]["train.max_length"])
    if not lengths:
        raise UnknownFact("train.max_length")
    sheet.put("train.max_length", min(lengths), *names)
    sheet.facts["loader_max_length"] = loader


def _checkpointing(sheet: Sheet) -> None:
    """The adapter's own setting counts, unless the trainer's arguments say no; ``unsloth`` offloads and is on too."""
    name = "gradient_checkpointing" if "lora" in sheet.present else "loader_gradient_checkpointing"
    value = sheet.value(name, "unsloth")
    off = sheet.entry("arguments_checkpointing") is not None and not sheet.flag("arguments_checkpointing", True)
    on = (value is True or str(value).lower() in ("true", "unsloth")) and not off
    sheet.put("train.activation_checkpointing", on, name, *(["arguments_checkpointing"] if off else []))


def _loss(sheet: Sheet) -> None:
    """Every token counts unless ``train_on_responses_only`` masks the prompts or the arguments say so."""
    family = sheet.task.family if sheet.task else None
    collator = sheet.entry("data_collator")
    if family not in (None, "sft"):
        sheet.put("train.loss_on", "completion", said="the trainer")
    elif called(sheet.config, MASK):
        sheet.put("train.loss_on", "assistant", said="train_on_responses_only")
    elif sheet.flag("assistant_only_loss"):
        sheet.put("train.loss_on", "assistant", "assistant_only_loss")
    elif sheet.has("completion_only_loss"):
        only = sheet.flag("completion_only_loss")
        sheet.put("train.loss_on", "completion" if only else "all", "completion_only_loss")
    elif collator is not None and isinstance(collator.value, Unresolved) and "Seq2Seq" not in collator.value.source:
        raise UnknownFact("train.loss_on")
    elif family == "sft" and (sheet.has("dataset_text_field") or sheet.has("formatting_func")):
        sheet.put("train.loss_on", "all", "dataset_text_field", "formatting_func")


def _attention(sheet: Sheet) -> None:
    """A stated one is taken; packed rows are kept apart by Unsloth's own kernels, whatever it is."""
    stated = sheet.value("attn_implementation")
    if sheet.facts.get("train.packing"):
        raise UnknownFact("train.attn_implementation")
    if stated in ("eager", "sdpa", "flash_attention_2"):
        sheet.put("train.attn_implementation", stated, "attn_implementation")
    elif stated is not None:
        raise UnknownFact("train.attn_implementation")


def _batch(sheet: Sheet) -> None:
    """A group of GRPO must divide the batch, else the micro-batch becomes the group."""
    facts = sheet.facts
    stated = sheet.has("steps_per_generation") or sheet.has("generation_batch_size")
    if method_of(sheet.config) == "grpo" and not stated:
        names = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps", "train.num_generations")
        if any(name not in facts for name in names):
            return
        micro, steps, group = (facts[name] for name in names)
        if (micro * steps) % group:
            sheet.put(names[0], group, "train.num_generations", said="Unsloth, for the group")


def _defaults(sheet: Sheet) -> None:
    if not trains(sheet.config) or not arguments_known(sheet):
        return
    patched, name, method = _is_patched(sheet.config), arguments_class(sheet.config), method_of(sheet.config)
    own: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    if patched or name == "UnslothTrainingArguments":
        own = {**METHOD_DEFAULTS.get(method or "", {}), "train.logging_steps": 10}
        own.pop("train.max_length", None)
    if patched:
        changed = {k: v for k, v in _PATCHED.items() if k != "train.num_generations" or method == "grpo"}
        own |= changed
        _default_warmup(sheet)

    def whose(fact: str) -> str:
        return "Unsloth's" if fact in changed else "TRL's" if fact in own else "transformers'"

    put_defaults(sheet, {**TRAINING_DEFAULTS, **own}, whose)


def _default_warmup(sheet: Sheet) -> None:
    if not sheet.has("warmup_steps") and not sheet.has("warmup_ratio") and "warmup_share" not in sheet.facts:
        sheet.unknown.add("train.warmup_steps")
        sheet.facts["warmup_share"] = _PATCHED_WARMUP
        sheet.inherited["train.warmup_steps"] = "Unsloth's default"


def _recognise(config: Config) -> int:
    """Imports of Unsloth, and calls of its classes."""
    if config.shape != "calls":
        return 0
    imported = any(module.partition(".")[0] == "unsloth" for module in config.program)
    calls = called(config, LOADER, WRAP, "for_training", "for_inference", "UnslothTrainer", "UnslothTrainingArguments")
    return 5 * imported + len([c for c in calls if c.startswith(("Fast", "Unsloth"))])


def _known(config: Config) -> frozenset[str]:
    """Unsloth hands old names of TRL's and transformers' arguments on, and has some of its own."""
    found = known_in(config)
    own = {
        "max_seq_length",
        "embedding_learning_rate",
        "q_galore_config",
        "vllm_sampling_params",
        "context_parallel_size",
    }
    return found | {r.old for r in TRL.renamed} | own if found else found


UNSLOTH = Dialect(
    name="unsloth", title="Unsloth", framework="unsloth", lenses=LENSES,
    steps=(
        Step(("model",), _model), TASK, ADAPTER, TARGETS,
        Step(("quant.load_in_4bit", "quant.load_in_8bit"), _quantisation),
        Step(("train.dtype", "quant.bnb_4bit_compute_dtype"), _precision), Step(("train.max_length",), _length),
        *TRAINING_STEPS, Step(("train.activation_checkpointing",), _checkpointing), HELD_OUT,
        Step(("train.attn_implementation",), _attention), Step(("train.loss_on",), _loss),
        Step(("stack.sharding", "stack.cpu_offload"), put_sharding), Step((), _defaults), EVAL_INTERVAL,
        Step(("train.per_device_train_batch_size",), _batch),
    ),
    defaults={"stack.sharding": "none"}, known=frozenset(), recognise=_recognise, written="python",
    newest="unsloth 2026.10.9", known_in=_known, closed=closed,
)  # fmt: skip
