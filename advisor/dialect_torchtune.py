"""torchtune's YAML (checked against 0.7): components by their dotted names, and ``tune run … key=value``."""

from __future__ import annotations

from typing import Any

from lora_advise.adapter_limits import TORCHTUNE_PROJECTIONS
from lora_advise.catalogue_lookup import find_model
from lora_advise.data_keys import keys_of, version_of
from lora_advise.dialect import Dialect, Lens, Renamed, Step
from lora_advise.dialect_hf import PEFT_DEFAULTS
from lora_advise.document import Config, Entry
from lora_advise.facts import TaskFacts
from lora_advise.interpolation import interpolated
from lora_advise.sheet import Sheet
from lora_advise.torchtune_parts import ANSWERS, OPTIMISERS, WHOLE_TEXT, closed, model_id
from lora_advise.unknown import UnknownFact

LENSES: tuple[Lens, ...] = (
    Lens("model", "model._component_", "word"),
    Lens("checkpoint_dir", "checkpointer.checkpoint_dir", "word"),
    Lens("lora.r", "model.lora_rank", "count"),
    Lens("lora.lora_alpha", "model.lora_alpha", "number"),
    Lens("lora.lora_dropout", "model.lora_dropout", "number"),
    Lens("lora.use_dora", "model.use_dora", "flag"),
    Lens("target_modules", "model.lora_attn_modules"),
    Lens("apply_lora_to_mlp", "model.apply_lora_to_mlp", "flag"),
    Lens("apply_lora_to_output", "model.apply_lora_to_output", "flag"),
    Lens("quantize_base", "model.quantize_base", "flag"),
    Lens("train.learning_rate", "optimizer.lr", "number"),
    Lens("train.weight_decay", "optimizer.weight_decay", "number"),
    Lens("optimizer_component", "optimizer._component_", "word"),
    Lens("fused", "optimizer.fused", "flag"),
    Lens("betas", "optimizer.betas"),
    Lens("scheduler_component", "lr_scheduler._component_", "word"),
    Lens("warmup_steps", "lr_scheduler.num_warmup_steps", "number"),
    Lens("loss_component", "loss._component_", "word"),
    Lens("beta", "loss.beta", "number"),
    Lens("label_smoothing", "loss.label_smoothing", "number"),
    Lens("train.per_device_train_batch_size", "batch_size", "count"),
    Lens("train.per_device_eval_batch_size", "batch_size_val", "count"),
    Lens("train.gradient_accumulation_steps", "gradient_accumulation_steps", "count"),
    Lens("train.num_train_epochs", "epochs", "number"),
    Lens("max_steps_per_epoch", "max_steps_per_epoch", "count"),
    Lens("clip_grad_norm", "clip_grad_norm", "any"),
    Lens("train.max_length", "tokenizer.max_seq_len", "count"),
    Lens("chat_template", "tokenizer.prompt_template", "any"),
    Lens("datasets", "dataset"),
    Lens("dataset_component", "dataset._component_", "word"),
    Lens("train.packing", "dataset.packed", "flag"),
    Lens("train_on_inputs", "dataset.train_on_input", "flag"),
    Lens("test_datasets", "dataset_val"),
    Lens("train.eval_steps", "run_val_every_n_steps", "count"),
    Lens("train.save_steps", "save_every_n_steps", "count"),
    Lens("train.activation_checkpointing", "enable_activation_checkpointing", "flag"),
    Lens("activation_offloading", "enable_activation_offloading", "flag"),
    Lens("optimizer_in_bwd", "optimizer_in_bwd", "flag"),
    Lens("train.logging_steps", "log_every_n_steps", "number"),
    Lens("train.seed", "seed", "count"),
    Lens("dtype", "dtype", "word", choices=("bf16", "fp16", "fp32", "fp64")),
    Lens("device", "device", "word"),
    Lens("fsdp_cpu_offload", "fsdp_cpu_offload", "flag"),
    Lens("custom_sharded_layers", "custom_sharded_layers"),
    Lens("tensor_parallel_dim", "tensor_parallel_dim", "count"),
    Lens("context_parallel_dim", "context_parallel_dim", "count"),
    Lens("teacher_model", "teacher_model"),
    Lens("resume", "resume_from_checkpoint"),
    Lens("compile", "compile"),
)
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_FUSED_IN_HF = ("phi3", "phi4", "vision", "llama4", "moe")
"""Models whose projections transformers keeps under other names."""


