"""``TrainingArguments`` and LoRA keys of somebody's own script, as JSON, YAML or flags: dialect ``hf``.

Only what transformers and PEFT define is known of such a script. Its own keys are read by the names that are usual; what it
does where they are silent stays unknown.
"""

from __future__ import annotations

import re

from lora_advise.dialect import Dialect, Lens, Renamed, Step
from lora_advise.dialect_hf import (
    ATTENTION,
    EVAL_INTERVAL,
    PEFT_DEFAULTS,
    RENAMED_ARGUMENTS,
    TRAINING_DEFAULTS,
    TRAINING_LENSES,
    TRAINING_STEPS,
    model_step,
    put_all,
    task_of,
)
from lora_advise.document import Config
from lora_advise.launchers import put_sharding
from lora_advise.sheet import Sheet
from lora_advise.tasks_named import task_words

_OWN: tuple[Lens, ...] = (
    Lens("model", "model_name_or_path", "word", ("model_name", "base_model", "model_id")),
    Lens("adapter", "use_peft", "any", ("use_lora", "use_peft_lora", "lora_enable", "lora")),
    Lens("lora.r", "lora_r", "count", ("lora_rank", "lora_dim")),
    Lens("lora.lora_alpha", "lora_alpha", "number"),
    Lens("lora.lora_dropout", "lora_dropout", "number"),
    Lens("target_modules", "lora_target_modules", "any", ("target_modules", "lora_target", "lora_modules")),
    Lens("lora.modules_to_save", "modules_to_save", "names", ("lora_modules_to_save",)),
    Lens("lora.bias", "lora_bias", "word"),
    Lens("lora.use_rslora", "use_rslora", "flag"),
    Lens("lora.use_dora", "use_dora", "flag"),
    Lens("load_in_4bit", "load_in_4bit", "flag", ("use_4bit_quantization", "use_4bit", "q_lora")),
    Lens("load_in_8bit", "load_in_8bit", "flag", ("use_8bit_quantization", "use_8bit")),
    Lens("bits", "bits", "count", ("quantization_bit",)),
    Lens("quant.bnb_4bit_quant_type", "bnb_4bit_quant_type", "word", ("quant_type",)),
    Lens("quant.bnb_4bit_use_double_quant", "bnb_4bit_use_double_quant", "flag", ("use_nested_quant", "double_quant")),
    Lens("quant.bnb_4bit_compute_dtype", "bnb_4bit_compute_dtype", "word"),
    Lens("quant.bnb_4bit_quant_storage", "bnb_4bit_quant_storage", "word", ("bnb_4bit_quant_storage_dtype",)),
    Lens("train.per_device_train_batch_size", "per_device_train_batch_size", "count", ("micro_batch_size",)),
    Lens("train.num_train_epochs", "num_train_epochs", "number", ("num_epochs",)),
    Lens("train.max_length", "max_length", "count", ("max_seq_length", "model_max_length", "max_seq_len", "cutoff_len")),
    Lens("train.packing", "packing", "flag"),
    Lens("attn_implementation", "attn_implementation", "word"),
    Lens("use_flash_attn", "use_flash_attn", "flag", ("flash_attn", "use_flash_attention_2")),
    Lens("datasets", "dataset_name", "any", ("data_path", "train_file", "dataset")),
    Lens("trust_remote_code", "trust_remote_code", "flag"),
    Lens("train.beta", "beta", "number"),
)  # fmt: skip
_TAKEN = {lens.name for lens in _OWN}
LENSES = (*_OWN, *(lens._replace(choices=()) for lens in TRAINING_LENSES if lens.name not in _TAKEN))
"""A script of one's own may take words of its own."""
_CHOSEN = {"lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.modules_to_save", "lora.task_type"}
"""What a script sets itself as a rule, also where it has no key for it."""
_LORA = ("lora.r", "lora.lora_alpha", "lora.lora_dropout", "target_modules")
_ARGUMENTS = {
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs",
    "lr_scheduler_type", "save_total_limit", "dataloader_num_workers", "logging_steps", "save_steps", "eval_strategy",
    "evaluation_strategy", "save_strategy", "warmup_ratio", "warmup_steps", "max_grad_norm", "report_to", "learning_rate",
}  # fmt: skip
_ADAPTER = {"lora_r", "lora_rank", "lora_dim", "lora_alpha", "lora_target_modules", "lora_dropout"}
_SURE = {"per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "per_device_eval_batch_size"}
"""Keys that hardly anybody has who does not parse ``TrainingArguments``."""
_FOREIGN = {
    "peft_type", "zero_optimization", "compute_environment", "_component_", "finetuning_type", "lora_target", "tuner_type",
    "train_type", "sft_type", "sequence_len", "peft_config",
}  # fmt: skip
_COMMANDS = {"trl", "swift", "megatron", "llamafactory-cli", "lmf", "axolotl", "tune"}
"""Keys and programs of other trainers, and of files beside a run: also where that trainer leaves the file alone."""
_OTHERS = re.compile(
    r"(?:^|_)(?:mlm|glue|classification|seq2seq|translation|summarization|qa|asr|vit|dreambooth)(?:_|\.|$)"
)


def _defaults(sheet: Sheet) -> None:
    """Of ``TrainingArguments``, where the file is one; nothing is known of what a script adds to them."""
    if not _SURE & {str(entry.path[0]) for entry in sheet.config.entries}:
        return
    for fact, value in TRAINING_DEFAULTS.items():
        if fact not in sheet.facts and fact not in sheet.unknown and fact not in _SCRIPTS_OWN:
            sheet.put(fact, value, said="transformers' default")


_SCRIPTS_OWN = {"train.packing", "train.attn_implementation", "train.embedding_learning_rate", "train.eval_share",
                "train.early_stopping_patience", "train.num_generations", "train.max_completion_length", "train.beta"}  # fmt: skip


def _adapter(sheet: Sheet) -> None:
    """An adapter where the file has settings of one and does not switch it off."""
    if not any(sheet.has(name) for name in _LORA) and not sheet.has("adapter"):
        return
    wanted = sheet.value("adapter", True)
    if str(wanted).lower() not in ("false", "0", "no"):
        sheet.present.add("lora")
        put_all(sheet, {f: v for f, v in PEFT_DEFAULTS.items() if f not in _CHOSEN}, "PEFT's default")


def _targets(sheet: Sheet) -> None:
    modules = sheet.value("target_modules")
    if isinstance(modules, str) and re.search(r"[\\(|*]", modules):
        sheet.put("lora.target_modules", modules, "target_modules")
    elif isinstance(modules, str) and ("," in modules or modules.strip()[:1] == "["):
        parts = modules.strip().strip("[]").split(",")
        sheet.put(
            "lora.target_modules", tuple(p for p in (part.strip(" '\"") for part in parts) if p), "target_modules"
        )
    elif isinstance(modules, tuple):
        sheet.put("lora.target_modules", tuple(map(str, modules)), "target_modules")
    elif modules is not None and str(modules) == "all-linear":
        sheet.put("lora.target_modules", "all-linear", "target_modules")
    else:
        sheet.unknown.add("lora.target_modules")


def _quantisation(sheet: Sheet) -> None:
    """Known only where the file speaks of it: many scripts quantise without a setting."""
    sheet.present.add("quant")
    bits = sheet.value("bits")
    for number, name in ((4, "load_in_4bit"), (8, "load_in_8bit")):
        if sheet.has(name):
            sheet.put(f"quant.{name}", sheet.flag(name), name)
        elif bits is not None:
            sheet.put(f"quant.{name}", bits == number, "bits")
    for one, other in (("load_in_4bit", "load_in_8bit"), ("load_in_8bit", "load_in_4bit")):
        if sheet.facts.get(f"quant.{one}") and f"quant.{other}" not in sheet.facts:
            sheet.put(f"quant.{other}", False, one)


def _precision(sheet: Sheet) -> None:
    """Without mixed precision the weights' own type decides, and a script chooses that."""
    for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if str(sheet.value(name)).lower() == "true":
            sheet.put("train.dtype", dtype, name)


def _flash(sheet: Sheet) -> None:
    if sheet.flag("use_flash_attn"):
        sheet.put("train.attn_implementation", "flash_attention_2", "use_flash_attn")


def _batch(sheet: Sheet) -> None:
    """alpaca-lora's ``batch_size`` is that of all processes together; its steps are the quotient with the micro-batch."""
    whole, micro = sheet.entry("batch_size"), sheet.facts.get("train.per_device_train_batch_size")
    if whole is not None and micro and isinstance(whole.value, int) and sheet.config.get("micro_batch_size"):
        if sheet.facts.get("processes", 1) == 1:
            sheet.put(
                "train.gradient_accumulation_steps", max(1, whole.value // micro), "batch_size", "micro_batch_size"
            )
        else:
            sheet.unknown.add("train.gradient_accumulation_steps")


def _task(sheet: Sheet) -> None:
    """By the script's or the file's name; None where that says nothing."""
    for word in task_words(sheet.config, sheet.document):
        found = task_of(word)
        if found is not None:
            sheet.task = found
            return


def _recognise(config: Config) -> int:
    """One for a file with settings of ``TrainingArguments``: every trainer on top of them has more of its own."""
    if config.shape == "calls" or any(_OTHERS.search(word.rsplit("/", 1)[-1]) for word in config.program):
        return 0
    keys = {str(entry.path[0]) for entry in config.entries}
    names = {word.rsplit("/", 1)[-1] for word in config.program}
    if keys & _FOREIGN or names & _COMMANDS:
        return 0
    if config.shape == "mapping" and "epochs" in keys and "num_train_epochs" not in keys:
        return 0
    lora = len(keys & _ADAPTER)
    if keys & _SURE and len(keys & _ARGUMENTS) >= 2:
        return 1
    if config.shape == "command" and lora and lora + len(keys & {"micro_batch_size", "cutoff_len"}) >= 2:
        return 1
    return 1 if lora and keys & (_ARGUMENTS | {"fp16", "bf16", "max_steps", "optim"}) else 0


HF = Dialect(
    name="hf", title="transformers", framework="transformers", lenses=LENSES,
    steps=(
        model_step("model"), Step(("lora",), _adapter), Step(("lora.target_modules",), _targets),
        Step(("quant.load_in_4bit", "quant.load_in_8bit"), _quantisation), Step(("train.dtype",), _precision),
        *TRAINING_STEPS, EVAL_INTERVAL, ATTENTION, Step(("train.attn_implementation",), _flash),
        Step(("stack.sharding", "stack.cpu_offload"), put_sharding), Step(("train.gradient_accumulation_steps",), _batch),
        Step(("task",), _task), Step((), _defaults),
    ),
    defaults={}, known=frozenset(), recognise=_recognise,
    renamed=(
        *RENAMED_ARGUMENTS,
        Renamed("gradient_checkpointing", "activation_checkpointing", "transformers", "5.23", "deprecated", "transformers-history"),
    ),
    text_numbers="break", written="json", newest="transformers 5.24",
)  # fmt: skip
