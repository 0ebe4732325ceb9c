"""ms-swift's flags, YAML and JSON (checked against 4.6): ``swift sft``, ``swift pt`` and ``swift rlhf``."""

from __future__ import annotations

import math

from lora_advise.data_keys import keys_of, version_of
from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.dialect_hf import (
    BNB_DEFAULTS,
    PEFT_DEFAULTS,
    RENAMED_ARGUMENTS,
    TRAINING_DEFAULTS,
    TRAINING_LENSES,
    TRAINING_STEPS,
    model_step,
)
from lora_advise.document import Config
from lora_advise.launchers import put_sharding
from lora_advise.lenses_swift import (
    LORA_DEFAULTS,
    QUANT_DEFAULTS,
    SHARED,
    idle,
    method,
    put_adapter,
    put_held_out,
    put_idle,
    put_length,
    put_loss,
    put_precision,
    put_quantisation,
    put_saved,
    put_targets,
    put_task,
    subcommand,
)
from lora_advise.renamed_swift import RENAMED
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact

_OWN: tuple[Lens, ...] = (
    *SHARED,
    Lens("lora.use_dora", "use_dora", "flag"),
    Lens("lora.target_parameters", "target_parameters", "names"),
    Lens("lora.loraplus_lr_ratio", "lorap_lr_ratio", "number", ("lora_lr_ratio",)),
    Lens("init_weights", "init_weights", "any", ("init_lora_weights",)),
    Lens("tuner_backend", "tuner_backend", "word"),
    Lens("use_swift_lora", "use_swift_lora", "flag"),
    Lens("train.per_device_train_batch_size", "per_device_train_batch_size", "count", ("batch_size",)),
    Lens("train.per_device_eval_batch_size", "per_device_eval_batch_size", "count", ("eval_batch_size",)),
    Lens("train.early_stopping_patience", "early_stop_interval", "count"),
    Lens("train.use_liger_kernel", "use_liger_kernel", "flag", ("use_liger",)),
    Lens("train.neftune_noise_alpha", "neftune_noise_alpha", "number", ("neftune_alpha",)),
    Lens("eval_dataset", "eval_dataset"),
    Lens("attn_implementation", "attn_impl", "word"),
    Lens("optimizer", "optimizer", "word"),
    Lens("use_galore", "use_galore", "flag"),
    Lens("vit_lr", "vit_lr", "number"),
    Lens("aligner_lr", "aligner_lr", "number"),
    Lens("max_epochs", "max_epochs", "count"),
    Lens("sequence_parallel_size", "sequence_parallel_size", "count"),
    Lens("device_map", "device_map"),
    Lens("gradient_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    Lens("steps_per_generation", "steps_per_generation", "count"),
    Lens("simpo_gamma", "simpo_gamma", "number"),
    Lens("label_smoothing", "label_smoothing", "number"),
    Lens("save_only_model", "save_only_model", "flag", ("only_save_model",)),
    Lens("hub_token", "hub_token", "word"),
    Lens("push_to_hub", "push_to_hub", "flag"),
    Lens("nproc", "ENV.NPROC_PER_NODE", "count"),
    Lens("nnodes", "ENV.NNODES", "count"),
)
_TAKEN = {lens.name for lens in _OWN}
LENSES = (*_OWN, *(lens for lens in TRAINING_LENSES if lens.name not in _TAKEN))
_PRESETS = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_FLASH = {"flash_attn": "flash_attention_2", "flash_attention_2": "flash_attention_2", "sdpa": "sdpa", "eager": "eager"}


def _adapter(sheet: Sheet) -> None:
    """LoRA without a word; the learning rate hangs on it."""
    kind = str(sheet.value("adapter", "lora")).lower()
    put_adapter(sheet, kind)
    if not sheet.has("train.learning_rate"):
        rate, whom = (1e-5, "full tuning") if kind == "full" else (1e-4, "tuners")
        sheet.put("train.learning_rate", rate, said=f"ms-swift's default for {whom}")


def _start(sheet: Sheet) -> None:
    if "lora.init_lora_weights" in sheet.unknown or not sheet.has("init_weights"):
        return
    word = str(sheet.value("init_weights"))
    sheet.put("lora.init_lora_weights", {"true": True, "false": False}.get(word.lower(), word), "init_weights")


def _processes(sheet: Sheet) -> None:
    """Of a command its launcher says; a file may say in its ``ENV``, which is set before ms-swift starts."""
    put_sharding(sheet)
    preset = str(sheet.value("deepspeed", ""))
    if preset in _PRESETS:
        sheet.put("stack.cpu_offload", preset.endswith("offload"), "deepspeed")
    if not sheet.has("nproc"):
        return
    sheet.facts["processes"] = sheet.value("nproc") * sheet.value("nnodes", 1)
    if sheet.facts["processes"] > 1 and "stack.sharding" not in sheet.facts:
        sheet.put("stack.sharding", "ddp", "nproc", "nnodes")


def _accumulation(sheet: Sheet) -> None:
    """As many steps as make 16 sequences of all processes together, where nobody says; for GRPO one."""
    if sheet.value("sequence_parallel_size", 1) > 1:
        sheet.facts.pop("train.gradient_accumulation_steps", None)
        raise UnknownFact("train.gradient_accumulation_steps")
    if sheet.has("train.gradient_accumulation_steps"):
        return
    if method(sheet) == "grpo":
        sheet.put("train.gradient_accumulation_steps", 1, said="ms-swift's default for GRPO")
        return
    processes = sheet.facts.get("processes")
    if processes is None or "train.per_device_train_batch_size" in sheet.unknown:
        raise UnknownFact("train.gradient_accumulation_steps")
    micro = sheet.facts.get("train.per_device_train_batch_size", 1)
    steps = max(1, math.ceil(16 / max(1, micro) / processes))
    sheet.put("train.gradient_accumulation_steps", steps, said="ms-swift's default, 16 sequences in a batch")


def _evaluation(sheet: Sheet) -> None:
    """Evaluation goes with saving, and only where there is a validation set."""
    held = put_held_out(sheet)
    saving = sheet.facts.get("train.save_strategy", "steps")
    if not held and not sheet.has("eval_dataset"):
        sheet.put("train.eval_strategy", "no", "eval_share", "test_datasets", said="ms-swift, without a validation set")
        return
    if not sheet.has("eval_strategy"):
        sheet.put("train.eval_strategy", saving, "train.save_strategy", said="as the saving")
    if sheet.facts.get("train.eval_strategy") == "no":
        sheet.put("train.eval_share", 0.0, "eval_strategy")
    elif not sheet.has("train.eval_steps") and "train.save_steps" not in sheet.unknown:
        sheet.put("train.eval_steps", sheet.facts.get("train.save_steps", 500), "save_steps", said="as the saving")


def _attention(sheet: Sheet) -> None:
    stated = sheet.value("attn_implementation")
    if stated is None:
        return
    kind = _FLASH.get(str(stated).lower())
    if kind is None:
        raise UnknownFact("train.attn_implementation")
    sheet.put("train.attn_implementation", kind, "attn_implementation")


def _optimizer(sheet: Sheet) -> None:
    """A plugin's optimizer takes the place of ``optim``."""
    plugin = sheet.value("optimizer")
    if (plugin is not None and plugin not in ("default", "lorap", "multimodal")) or sheet.flag("use_galore"):
        sheet.facts.pop("train.optim", None)
        raise UnknownFact("train.optim")


def _epochs(sheet: Sheet) -> None:
    if sheet.has("max_epochs"):
        sheet.put("train.num_train_epochs", float(sheet.value("max_epochs")), "max_epochs")


def _metric(sheet: Sheet) -> None:
    if not sheet.has("train.metric_for_best_model"):
        sheet.put("train.metric_for_best_model", "reward" if method(sheet) == "grpo" else "loss")


_KEYS = {
    "tuner_type", "train_type", "sft_type", "split_dataset_ratio", "quant_bits", "quant_method", "attn_impl", "model_author",
    "model_name", "rlhf_type", "loss_scale", "freeze_vit", "freeze_aligner", "freeze_llm", "torch_dtype", "dataset_num_proc",
    "load_from_cache_file", "lorap_lr_ratio", "init_weights", "truncation_strategy", "custom_dataset_info", "val_dataset",
    "external_plugins", "use_chat_template", "target_regex", "lazy_tokenize", "tuner_backend",
}  # fmt: skip
_SURE = {"tuner_type", "train_type", "sft_type", "rlhf_type", "quant_bits", "split_dataset_ratio", "model_author"}
_MEGATRON = {
    "micro_batch_size", "global_batch_size", "tensor_model_parallel_size", "recompute_granularity", "lr_warmup_fraction",
}  # fmt: skip
_FOREIGN = {"base_model", "finetuning_type", "peft_type", "_component_", "model_name_or_path", "args"}


def _recognise(config: Config) -> int:
    """``swift`` with a command that trains, or a file of its arguments; ``megatron`` is another dialect."""
    keys = {str(entry.path[0]) for entry in config.entries}
    if config.shape == "calls" or keys & _FOREIGN or len(keys & _MEGATRON) > 1:
        return 0
    words = "/".join(config.program).replace("\\", "/").replace(".", "/").split("/")
    named = "swift" in words or "llm_sft" in words
    if config.shape == "command":
        if not named or {"megatron", "_megatron"} & set(words):
            return 0
        return 5 + len(keys & _KEYS) if subcommand(config) else 0
    if not keys & {"dataset", "cached_dataset"} or not keys & {"model", "model_id_or_path", "model_type", "adapters"}:
        return 0
    own = len(keys & _KEYS)
    return own + 1 if keys & _SURE else 0


SWIFT = Dialect(
    name="ms-swift", title="ms-swift", framework="ms-swift", lenses=LENSES,
    steps=(
        model_step("model"), Step(("task", "train.beta", "train.num_generations", "train.max_completion_length"), put_task),
        Step(("lora", "train.learning_rate"), _adapter), Step(("lora.target_modules", "lora.exclude_modules"), put_targets),
        Step(("lora.modules_to_save",), put_saved), Step(("lora.init_lora_weights",), _start),
        Step(("train.dtype",), put_precision),
        Step(("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_compute_dtype"), put_quantisation),
        Step(("train.packing", "train.max_length"), put_length), *TRAINING_STEPS,
        Step(("train.eval_strategy", "train.eval_share", "train.eval_steps"), _evaluation),
        Step(("train.attn_implementation",), _attention), Step(("train.optim",), _optimizer),
        Step(("train.num_train_epochs",), _epochs), Step(("train.metric_for_best_model",), _metric),
        Step(("train.loss_on",), put_loss), Step(("stack.sharding", "stack.cpu_offload"), _processes),
        Step(("train.gradient_accumulation_steps",), _accumulation), Step((), put_idle),
    ),
    defaults={
        **{k: v for k, v in TRAINING_DEFAULTS.items() if k != "train.gradient_accumulation_steps"}, **PEFT_DEFAULTS,
        **BNB_DEFAULTS, **LORA_DEFAULTS, **QUANT_DEFAULTS,
        "train.weight_decay": 0.1, "train.adam_beta2": 0.95, "train.lr_scheduler_type": "cosine", "train.logging_steps": 5,
        "train.per_device_train_batch_size": 1, "train.per_device_eval_batch_size": 1, "train.activation_checkpointing": True,
        "stack.sharding": "none",
    },
    known=keys_of("ms-swift") | {"ENV"}, recognise=_recognise,
    renamed=(*RENAMED, *(r for r in RENAMED_ARGUMENTS if r.old not in keys_of("ms-swift"))),
    strict=True, written="command", newest=f"ms-swift {version_of('ms-swift')}",
)  # fmt: skip


def _recognise_tool(config: Config) -> int:
    """``swift export``, ``infer``, ``deploy`` and their like."""
    words = "/".join(config.program).replace("\\", "/").replace(".", "/").split("/")
    return 3 if config.shape == "command" and "swift" in words and idle(config) else 0


SWIFT_TOOLS = SWIFT._replace(
    name="swift-tools", lenses=tuple(lens._replace(choices=()) for lens in LENSES), known=frozenset(), renamed=(), strict=False,
    recognise=_recognise_tool,
)  # fmt: skip
"""Commands that use what was trained; their own keys are not written down."""