def _builder(sheet: Sheet) -> str:
    return str(sheet.value("model", "")).rpartition(".")[2]


def _model(sheet: Sheet) -> None:
    """The builder says the architecture; the checkpoint's folder says which of its models, where it is called after one."""
    named = model_id(_builder(sheet))
    shape = find_model(named) if named else None
    folder = sheet.value("checkpoint_dir") if sheet.has("checkpoint_dir") else None
    stated = find_model(str(folder)) if folder else None
    if stated is not None and (shape is None or stated.total_params == shape.total_params):
        sheet.resolve_model(str(folder), "checkpoint_dir", "model")
    elif named is not None:
        sheet.resolve_model(named, "model")
        if sheet.model is not None:
            sheet.model = sheet.model.changed({"variant": None})


def _adapter(sheet: Sheet) -> None:
    builder = _builder(sheet)
    adapted = builder.startswith(("lora_", "qlora_", "dora_", "qdora_"))
    if not adapted and not sheet.has("lora.r"):
        return
    sheet.present.add("lora")
    sheet.put("lora.task_type", "CAUSAL_LM")
    sheet.present.add("quant")
    if not builder and not sheet.has("quantize_base"):
        raise UnknownFact("quant.load_in_4bit")
    four = builder.startswith("q") and adapted and not builder.startswith("qwen")
    sheet.put("quant.load_in_4bit", sheet.flag("quantize_base", four), "quantize_base", "model")
    sheet.put("quant.load_in_8bit", False, "model")


def _targets(sheet: Sheet) -> None:
    """By transformers' names, for a model whose projections are the same matrices there."""
    builder, attention = _builder(sheet), sheet.value("target_modules")
    known = isinstance(attention, tuple) and all(str(name) in TORCHTUNE_PROJECTIONS for name in attention)
    if not builder or not known or any(word in builder for word in _FUSED_IN_HF):
        raise UnknownFact("lora.target_modules")
    names = [TORCHTUNE_PROJECTIONS[str(name)] for name in attention]
    if sheet.flag("apply_lora_to_mlp"):
        names += ["gate_proj", "up_proj", "down_proj"]
    if sheet.flag("apply_lora_to_output"):
        names.append("lm_head")
    sheet.put("lora.target_modules", tuple(names), "target_modules", "apply_lora_to_mlp", "apply_lora_to_output")


def _precision(sheet: Sheet) -> None:
    dtype = _DTYPES.get(str(sheet.value("dtype")))
    if dtype is None:
        raise UnknownFact("train.dtype")
    sheet.put("train.dtype", dtype, "dtype")
    sheet.put("quant.bnb_4bit_compute_dtype", dtype, "dtype")


def _optimizer(sheet: Sheet) -> None:
    kind = OPTIMISERS.get(str(sheet.value("optimizer_component", "")))
    if kind is None:
        raise UnknownFact("train.optim")
    fused = kind == "adamw_torch" and sheet.flag("fused")
    sheet.put("train.optim", "adamw_torch_fused" if fused else kind, "optimizer_component")
    if not sheet.has("train.weight_decay") and sheet.config.shape == "mapping":
        sheet.put("train.weight_decay", 0.0 if kind == "sgd" else 0.01, said="the optimizer's default")
    betas = sheet.value("betas", (0.9, 0.999))
    two = isinstance(betas, tuple) and len(betas) == 2 and all(isinstance(b, (int, float)) for b in betas)
    if two and not _silent(sheet, "betas"):
        sheet.put("train.adam_beta1", float(betas[0]), "betas", said="the optimizer's default")
        sheet.put("train.adam_beta2", float(betas[1]), "betas", said="the optimizer's default")


