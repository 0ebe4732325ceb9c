"""Axolotl's YAML (checked against 0.19): one file of flat keys, most of which its own schema fills or rewrites."""

from __future__ import annotations

from typing import Any

from lora_advise.data_keys import keys_of, version_of
from lora_advise.dialect import Dialect, Lens, Renamed, Step
from lora_advise.dialect_hf import (
    BNB_DEFAULTS,
    OPTIMISERS,
    PEFT_DEFAULTS,
    TRAINING_DEFAULTS,
    TRAINING_LENSES,
    TRAINING_STEPS,
    model_step,
    put_all,
    task_of,
)
from lora_advise.document import Config
from lora_advise.facts import TaskFacts
from lora_advise.sheet import Sheet
from lora_advise.targets_as import every_linear_but_experts

_OWN_OPTIMISERS = "optimi_adamw ao_adamw_4bit ao_adamw_8bit ao_adamw_fp8 adopt_adamw adamc came_pytorch muon dion sinkgd polora flash_adamw flash_adam flash_sgd flash_sgdw flash_lion q_galore_adamw8bit"
_OWN: tuple[Lens, ...] = (
    Lens("model", "base_model", "word"),
    Lens("adapter", "adapter", "word"),
    Lens("lora.r", "lora_r", "count"),
    Lens("lora.lora_alpha", "lora_alpha", "number"),
    Lens("lora.lora_dropout", "lora_dropout", "number"),
    Lens("target_modules", "lora_target_modules"),
    Lens("target_linear", "lora_target_linear", "flag"),
    Lens("lora.target_parameters", "lora_target_parameters", "names"),
    Lens("lora.exclude_modules", "lora_exclude_modules", "names"),
    Lens("lora.modules_to_save", "lora_modules_to_save", "names"),
    Lens("lora.layers_to_transform", "peft_layers_to_transform"),
    Lens("lora.trainable_token_indices", "peft_trainable_token_indices"),
    Lens("lora.ensure_weight_tying", "peft_ensure_weight_tying", "flag"),
    Lens("lora.use_rslora", "peft_use_rslora", "flag"),
    Lens("lora.use_dora", "peft_use_dora", "flag"),
    Lens("lora.init_lora_weights", "peft_init_lora_weights"),
    Lens("lora.loraplus_lr_ratio", "loraplus_lr_ratio", "number"),
    Lens("load_in_4bit", "load_in_4bit", "flag"),
    Lens("load_in_8bit", "load_in_8bit", "flag"),
    Lens("quant.bnb_4bit_quant_type", "bnb_config_kwargs.bnb_4bit_quant_type", "word"),
    Lens("quant.bnb_4bit_use_double_quant", "bnb_config_kwargs.bnb_4bit_use_double_quant", "flag"),
    Lens("train.lr_scheduler_type", "lr_scheduler", "word"),
    Lens("train.optim", "optimizer", "word", choices=(*OPTIMISERS, *_OWN_OPTIMISERS.split())),
    Lens("train.per_device_train_batch_size", "micro_batch_size", "count"),
    Lens("train.per_device_eval_batch_size", "eval_batch_size", "count"),
    Lens("global_batch", "batch_size", "count"),
    Lens("train.num_train_epochs", "num_epochs", "number"),
    Lens("train.max_length", "sequence_len", "count"),
    Lens("train.packing", "sample_packing", "flag"),
    Lens("train.embedding_learning_rate", "embedding_lr", "number"),
    Lens("gradient_checkpointing", "gradient_checkpointing", "any", ("activation_checkpointing",)),
    Lens("train.early_stopping_patience", "early_stopping_patience", "count"),
    Lens("bfloat16", "bfloat16", "flag"),
    Lens("float16", "float16", "flag"),
    Lens("train_on_inputs", "train_on_inputs", "flag"),
    Lens("rl", "rl", "word", choices=("dpo", "gdpo", "grpo", "ipo", "orpo", "kto", "simpo", "ebft")),
    Lens("train.beta", "rl_beta", "number", ("dpo_beta", "orpo_alpha", "trl.beta")),
    Lens("train.num_generations", "trl.num_generations", "count"),
    Lens("train.max_completion_length", "trl.max_completion_length", "count"),
    Lens("eval_share", "val_set_size", "number"),
    Lens("test_datasets", "test_datasets"),
    Lens("evals_per_epoch", "evals_per_epoch", "number"),
    Lens("saves_per_epoch", "saves_per_epoch", "number"),
    Lens("attn_implementation", "attn_implementation", "word"),
    Lens("flash_attention", "flash_attention"),
    Lens("sdp_attention", "sdp_attention"),
    Lens("eager_attention", "eager_attention"),
    Lens("xformers_attention", "xformers_attention"),
    Lens("datasets", "datasets"),
    Lens("chat_template", "chat_template", "any"),
    Lens("fsdp_version", "fsdp_version", "count"),
    Lens("inference", "inference", "flag"),
    Lens("trust_remote_code", "trust_remote_code", "flag"),
)
_TAKEN = {lens.name for lens in _OWN} | {"train.activation_checkpointing", "lr_scheduler_kwargs"}
LENSES = (*_OWN, *(lens for lens in TRAINING_LENSES if lens.name not in _TAKEN))
_ATTENTIONS = (("flash_attention", "flash_attention_2"), ("sdp_attention", "sdpa"), ("eager_attention", "eager"))
_RAW = ("completion", "raw", "pretrain")


