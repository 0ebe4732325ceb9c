"""Megatron-SWIFT, the part of ms-swift on top of Megatron-Core (checked against 4.6): ``megatron sft``, ``pt`` and ``rlhf``."""

from __future__ import annotations

from typing import Any

from lora_advise.data_keys import keys_of, version_of
from lora_advise.dialect import Dialect, Lens, Renamed, Step
from lora_advise.dialect_hf import BNB_DEFAULTS, PEFT_DEFAULTS, model_step
from lora_advise.document import Config
from lora_advise.lenses_swift import (
    LORA_DEFAULTS,
    QUANT_DEFAULTS,
    SHARED,
    listed,
    method,
    put_adapter,
    put_held_out,
    put_length,
    put_loss,
    put_precision,
    put_quantisation,
    put_saved,
    put_task,
    subcommand,
)
from lora_advise.renamed_swift import RENAMED
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact

_OWN: tuple[Lens, ...] = (
    *SHARED,
    Lens("mcore_adapter", "mcore_adapter", "word", ("adapter_load",)),
    Lens("train.learning_rate", "lr", "number"),
    Lens("train.lr_scheduler_type", "lr_decay_style", "word"),
    Lens("min_lr", "min_lr", "number"),
    Lens("warmup_steps", "lr_warmup_iters", "number"),
    Lens("warmup_ratio", "lr_warmup_fraction", "number"),
    Lens("optimizer", "optimizer", "word"),
    Lens("train.max_grad_norm", "clip_grad", "number"),
    Lens("train.per_device_train_batch_size", "micro_batch_size", "count"),
    Lens("global_batch", "global_batch_size", "count"),
    Lens("train.num_train_epochs", "num_train_epochs", "number", ("max_epochs",)),
    Lens("train.max_steps", "train_iters", "count"),
    Lens("recompute_granularity", "recompute_granularity", "word"),
    Lens("attention_backend", "attention_backend", "word"),
    Lens("save_steps", "save_steps", "number", ("save_interval",)),
    Lens("train.save_strategy", "save_strategy", "word"),
    Lens("train.eval_steps", "eval_steps", "number", ("eval_interval",)),
    Lens("train.logging_steps", "logging_steps", "number", ("log_interval",)),
    Lens("tensor_model_parallel_size", "tensor_model_parallel_size", "count"),
    Lens("pipeline_model_parallel_size", "pipeline_model_parallel_size", "count"),
    Lens("expert_model_parallel_size", "expert_model_parallel_size", "count"),
    Lens("context_parallel_size", "context_parallel_size", "count"),
    Lens("no_save_optim", "no_save_optim", "flag"),
)


def _grouped(lens: Lens) -> Lens:
    """A file for Ray has the trainer's own settings in a group called ``train``."""
    return lens._replace(former=(*lens.former, *(f"train.{key}" for key in (lens.key, *lens.former))))


LENSES = tuple(map(_grouped, _OWN))


def _adapter(sheet: Sheet) -> None:
    """Full tuning without a word, unless an adapter is trained on; the learning rate hangs on it."""
    goes_on = sheet.has("adapter_path") or sheet.has("mcore_adapter")
    kind = str(sheet.value("adapter", "lora" if goes_on else "full")).lower()
    put_adapter(sheet, kind)
    if not sheet.has("train.learning_rate"):
        sheet.put("train.learning_rate", 1e-5 if kind == "full" else 1e-4)


def _targets(sheet: Sheet) -> None:
    """Every linear layer of a dense language model is the same by any name; Megatron's own names are not transformers'."""
    if "lora.target_modules" in sheet.unknown:
        return
    plain = sheet.model is not None and not (sheet.model.num_experts or sheet.model.has_vision or sheet.model.has_audio)
    names = listed(sheet.value("target_modules", ("all-linear",)))
    if sheet.has("target_regex") or not plain or names != ("all-linear",):
        raise UnknownFact("lora.target_modules")
    sheet.put("lora.target_modules", "all-linear", "target_modules")