def _schedule(sheet: Sheet) -> None:
    """Without a scheduler the rate stays as it is."""
    kind = str(sheet.value("scheduler_component", ""))
    if kind.endswith("get_cosine_schedule_with_warmup"):
        sheet.put("train.lr_scheduler_type", "cosine", "scheduler_component")
        if sheet.has("warmup_steps"):
            sheet.put("train.warmup_steps", int(sheet.value("warmup_steps")), "warmup_steps")
            return
    elif not kind and sheet.config.shape == "mapping" and sheet.config.get("lr_scheduler") is None:
        sheet.put("train.lr_scheduler_type", "constant")
        sheet.put("train.warmup_steps", 0)
        return
    raise UnknownFact("train.lr_scheduler_type")


def _bundled(sheet: Sheet) -> None:
    """A command replaces values of a config that is not at hand: what it leaves alone is nobody's default."""
    if sheet.config.shape == "command":
        sheet.unknown |= {fact for fact in _DEFAULTS if fact not in sheet.facts}


def _silent(sheet: Sheet, name: str) -> bool:
    """Whether that setting may stand in the config that a command changes."""
    return sheet.config.shape == "command" and sheet.entry(name) is None


def _clipping(sheet: Sheet) -> None:
    if _silent(sheet, "clip_grad_norm"):
        raise UnknownFact("train.max_grad_norm")
    value = sheet.value("clip_grad_norm")
    clipped = isinstance(value, (int, float)) and not isinstance(value, bool)
    sheet.put("train.max_grad_norm", float(value) if clipped else None, "clip_grad_norm")


def _length_of_run(sheet: Sheet) -> None:
    """A limit for each epoch says how many steps there are only where the data is long enough for it."""
    if sheet.has("max_steps_per_epoch") or _silent(sheet, "max_steps_per_epoch"):
        raise UnknownFact("train.max_steps")
    sheet.put("train.max_steps", None)


def _data(sheet: Sheet) -> None:
    """``train_on_input`` has another default in each builder."""
    builder = str(sheet.value("dataset_component", "")).rpartition(".")[2]
    stated = sheet.value("train_on_inputs")
    if stated is True or (stated is None and builder in WHOLE_TEXT):
        sheet.put("train.loss_on", "all", "train_on_inputs", "dataset_component")
    elif builder in ANSWERS:
        sheet.put("train.loss_on", ANSWERS[builder], "train_on_inputs", "dataset_component")
    elif stated is False and builder in ("alpaca_dataset", "alpaca_cleaned_dataset"):
        sheet.put("train.loss_on", "completion", "train_on_inputs")
    else:
        raise UnknownFact("train.loss_on")


def _task(sheet: Sheet) -> None:
    loss, builder = str(sheet.value("loss_component", "")), str(sheet.value("dataset_component", "")).rpartition(".")[2]
    if loss.endswith("DPOLoss"):
        sheet.task = TaskFacts(name="dpo", family="preference", trainer="dpo")
        sheet.put("train.beta", sheet.value("beta", 0.1), "beta")
    elif "GRPO" in loss or "PPO" in loss or sheet.has("teacher_model") or sheet.config.shape != "mapping":
        return
    elif builder == "text_completion_dataset":
        sheet.task = TaskFacts(name="continued-pretraining", family="pretraining", trainer="sft")
    else:
        sheet.task = TaskFacts(name="chat", family="sft", trainer="sft")


def _evaluation(sheet: Sheet) -> None:
    if _silent(sheet, "train.eval_steps") or _silent(sheet, "test_datasets"):
        raise UnknownFact("train.eval_strategy")
    on = sheet.has("test_datasets") and sheet.has("train.eval_steps")
    sheet.put("train.eval_strategy", "steps" if on else "no", "train.eval_steps", "test_datasets")


def _sharding(sheet: Sheet) -> None:
    """The recipe decides, which a config does not name; some of its keys only the distributed one has."""
    words = "/".join((*sheet.config.program, sheet.document.replace("\\", "/").rpartition("/")[2]))
    settings = ("fsdp_cpu_offload", "custom_sharded_layers", "tensor_parallel_dim", "context_parallel_dim")
    if "single_device" in words:
        sheet.put("stack.sharding", "none", said="the recipe for a single device")
        sheet.facts["processes"] = 1
    elif "distributed" in words or any(sheet.has(name) for name in settings):
        sheet.put("stack.sharding", "fsdp", *settings, said="the distributed recipe")
        sheet.put("stack.cpu_offload", sheet.flag("fsdp_cpu_offload"), "fsdp_cpu_offload")
        count = sheet.config.get("launcher", "nproc_per_node")
        if count is not None and isinstance(count.value, int) and count.value > 0:
            sheet.facts["processes"] = count.value
    else:
        raise UnknownFact("stack.sharding")