def _adapter(sheet: Sheet) -> None:
    """``lora_*`` keys count only beside ``adapter``; qlora is 4-bit NF4 with double quantisation and bf16 storage."""
    adapter = str(sheet.value("adapter", "")).lower()
    if adapter in ("lora", "qlora"):
        sheet.present.add("lora")
        sheet.put("lora.task_type", "CAUSAL_LM")
    sheet.present.add("quant")
    sheet.put("quant.load_in_4bit", sheet.flag("load_in_4bit"), "load_in_4bit")
    sheet.put("quant.load_in_8bit", sheet.flag("load_in_8bit"), "load_in_8bit")
    put_all(
        sheet,
        {
            "quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": True,
            "quant.bnb_4bit_quant_storage": "bfloat16",
        },
        "fixed by Axolotl",
    )  # fmt: skip


def _targets(sheet: Sheet) -> None:
    modules, linear = sheet.value("target_modules"), sheet.flag("target_linear")
    if linear:
        sheet.put("lora.target_modules", every_linear_but_experts(sheet.model), "target_linear", "target_modules")
    elif isinstance(modules, tuple):
        sheet.put("lora.target_modules", tuple(map(str, modules)), "target_modules")
    elif isinstance(modules, str):
        sheet.put("lora.target_modules", modules, "target_modules")
    else:
        sheet.unknown.add("lora.target_modules")
        if not sheet.has("lora.target_parameters") and not sheet.has("lora_model_dir"):
            sheet.put("targets_unset", True)


def _precision(sheet: Sheet) -> None:
    """``bf16: auto``, which is also the default, is bfloat16 where the card has it."""
    for name, dtype in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")):
        if str(sheet.value(name)).lower() in ("true", "auto", "full"):
            sheet.put("train.dtype", dtype, name)
            break
    else:
        off = [name for name in ("bf16", "fp16") if sheet.has(name)]
        sheet.put("train.dtype", "float32" if "bf16" in off else "bfloat16", *off)
    sheet.put("quant.bnb_4bit_compute_dtype", sheet.facts["train.dtype"], said="the run's own precision")


def _warmup(sheet: Sheet) -> None:
    """Without a word Axolotl warms up for 3 % of the steps, 100 at most."""
    if not sheet.has("warmup_steps") and not sheet.has("warmup_ratio"):
        sheet.unknown.add("train.warmup_steps")
        sheet.facts |= {"warmup_share": 0.03, "warmup_most": 100}


