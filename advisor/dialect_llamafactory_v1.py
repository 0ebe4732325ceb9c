"""The files of LLaMA-Factory's second engine (``USE_V1=1``, checked against 0.9.5): settings nested by plugin, defaults of its own."""

from __future__ import annotations

from typing import Any

from lora_advise.data_keys import keys_of
from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.dialect_hf import BNB_DEFAULTS, PEFT_DEFAULTS, TRAINING_DEFAULTS, model_step, put_all, task_of
from lora_advise.document import Config
from lora_advise.launchers import put_launch, put_spread
from lora_advise.sheet import Sheet
from lora_advise.side_files import Sharded, deepspeed_of
from lora_advise.targets_as import every_linear_but_experts, every_linear_named
from lora_advise.tasks_named import task_words
from lora_advise.unknown import UnknownFact

LENSES: tuple[Lens, ...] = (
    Lens("model", "model", "word"),
    Lens("adapter", "peft_config.name", "word"),
    Lens("lora.r", "peft_config.r", "count"),
    Lens("lora.lora_alpha", "peft_config.lora_alpha", "number"),
    Lens("lora.lora_dropout", "peft_config.lora_dropout", "number"),
    Lens("target_modules", "peft_config.target_modules"),
    Lens("lora.modules_to_save", "peft_config.modules_to_save", "names"),
    Lens("lora.use_rslora", "peft_config.use_rslora", "flag"),
    Lens("lora.use_dora", "peft_config.use_dora", "flag"),
    Lens("adapter_path", "peft_config.adapter_name_or_path"),
    Lens("quantization_method", "quant_config.name", "word"),
    Lens("bits", "quant_config.quantization_bit", "count"),
    Lens("quant.bnb_4bit_quant_type", "quant_config.quantization_type", "word"),
    Lens("quant.bnb_4bit_use_double_quant", "quant_config.double_quantization", "flag"),
    Lens("compute_dtype", "quant_config.compute_dtype", "word"),
    Lens("train.learning_rate", "learning_rate", "number"),
    Lens("train.per_device_train_batch_size", "micro_batch_size", "count"),
    Lens("global_batch", "global_batch_size", "count"),
    Lens("train.num_train_epochs", "num_train_epochs", "number"),
    Lens("train.max_steps", "max_steps", "count"),
    Lens("train.max_length", "cutoff_len", "count"),
    Lens("train.max_grad_norm", "max_grad_norm", "number"),
    Lens("train.activation_checkpointing", "enable_activation_checkpointing", "flag"),
    Lens("train.logging_steps", "logging_steps", "count"),
    Lens("train.save_steps", "save_steps", "count"),
    Lens("save_epochs", "save_epochs", "number"),
    Lens("train.save_total_limit", "save_total_limit", "count"),
    Lens("train.seed", "seed", "count"),
    Lens("bf16", "bf16", "flag"),
    Lens("batching_strategy", "batching_strategy", "word"),
    Lens("flash_attn", "flash_attn", "word"),
    Lens("optim_config", "optim_config"),
    Lens("lr_scheduler_config", "lr_scheduler_config"),
    Lens("dist_config", "dist_config.name", "word"),
    Lens("deepspeed", "dist_config.config_file", "word"),
    Lens("datasets", "train_dataset"),
    Lens("test_datasets", "eval_dataset"),
    Lens("chat_template", "template", "word"),
    Lens("trust_remote_code", "trust_remote_code", "flag"),
)
_DEFAULTS: dict[str, Any] = {
    "train.learning_rate": 1e-4, "train.per_device_train_batch_size": 1, "train.num_train_epochs": 3.0, "train.max_length": 2048,
    "train.max_steps": None, "train.logging_steps": 1, "train.activation_checkpointing": True, "train.save_steps": None,
    "lora.lora_alpha": 16.0, "lora.lora_dropout": 0.05, "stack.sharding": "none",
}  # fmt: skip


def _adapter(sheet: Sheet) -> None:
    """An adapter that is trained on brings its own settings."""
    if sheet.value("adapter") != "lora":
        return
    sheet.present.add("lora")
    sheet.put("lora.task_type", "CAUSAL_LM")
    if sheet.has("adapter_path"):
        for name in ("r", "lora_alpha", "lora_dropout", "modules_to_save", "use_rslora", "use_dora"):
            sheet.facts.pop(f"lora.{name}", None)
            sheet.unknown.add(f"lora.{name}")
        raise UnknownFact("lora.target_modules")
    _targets(sheet)


def _targets(sheet: Sheet) -> None:
    """``all`` leaves out the head alone; another text is one name, commas included."""
    modules = sheet.value("target_modules", "all")
    if modules == "all":
        tower = sheet.model is not None and sheet.model.kind == "vlm"
        every = every_linear_named(sheet.model, ("embedding", "lm_head", "head")) if sheet.model and tower else None
        sheet.put("lora.target_modules", every or every_linear_but_experts(sheet.model), "target_modules")
    else:
        names = tuple(map(str, modules)) if isinstance(modules, tuple) else (str(modules),)
        sheet.put("lora.target_modules", names, "target_modules")