def _batch(sheet: Sheet) -> None:
    """``global_batch_size`` is the batch of a step whatever the devices are; it counts as accumulation on one of them."""
    micro, whole = sheet.value("train.per_device_train_batch_size", 1), sheet.value("global_batch", 16)
    if micro < 1 or whole % micro:
        raise UnknownFact("train.gradient_accumulation_steps")
    sheet.put("train.gradient_accumulation_steps", whole // micro, "global_batch", said="Megatron-SWIFT, a batch of 16")
    sheet.put("train.per_device_eval_batch_size", micro, "train.per_device_train_batch_size", said="as the micro-batch")


def _warmup(sheet: Sheet) -> None:
    share = sheet.value("warmup_ratio")
    if share is not None:
        sheet.facts["warmup_share"] = share
        sheet.places["train.warmup_steps"] = tuple(e for e in (sheet.entry("warmup_ratio"),) if e)
        raise UnknownFact("train.warmup_steps")
    sheet.put("train.warmup_steps", int(sheet.value("warmup_steps", 0)), "warmup_steps")


def _evaluation(sheet: Sheet) -> None:
    if not put_held_out(sheet):
        sheet.put("train.eval_strategy", "no", "eval_share", "test_datasets", said="without a validation set")
        return
    sheet.put("train.eval_strategy", sheet.value("train.save_strategy", "steps"), "train.save_strategy")
    if not sheet.has("train.eval_steps"):
        sheet.put("train.eval_steps", sheet.facts.get("train.save_steps", 500), "save_steps", said="as the saving")


def _saving(sheet: Sheet) -> None:
    sheet.put("train.save_steps", int(sheet.value("save_steps", 500)), "save_steps")


def _optimizer(sheet: Sheet) -> None:
    """Megatron's ``adam`` decouples weight decay."""
    if sheet.value("optimizer", "adam") != "adam":
        raise UnknownFact("train.optim")
    sheet.put("train.optim", "adamw_torch_fused", "optimizer")


def _metric(sheet: Sheet) -> None:
    if not sheet.has("train.metric_for_best_model"):
        sheet.put("train.metric_for_best_model", "reward" if method(sheet) == "grpo" else "loss")


_KEYS = {
    "micro_batch_size", "global_batch_size", "lr", "lr_warmup_fraction", "lr_warmup_iters", "recompute_granularity",
    "recompute_method", "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size", "no_save_optim",
    "no_save_rng", "cross_entropy_loss_fusion", "attention_backend", "moe_grouped_gemm", "moe_permute_fusion", "train_iters",
    "sequence_parallel", "min_lr", "finetune", "mcore_model", "mcore_adapter",
}  # fmt: skip
_SWIFT = {"tuner_type", "train_type", "rlhf_type", "target_modules", "split_dataset_ratio", "lora_rank", "loss_scale"}


def _recognise(config: Config) -> int:
    """``megatron`` with a command that trains, or a file of such arguments."""
    keys = {str(entry.path[0]) for entry in config.entries}
    keys |= {str(entry.path[1]) for entry in config.entries if len(entry.path) == 2 and entry.path[0] == "train"}
    if config.shape == "calls" or "base_model" in keys:
        return 0
    own = len(keys & _KEYS)
    words = "/".join(config.program).replace("\\", "/").replace(".", "/").split("/")
    if config.shape == "command":
        named = "megatron" in words or ("swift" in words and "_megatron" in words)
        return 5 + own if named and subcommand(config) and keys & {"dataset", "cached_dataset"} else 0
    return own + 1 if own > 2 and keys & _SWIFT and keys & {"dataset", "cached_dataset"} else 0


_DEFAULTS: dict[str, Any] = {
    "train.lr_scheduler_type": "cosine", "train.lr_scheduler_kwargs": {}, "train.weight_decay": 0.1, "train.adam_beta1": 0.9,
    "train.adam_beta2": 0.95, "train.max_grad_norm": 1.0, "train.per_device_train_batch_size": 1, "train.max_steps": None,
    "train.use_liger_kernel": False, "train.neftune_noise_alpha": None, "train.save_strategy": "steps",
    "train.save_total_limit": None, "train.load_best_model_at_end": False, "train.early_stopping_patience": None,
    "train.logging_steps": 5, "train.seed": 42, "train.embedding_learning_rate": None, "train.beta": None,
    "train.num_generations": None, "train.max_completion_length": None, "train.eval_steps": None, "stack.sharding": "none",
}  # fmt: skip
_SINCE_4 = tuple(
    Renamed(old, new, "ms-swift", "4.0", "error", "swift-history")
    for old, new in (
        ("max_epochs", "num_train_epochs"), ("save", "output_dir"), ("save_interval", "save_steps"),
        ("eval_interval", "eval_steps"), ("log_interval", "logging_steps"), ("num_workers", "dataloader_num_workers"),
        ("load", "mcore_model"), ("adapter_load", "mcore_adapter"), ("ref_load", "mcore_ref_model"),
        ("ref_adapter_load", "mcore_ref_adapter"), ("load_safetensors", None), ("no_initialization", "perform_initialization"),
        ("distributed_timeout_minutes", "ddp_timeout"), ("distributed_backend", "ddp_backend"), ("use_flash_attn", None),
        ("no_gradient_accumulation_fusion", "gradient_accumulation_fusion"), ("no_rope_fusion", "apply_rope_fusion"),
        ("no_masked_softmax_fusion", "masked_softmax_fusion"), ("seq_length", "max_length"),
        ("tensorboard_log_interval", None), ("log_throughput", None),
    )
)  # fmt: skip
_SWITCHED = {"no_initialization", "no_gradient_accumulation_fusion", "no_rope_fusion", "no_masked_softmax_fusion"}

MEGATRON = Dialect(
    name="megatron-swift", title="Megatron-SWIFT", framework="megatron-swift", lenses=LENSES,
    steps=(
        model_step("model"), Step(("task", "train.beta", "train.num_generations", "train.max_completion_length"), put_task),
        Step(("lora", "train.learning_rate"), _adapter), Step(("lora.target_modules",), _targets),
        Step(("lora.modules_to_save",), put_saved), Step(("train.dtype",), put_precision),
        Step(("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_compute_dtype"), put_quantisation),
        Step(("train.packing", "train.max_length"), put_length),
        Step(("train.gradient_accumulation_steps", "train.per_device_eval_batch_size"), _batch),
        Step(("train.warmup_steps",), _warmup), Step(("train.save_steps",), _saving),
        Step(("train.eval_strategy", "train.eval_share", "train.eval_steps"), _evaluation), Step(("train.optim",), _optimizer),
        Step(("train.metric_for_best_model",), _metric), Step(("train.loss_on",), put_loss),
    ),
    defaults={**_DEFAULTS, **PEFT_DEFAULTS, **BNB_DEFAULTS, **LORA_DEFAULTS, **QUANT_DEFAULTS},
    known=keys_of("megatron-swift") | {"train", "rollout", "teacher", "colocate_groups", "nnodes", "ENV"},
    recognise=_recognise,
    renamed=(
        *(r for r in RENAMED if r.old not in keys_of("megatron-swift")),
        *(r._replace(note="Its value turns round.") if r.old in _SWITCHED else r for r in _SINCE_4),
    ),
    strict=True, written="command", newest=f"ms-swift {version_of('megatron-swift')}",
)  # fmt: skip
