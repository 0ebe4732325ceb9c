"""What Python programs on transformers, TRL and PEFT spell alike, whichever of them holds the trainer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lora_advise.data_keys import keys_of
from lora_advise.dialect import Lens, Step
from lora_advise.dialect_hf import PEFT_DEFAULTS, TRAINING_LENSES, task_of
from lora_advise.document import Config, Entry, Unresolved
from lora_advise.facts import TaskFacts
from lora_advise.program_settings import (
    ARGUMENTS,
    LOADER,
    LORA,
    QUANT,
    TRAINER,
    arguments_class,
    called,
    is_open,
    role_of,
    trainer_class,
)
from lora_advise.sheet import Sheet
from lora_advise.targets_as import peft_default
from lora_advise.unknown import UnknownFact


def last_word(value: Any) -> Any:
    """``TaskType.CAUSAL_LM`` and ``torch.bfloat16`` as the word that is meant."""
    return str(value).rpartition(".")[2]


def _layers(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def lora_lenses(*roles: str) -> tuple[Lens, ...]:
    """``peft.LoraConfig``'s arguments, in the calls of these roles; the first is the one that is written."""

    def lens(name: str, key: str, kind: Any = "any", read: Any = None) -> Lens:
        first, *others = (f"{role}.{key}" for role in roles)
        return Lens(name, first, kind, tuple(others), read=read)

    return (
        lens("lora.r", "r", "count"), lens("lora.lora_alpha", "lora_alpha", "number"),
        lens("lora.lora_dropout", "lora_dropout", "number"), lens("target_modules", "target_modules"),
        lens("lora.target_parameters", "target_parameters", "names"), lens("lora.exclude_modules", "exclude_modules"),
        lens("lora.modules_to_save", "modules_to_save", "names"),
        lens("lora.layers_to_transform", "layers_to_transform", read=_layers), lens("layers_pattern", "layers_pattern"),
        lens("lora.trainable_token_indices", "trainable_token_indices"),
        lens("lora.ensure_weight_tying", "ensure_weight_tying", "flag"), lens("lora.bias", "bias", "word"),
        lens("lora.use_rslora", "use_rslora", "flag"), lens("lora.use_dora", "use_dora", "flag"),
        lens("lora.init_lora_weights", "init_lora_weights"), lens("lora.task_type", "task_type", "word", last_word),
        lens("lora_bias", "lora_bias", "flag"), lens("rank_pattern", "rank_pattern"), lens("alpha_pattern", "alpha_pattern"),
        lens("loftq_config", "loftq_config"), lens("inference_mode", "inference_mode", "flag"),
    )  # fmt: skip


LOADER_LENSES: tuple[Lens, ...] = (
    Lens("model", f"{LOADER}.model_name", "word", (f"{LOADER}.pretrained_model_name_or_path", f"{LOADER}.0")),
    Lens(
        "dtype",
        f"{LOADER}.dtype",
        "word",
        (f"{LOADER}.torch_dtype", "model_init_kwargs.dtype", "model_init_kwargs.torch_dtype"),
        read=last_word,
    ),
    Lens("attn_implementation", f"{LOADER}.attn_implementation", "word", ("model_init_kwargs.attn_implementation",)),
    Lens("trust_remote_code", f"{LOADER}.trust_remote_code", "flag"),
    Lens("device_map", f"{LOADER}.device_map"),
    Lens("num_labels", f"{LOADER}.num_labels", "count"),
    Lens("quantization_config", f"{LOADER}.quantization_config"),
)
QUANT_LENSES: tuple[Lens, ...] = (
    Lens("load_in_4bit", f"{QUANT}.load_in_4bit", "flag", (f"{LOADER}.load_in_4bit",)),
    Lens("load_in_8bit", f"{QUANT}.load_in_8bit", "flag", (f"{LOADER}.load_in_8bit",)),
    Lens("quant.bnb_4bit_quant_type", f"{QUANT}.bnb_4bit_quant_type", "word"),
    Lens("quant.bnb_4bit_use_double_quant", f"{QUANT}.bnb_4bit_use_double_quant", "flag"),
    Lens("quant.bnb_4bit_compute_dtype", f"{QUANT}.bnb_4bit_compute_dtype", "word", read=last_word),
    Lens("quant.bnb_4bit_quant_storage", f"{QUANT}.bnb_4bit_quant_storage", "word", read=last_word),
)


def _argument(name: str, key: str, kind: Any = "any", *former: str) -> Lens:
    """An argument of the trainer's configuration that older versions gave to the trainer itself."""
    return Lens(name, key, kind, (f"{TRAINER}.{key}", *former))