def _quantisation(sheet: Sheet) -> None:
    """4-bit computes in float16 unless ``compute_dtype`` says otherwise, and is stored in the same type."""
    sheet.present.add("quant")
    bits = sheet.value("bits")
    if sheet.has("quantization_method") and bits is None:
        raise UnknownFact("quant.load_in_4bit")
    sheet.put("quant.load_in_4bit", bits == 4, "bits")
    sheet.put("quant.load_in_8bit", bits == 8, "bits")
    put_all(
        sheet, {"quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": True}, "LLaMA-Factory's default"
    )
    dtype = str(sheet.value("compute_dtype", "float16")).rpartition(".")[2]
    for name in ("compute_dtype", "quant_storage"):
        sheet.put(f"quant.bnb_4bit_{name}", dtype, "compute_dtype")


def _run(sheet: Sheet) -> None:
    """A constant rate and PyTorch's AdamW where no plugin is named; what a plugin sets is its own affair."""
    if not sheet.flag("bf16", True):
        sheet.unknown.add("train.dtype")
    else:
        sheet.put("train.dtype", "bfloat16", "bf16")
    if sheet.has("optim_config"):
        sheet.unknown |= {"train.optim", "train.weight_decay", "train.adam_beta1", "train.adam_beta2"}
    else:
        put_all(sheet, {"train.optim": "adamw_torch", "train.weight_decay": 0.01}, "PyTorch's AdamW")
    if sheet.has("lr_scheduler_config"):
        sheet.unknown |= {"train.lr_scheduler_type", "train.lr_scheduler_kwargs", "train.warmup_steps"}
    else:
        sheet.put("train.lr_scheduler_type", "constant")
    if str(sheet.value("batching_strategy", "normal")) != "normal":
        sheet.unknown.add("train.packing")
    saves = "steps" if sheet.has("train.save_steps") else "epoch" if sheet.has("save_epochs") else "no"
    sheet.put("train.save_strategy", saves, "train.save_steps", "save_epochs")


def _attention(sheet: Sheet) -> None:
    word = str(sheet.value("flash_attn", "sdpa")).lower()
    kinds = {"sdpa": "sdpa", "fa2": "flash_attention_2", "disabled": "eager"}
    if word not in kinds:
        raise UnknownFact("train.attn_implementation")
    sheet.put("train.attn_implementation", kinds[word], "flash_attn")


def _batch(sheet: Sheet) -> None:
    """``global_batch_size`` counts all processes; without it there is no accumulation."""
    whole, micro = sheet.value("global_batch"), sheet.value("train.per_device_train_batch_size", 1)
    if whole is None:
        sheet.put("train.gradient_accumulation_steps", 1)
        return
    processes = sheet.facts.get("processes", None if sheet.has("dist_config") else 1)
    if processes is None:
        raise UnknownFact("train.gradient_accumulation_steps")
    sheet.put("train.gradient_accumulation_steps", max(1, whole // (micro * processes)), "global_batch")


def _sharding(sheet: Sheet) -> None:
    name = sheet.value("dist_config")
    if name is None:
        put_launch(sheet)
        return
    found = Sharded("fsdp") if "fsdp" in name else deepspeed_of(sheet.value("deepspeed", ""), sheet.document)
    put_launch(sheet)
    put_spread(sheet, found, "dist_config", "deepspeed")


def _task(sheet: Sheet) -> None:
    words = task_words(sheet.config, sheet.document)
    sheet.task = task_of(words[0]) if words else None
    if sheet.task is not None:
        sheet.put("train.loss_on", "assistant" if sheet.task.family == "sft" else "completion", said="the trainer")


def _recognise(config: Config) -> int:
    """Its own nested settings beside a data set to train on."""
    keys = {str(entry.path[0]) for entry in config.entries}
    own = keys & {
        "peft_config",
        "kernel_config",
        "dist_config",
        "init_config",
        "model_class",
        "sample_backend",
        "batching_strategy",
    }
    return len(own) + 2 if own and config.shape == "mapping" and {"model", "train_dataset"} <= keys else 0


LLAMAFACTORY_V1 = Dialect(
    name="llamafactory-v1", title="LLaMA-Factory", framework="llamafactory", lenses=LENSES,
    steps=(
        model_step("model"), Step(("lora.target_modules",), _adapter),
        Step(("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_compute_dtype"), _quantisation),
        Step(("train.dtype", "train.packing"), _run), Step(("train.attn_implementation",), _attention),
        Step(("stack.sharding", "stack.cpu_offload"), _sharding), Step(("train.gradient_accumulation_steps",), _batch),
        Step(("task", "train.loss_on"), _task),
    ),
    defaults={**TRAINING_DEFAULTS, **PEFT_DEFAULTS, **BNB_DEFAULTS, **_DEFAULTS},
    known=keys_of("llamafactory-v1"), recognise=_recognise, strict=True, newest="llamafactory 0.9.5",
)  # fmt: skip