def _prepared(config: Config) -> Config:
    """Interpolations resolved; on a command line ``model=torchtune.models…`` names the component."""
    if config.shape != "command":
        return interpolated(config)
    return interpolated(config._replace(entries=tuple(map(_component, config.entries))))


def _component(entry: Entry) -> Entry:
    named = isinstance(entry.value, str) and entry.value.startswith(("torchtune.", "torch.", "bitsandbytes."))
    return entry._replace(path=(*entry.path, "_component_")) if named and len(entry.path) == 1 else entry


def _recognise(config: Config) -> int:
    """Components, an optimizer among them: without one it is no training; or ``tune run`` with settings."""
    if config.shape == "command":
        words = [word.rsplit("/", 1)[-1] for word in config.program]
        recipe = any(part in "/".join(words) for part in ("lora", "finetune", "dpo", "qat"))
        given = {str(entry.path[0]) for entry in config.entries} - {"launcher", "positional", "config"}
        return 5 + len(given) if words[:2] == ["tune", "run"] and recipe and given else 0
    components = {entry.path[0] for entry in config.entries if entry.path[1:] == ("_component_",)}
    return len(components) * 2 if config.shape == "mapping" and {"model", "optimizer"} <= components else 0


_DEFAULTS: dict[str, Any] = {
    **{key: value for key, value in PEFT_DEFAULTS.items() if key not in ("lora.r", "lora.lora_alpha")},
    "quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": True, "quant.bnb_4bit_quant_storage": "uint8",
    "train.lr_scheduler_kwargs": {}, "train.packing": False, "train.use_liger_kernel": False, "train.activation_checkpointing": False,
    "train.attn_implementation": "sdpa", "train.embedding_learning_rate": None, "train.neftune_noise_alpha": None,
    "train.eval_steps": None, "train.eval_share": 0.0, "train.save_strategy": "epoch", "train.save_steps": None,
    "train.save_total_limit": None, "train.load_best_model_at_end": False, "train.metric_for_best_model": None,
    "train.early_stopping_patience": None, "train.logging_steps": 1, "train.beta": None, "train.num_generations": None,
    "train.max_completion_length": None, "stack.cpu_offload": False,
}  # fmt: skip

TORCHTUNE = Dialect(
    name="torchtune", title="torchtune", framework="torchtune", lenses=LENSES,
    steps=(
        Step((), _bundled), Step(("model",), _model), Step(("lora", "quant.load_in_4bit", "quant.load_in_8bit"), _adapter),
        Step(("lora.target_modules",), _targets), Step(("train.dtype", "quant.bnb_4bit_compute_dtype"), _precision),
        Step(("train.optim", "train.weight_decay", "train.adam_beta1", "train.adam_beta2"), _optimizer),
        Step(("train.lr_scheduler_type", "train.warmup_steps"), _schedule), Step(("train.max_grad_norm",), _clipping),
        Step(("train.max_steps",), _length_of_run), Step(("train.loss_on",), _data), Step(("task", "train.beta"), _task),
        Step(("train.eval_strategy",), _evaluation), Step(("stack.sharding",), _sharding),
    ),
    defaults=_DEFAULTS, known=frozenset(key for key in keys_of("torchtune") if "." not in key), recognise=_recognise,
    renamed=(
        Renamed("full_bf16", "dtype", "torchtune", "0.1", "ignored", "torchtune-code", "Its value is bf16."),
        Renamed("memory_efficient_fsdp_wrap", None, "torchtune", "0.5", "ignored", "torchtune-code"),
    ),
    newest=f"torchtune {version_of('torchtune')}", prepare=_prepared, closed=closed,
)  # fmt: skip