METHOD_LENSES: tuple[Lens, ...] = (
    _argument("max_length", "max_length", "count"), _argument("max_seq_length", "max_seq_length", "count"),
    _argument("train.packing", "packing", "flag"), Lens("packing_strategy", "packing_strategy", "word"),
    Lens("padding_free", "padding_free", "flag"), Lens("completion_only_loss", "completion_only_loss", "flag"),
    Lens("assistant_only_loss", "assistant_only_loss", "flag"), _argument("train.beta", "beta", "number"),
    _argument("loss_type", "loss_type"), Lens("train.num_generations", "num_generations", "count"),
    Lens("generation_batch_size", "generation_batch_size", "count"),
    Lens("steps_per_generation", "steps_per_generation", "count"),
    Lens("train.max_completion_length", "max_completion_length", "count"),
    _argument("max_prompt_length", "max_prompt_length", "count"), Lens("temperature", "temperature", "number"),
    Lens("use_vllm", "use_vllm", "flag"), Lens("label_smoothing", "label_smoothing", "number"),
    Lens("model_init_kwargs", "model_init_kwargs"), Lens("dataset_text_field", "dataset_text_field", "word", (f"{TRAINER}.dataset_text_field",)),
    Lens("activation_offloading", "activation_offloading", "flag"), Lens("eos_token", "eos_token", "word"),
    Lens("train.embedding_learning_rate", "embedding_learning_rate", "number"),
    Lens("lora.loraplus_lr_ratio", "loraplus_lr_ratio", "number"),
    Lens("use_reentrant", "gradient_checkpointing_kwargs.use_reentrant", "flag"),
)  # fmt: skip
DATA_LENSES: tuple[Lens, ...] = (
    Lens("datasets", f"{TRAINER}.train_dataset"), Lens("test_datasets", f"{TRAINER}.eval_dataset"),
    Lens("eval_share", "train_test_split.test_size", "number"), Lens("formatting_func", f"{TRAINER}.formatting_func"),
    Lens("data_collator", f"{TRAINER}.data_collator"), Lens("trainer_model", f"{TRAINER}.model", "any", (f"{TRAINER}.0",)),
    Lens("trainer_args", f"{TRAINER}.args", "any", (f"{TRAINER}.1",)), Lens("peft_config", f"{TRAINER}.peft_config"),
    Lens("train.early_stopping_patience", "EarlyStoppingCallback.early_stopping_patience", "count"),
    Lens("chat_template", "get_chat_template.chat_template"),
)  # fmt: skip
_TAKEN = {lens.name for lens in METHOD_LENSES}
PROGRAM_LENSES = (
    *LOADER_LENSES, *QUANT_LENSES, *METHOD_LENSES, *DATA_LENSES, *(lens for lens in TRAINING_LENSES if lens.name not in _TAKEN),
)  # fmt: skip
"""Everything but the adapter's, whose call differs."""
CHECKED = (LORA, QUANT)
"""Calls beside the trainer's arguments of which every keyword is known."""


def method_of(config: Config) -> str | None:
    """``sft``, ``dpo`` …: what TRL's trainer, or else its configuration, is for; None for all others."""
    for name in (trainer_class(config), arguments_class(config)):
        found = re.fullmatch(r"(?:Unsloth)?(SFT|DPO|KTO|ORPO|CPO|GRPO|RLOO|PPO|Reward)(?:Trainer|Config)", name or "")
        if found or name == "UnslothTrainer":
            return found[1].lower() if found else "sft"
    return None


def trains(config: Config) -> bool:
    """Whether the program trains by a trainer; one that only loads, merges or answers does not."""
    return trainer_class(config) is not None or arguments_class(config) is not None


def auto_class(config: Config) -> str:
    """The class that loads the model, or the one that Unsloth is told to load; empty where there is none."""
    stated = config.get(LOADER, "auto_model")
    if stated is not None and isinstance(stated.value, Unresolved):
        return stated.value.source
    found = (str(e.path[0]) for e in config.entries if len(e.path) == 1)
    return next((name for name in found if role_of(name) == LOADER), "").rpartition(".")[0]


def arguments_known(sheet: Sheet) -> bool:
    """Whether the arguments that the program does not name keep their defaults."""
    if is_open(sheet.config, ARGUMENTS):
        return False
    return arguments_class(sheet.config) is not None or not sheet.has("trainer_args")


def _task(sheet: Sheet) -> None:
    """By TRL's trainer; for transformers' own by the class of the model. Without a trainer there is no task."""
    method, auto = method_of(sheet.config), auto_class(sheet.config)
    if not trains(sheet.config):
        sheet.present.discard("train")
    elif method is not None:
        sheet.task = task_of(method)
    elif "SequenceClassification" in auto:
        sheet.task = task_of("classification")
    elif "CausalLM" in auto and trainer_class(sheet.config) == "Trainer":
        sheet.task = TaskFacts(name="chat", family="sft")