def _batch(sheet: Sheet) -> None:
    micro = sheet.facts.get("train.per_device_train_batch_size")
    steps = sheet.facts.get("train.gradient_accumulation_steps")
    whole = sheet.value("global_batch")
    if whole and micro and steps is None:
        sheet.put("train.gradient_accumulation_steps", max(1, whole // micro), "global_batch")
    elif whole and steps and micro is None:
        sheet.put("train.per_device_train_batch_size", max(1, whole // steps), "global_batch")
    if "train.per_device_eval_batch_size" not in sheet.facts and "train.per_device_train_batch_size" in sheet.facts:
        size = sheet.facts["train.per_device_train_batch_size"]
        sheet.put("train.per_device_eval_batch_size", size, said="as the micro-batch")


def _checkpointing(sheet: Sheet) -> None:
    value = sheet.value("gradient_checkpointing")
    on = value is True or str(value).lower() in ("true", "offload", "unsloth", "offload_disk")
    sheet.put("train.activation_checkpointing", on, "gradient_checkpointing")


def _evaluation(sheet: Sheet) -> None:
    share, tests = sheet.value("eval_share", 0), sheet.entry("test_datasets")
    if not share and (tests is None or not tests.value):
        sheet.put("train.eval_strategy", "no", "eval_share")
    elif sheet.has("eval_strategy"):
        pass
    elif sheet.value("evals_per_epoch"):
        often = sheet.value("evals_per_epoch") == 1
        sheet.put("train.eval_strategy", "epoch" if often else "steps", "evals_per_epoch")
        if not often:
            sheet.unknown.add("train.eval_steps")
    elif sheet.has("train.eval_steps"):
        sheet.put("train.eval_strategy", "steps", "train.eval_steps")
    else:
        sheet.put("train.eval_strategy", "epoch")
    if share and share >= 1:
        sheet.unknown.add("train.eval_share")
    else:
        sheet.put("train.eval_share", float(share), "eval_share")


def _saving(sheet: Sheet) -> None:
    often = sheet.value("saves_per_epoch")
    if often and often > 0:
        sheet.put("train.save_strategy", "epoch" if often == 1 else "steps", "saves_per_epoch")
        if often != 1:
            sheet.unknown.add("train.save_steps")
    elif not sheet.has("train.save_strategy"):
        if sheet.has("save_steps"):
            sheet.put("train.save_strategy", "steps", "save_steps")
        else:
            sheet.put("train.save_strategy", "epoch")


def _best(sheet: Sheet) -> None:
    """Early stopping makes Axolotl load the best checkpoint, which the Trainer then chooses by the loss."""
    patience = sheet.value("train.early_stopping_patience")
    best = sheet.value("train.load_best_model_at_end")
    if best is True or (patience and best is None):
        sheet.put("train.load_best_model_at_end", True, "train.load_best_model_at_end")
        if not sheet.has("train.metric_for_best_model"):
            sheet.put("train.metric_for_best_model", "loss", said="the Trainer's default for the best checkpoint")


def _attention(sheet: Sheet) -> None:
    stated = str(sheet.value("attn_implementation", "")).lower()
    named = next((name for name, _ in _ATTENTIONS if sheet.value(name) is True), None)
    kind = ({kind: kind for _, kind in _ATTENTIONS} if stated else dict(_ATTENTIONS)).get(stated or str(named))
    if kind is not None:
        sheet.put("train.attn_implementation", kind, "attn_implementation" if stated else str(named))
    elif stated or sheet.value("xformers_attention") is True:
        sheet.unknown.add("train.attn_implementation")


def _fused_loss(sheet: Sheet) -> None:
    """By plugins: cut cross-entropy never holds the logits, nor does Liger's fused loss."""
    plugins = str(sheet.value("plugins", ""))
    if ("Liger" in plugins and sheet.flag("liger_fused_linear_cross_entropy")) or (
        "CutCrossEntropy" in plugins and sheet.flag("cut_cross_entropy", default=True)
    ):
        sheet.put("train.use_liger_kernel", True, "plugins")


def _sets(sheet: Sheet) -> tuple[dict[str, Any], ...]:
    found = sheet.value("datasets")
    return tuple(item for item in found if isinstance(item, dict)) if isinstance(found, tuple) else ()


def _task(sheet: Sheet) -> None:
    kind = sheet.value("rl")
    kinds = [str(item.get("type", "")).lower() for item in _sets(sheet)]
    if kind:
        sheet.task = task_of(kind)
    elif sheet.has("pretraining_dataset") or (kinds and all(k in _RAW for k in kinds)):
        sheet.task = TaskFacts(name="continued-pretraining", family="pretraining")
    elif sheet.value("reward_model") is True or sheet.value("process_reward_model") is True:
        sheet.task = task_of("reward")
    else:
        sheet.task = TaskFacts(name="chat", family="sft")


def _loss(sheet: Sheet) -> None:
    kinds = [str(item.get("type", "")).lower() for item in _sets(sheet)]
    if sheet.flag("train_on_inputs"):
        sheet.put("train.loss_on", "all", "train_on_inputs")
    elif kinds and all(k in _RAW for k in kinds):
        sheet.put("train.loss_on", "all", "datasets", said="the data set's type")
    else:
        turns = any(k in ("chat_template", "sharegpt") for k in kinds)
        sheet.put("train.loss_on", "assistant" if turns else "completion", "train_on_inputs")


def _sharding(sheet: Sheet) -> None:
    deepspeed = str(sheet.value("deepspeed", "")).lower()
    if deepspeed:
        stage = next((f"zero{n}" for n in "32" if f"zero{n}" in deepspeed or f"zero_{n}" in deepspeed), None)
        if stage is None:
            sheet.unknown.add("stack.sharding")
        else:
            sheet.put("stack.sharding", stage, "deepspeed")
    elif sheet.has("fsdp") or sheet.has("fsdp_config") or sheet.has("fsdp_version"):
        sheet.put("stack.sharding", "fsdp", "fsdp", "fsdp_config", "fsdp_version")


_KEYS = {
    "base_model", "sequence_len", "micro_batch_size", "sample_packing", "lora_target_linear", "val_set_size", "num_epochs",
    "datasets", "dataset_prepared_path", "pad_to_sequence_len", "train_on_inputs", "adapter", "lora_r", "special_tokens",
}  # fmt: skip
_PARTS = {"load_in_4bit", "load_in_8bit", "s2_attention", "flash_attention", "evals_per_epoch", "saves_per_epoch"}
_FOREIGN = {"peft_type", "_component_", "tuner_type", "finetuning_type"}


def _recognise(config: Config) -> int:
    """Keys of its own, two at least; in a part of a file, without ``base_model``, an ``adapter`` beside others."""
    keys = {str(entry.path[0]) for entry in config.entries if len(entry.path) == 1}
    if config.shape != "mapping" or keys & _FOREIGN or not keys & {"base_model", "adapter"}:
        return 0
    found = len(keys & _KEYS) + (len(keys & _PARTS) if "base_model" not in keys else 0)
    return found if found > 1 else 0


AXOLOTL = Dialect(
    name="axolotl", title="Axolotl", framework="axolotl", lenses=LENSES,
    steps=(
        model_step("model"), Step(("lora", "quant.load_in_4bit", "quant.load_in_8bit"), _adapter), Step(("lora.target_modules",), _targets),
        Step(("train.dtype", "quant.bnb_4bit_compute_dtype"), _precision), *TRAINING_STEPS, Step(("train.warmup_steps",), _warmup),
        Step(("train.per_device_train_batch_size", "train.gradient_accumulation_steps"), _batch), Step(("train.activation_checkpointing",), _checkpointing),
        Step(("train.eval_strategy", "train.eval_share", "train.eval_steps"), _evaluation), Step(("train.save_strategy", "train.save_steps"), _saving),
        Step(("train.load_best_model_at_end",), _best), Step(("train.attn_implementation",), _attention), Step(("train.use_liger_kernel",), _fused_loss),
        Step(("task",), _task), Step(("train.loss_on",), _loss), Step(("stack.sharding",), _sharding),
    ),
    defaults={
        **{k: v for k, v in TRAINING_DEFAULTS.items() if k != "train.learning_rate"}, **PEFT_DEFAULTS, **BNB_DEFAULTS,
        "train.num_train_epochs": 1.0, "train.max_length": 512, "train.per_device_train_batch_size": 1,
        "train.per_device_eval_batch_size": 1, "train.lr_scheduler_type": "cosine", "stack.sharding": "none",
    },
    known=keys_of("axolotl"), recognise=_recognise, newest=f"axolotl {version_of('axolotl')}",
    renamed=(
        Renamed("evaluation_strategy", "eval_strategy", "axolotl", "0.5", "error", "axolotl-schema"),
        Renamed("noisy_embedding_alpha", "neftune_noise_alpha", "axolotl", "0.4", "deprecated", "axolotl-schema"),
    ),
)  # fmt: skip