def _model(sheet: Sheet) -> None:
    """What is loaded, or the name that the trainer is given in a model's place."""
    if sheet.has("model"):
        sheet.resolve_model(str(sheet.value("model")), "model")
    elif isinstance(named := getattr(sheet.entry("trainer_model"), "value", None), str):
        sheet.resolve_model(named, "trainer_model")


def _adapter(sheet: Sheet) -> None:
    """``LoraConfig`` where the program puts it on the model; what it does not name are PEFT's defaults."""
    if not called(sheet.config, LORA):
        return
    sheet.present.add("lora")
    if not is_open(sheet.config, LORA):
        for fact, value in PEFT_DEFAULTS.items():
            if fact not in sheet.facts and fact not in sheet.unknown:
                sheet.put(fact, value, said="PEFT's default")


def _targets(sheet: Sheet) -> None:
    modules = sheet.value("target_modules")
    if isinstance(modules, (tuple, str)):
        put_targets(sheet, modules)
    elif sheet.facts.get("lora.target_parameters"):
        sheet.put("lora.target_modules", (), said="none beside target_parameters")
    else:
        chosen = peft_default(sheet.model)
        if chosen is None or is_open(sheet.config, LORA):
            raise UnknownFact("lora.target_modules")
        sheet.put("lora.target_modules", chosen, said="PEFT's default for this model")


def put_targets(sheet: Sheet, modules: tuple[Any, ...] | str) -> None:
    """Names, or one text as PEFT takes it; unknown where one of the names stands only when the program runs."""
    if isinstance(modules, str):
        sheet.put("lora.target_modules", modules, "target_modules")
    elif all(isinstance(name, str) for name in modules):
        sheet.put("lora.target_modules", tuple(map(str, modules)), "target_modules")
    else:
        raise UnknownFact("lora.target_modules")


def put_defaults(sheet: Sheet, values: dict[str, Any], whose: Callable[[str], str]) -> None:
    """Facts that nobody set; epochs are none where a number of steps ends the run."""
    stopped = {"train.num_train_epochs"} if sheet.facts.get("train.max_steps") else set()
    for fact, value in values.items():
        if fact not in sheet.facts and fact not in sheet.unknown | stopped:
            sheet.put(fact, value, said=f"{whose(fact)} default")


def _stopping(sheet: Sheet) -> None:
    if called(sheet.config, "EarlyStoppingCallback") and not sheet.has("train.early_stopping_patience"):
        sheet.put("train.early_stopping_patience", 1, said="the callback's default")


def _evaluated(sheet: Sheet) -> None:
    _stopping(sheet)
    _held_out(sheet)


def _held_out(sheet: Sheet) -> None:
    """The share that ``train_test_split`` holds out, where the trainer is given something to evaluate on."""
    if not sheet.has("test_datasets"):
        sheet.put("train.eval_share", 0.0, said="no data to evaluate on")
        return
    share = sheet.value("eval_share")
    if share is None or share >= 1:
        raise UnknownFact("train.eval_share")
    sheet.put("train.eval_share", float(share), "eval_share")


MODEL, TASK = Step(("model",), _model), Step((), _task)
ADAPTER, TARGETS = Step(("lora",), _adapter), Step(("lora.target_modules",), _targets)
HELD_OUT = Step(("train.eval_share", "train.early_stopping_patience"), _evaluated)


def switch(sheet: Sheet, name: str) -> bool | None:
    """A precision flag as the program sets it; None where the card decides (``bf16=is_bf16_supported()``) or nothing is said."""
    entry: Entry | None = sheet.entry(name)
    if entry is None or entry.value is None:
        return None
    if isinstance(entry.value, Unresolved):
        if re.search(r"is_\w*bf(?:loat)?16\w*supported|supports?_bf", entry.value.source):
            return None
        raise UnknownFact(name)
    return sheet.flag(name)


def known_in(config: Config, *further: str) -> frozenset[str]:
    """The keywords of the classes that a program calls; empty where the trainer's arguments have a class that is not listed."""
    kind = arguments_class(config)
    listed = keywords_of(kind) if kind else frozenset()
    if kind and not listed:
        return frozenset()
    calls = {str(e.path[0]) for e in config.entries if len(e.path) == 1 and isinstance(e.value, dict)}
    return frozenset({*listed, *further, *calls})


def closed_in(config: Config) -> dict[str, frozenset[str]]:
    """The calls beside the trainer's arguments that take no other keywords than these."""
    return {role: keywords_of(role) for role in CHECKED if called(config, role)}


def keywords_of(name: str) -> frozenset[str]:
    """What that class of transformers, TRL or PEFT takes; TRL's configurations also take transformers' arguments."""
    own = keys_of(f"trl-{name}")
    if own:
        return own | keys_of("transformers-TrainingArguments")
    return keys_of(f"transformers-{name}") or keys_of(f"peft-{name}")
