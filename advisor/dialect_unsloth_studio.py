"""YAML of Unsloth Studio and of ``unsloth train --config`` (checked against 2026.10.9): sections of training, adapter and data."""

from __future__ import annotations

from typing import Any

from lora_advise.data_keys import keys_of
from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.dialect_hf import TRAINING_DEFAULTS, TRAINING_STEPS, model_step, put_all, task_of
from lora_advise.document import Config
from lora_advise.facts import TaskFacts
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact

LENSES: tuple[Lens, ...] = (
    Lens("model", "model", "word", ("model_name",)),
    Lens("adapter", "training.training_type", "word"),
    Lens("lora.r", "lora.lora_r", "count"), Lens("lora.lora_alpha", "lora.lora_alpha", "number"),
    Lens("lora.lora_dropout", "lora.lora_dropout", "number"), Lens("target_modules", "lora.target_modules"),
    Lens("vision_all_linear", "lora.vision_all_linear", "flag"), Lens("lora.use_rslora", "lora.use_rslora", "flag"),
    Lens("use_loftq", "lora.use_loftq", "flag"), Lens("lora.use_dora", "lora.use_dora", "flag"),
    *(Lens(f"finetune_{part}", f"lora.finetune_{part}", "flag")
      for part in ("vision_layers", "language_layers", "attention_modules", "mlp_modules")),
    Lens("load_in_4bit", "training.load_in_4bit", "flag"), Lens("train.max_length", "training.max_seq_length", "count"),
    Lens("train.learning_rate", "training.learning_rate", "number"),
    Lens("train.embedding_learning_rate", "training.embedding_learning_rate", "number"),
    Lens("train.lr_scheduler_type", "training.lr_scheduler_type", "word"), Lens("train.optim", "training.optim", "word"),
    Lens("train.weight_decay", "training.weight_decay", "number"),
    Lens("train.max_grad_norm", "training.max_grad_norm", "number"),
    Lens("warmup_steps", "training.warmup_steps", "number"), Lens("warmup_ratio", "training.warmup_ratio", "number"),
    Lens("train.per_device_train_batch_size", "training.batch_size", "count"),
    Lens("train.gradient_accumulation_steps", "training.gradient_accumulation_steps", "count"),
    Lens("train.num_train_epochs", "training.num_epochs", "number"), Lens("max_steps", "training.max_steps", "count"),
    Lens("save_steps", "training.save_steps", "number"), Lens("eval_steps", "training.eval_steps", "number"),
    Lens("train.seed", "training.random_seed", "count"), Lens("train.packing", "training.packing", "flag"),
    Lens("train_on_completions", "training.train_on_completions", "flag"),
    Lens("gradient_checkpointing", "training.gradient_checkpointing"),
    Lens("trust_remote_code", "training.trust_remote_code", "flag"),
    Lens("datasets", "data.dataset", "any", ("data.local_dataset",)), Lens("format_type", "data.format_type", "word"),
)  # fmt: skip
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LORA: dict[str, Any] = {
    "lora.lora_dropout": 0.0, "lora.target_parameters": (), "lora.exclude_modules": None, "lora.modules_to_save": (),
    "lora.layers_to_transform": None, "lora.trainable_token_indices": None, "lora.ensure_weight_tying": False,
    "lora.bias": "none", "lora.use_rslora": False, "lora.use_dora": False, "lora.loraplus_lr_ratio": None,
    "lora.task_type": "CAUSAL_LM",
}  # fmt: skip
_STUDIO: dict[str, Any] = {
    "train.optim": "adamw_8bit", "train.lr_scheduler_type": "linear", "train.logging_steps": 1, "train.seed": 3407,
    "train.packing": False, "train.eval_strategy": "no", "train.eval_share": 0.0, "train.dtype": "bfloat16",
}  # fmt: skip
"""What Studio's trainer sets, whoever starts it."""
_COMMAND: dict[str, Any] = {
    "lora.r": 64, "lora.lora_alpha": 16.0, "train.max_length": 2048, "train.num_train_epochs": 3.0, "train.learning_rate": 2e-4,
    "train.per_device_train_batch_size": 2, "train.gradient_accumulation_steps": 4, "train.weight_decay": 0.01,
}  # fmt: skip
"""What ``unsloth train`` fills in; Studio's page keeps what stands there where a file is silent."""


def _is_command(sheet: Sheet) -> bool:
    """Whether the file can be a whole run: it names a model, or data."""
    return sheet.has("model") or sheet.has("datasets")


def _adapter(sheet: Sheet) -> None:
    kind = str(sheet.value("adapter", "lora")).lower()
    if not kind.startswith("full"):
        sheet.present.add("lora")
        put_all(sheet, _LORA, "Unsloth Studio's default")
        sheet.put("lora.init_lora_weights", "loftq" if sheet.flag("use_loftq") else True, "use_loftq")
    if kind.startswith("continued"):
        sheet.task = task_of("pt")


def _targets(sheet: Sheet) -> None:
    """Names with commas or a list; ``all-linear`` may stand in the list, and an empty text means Unsloth's own choice."""
    modules = sheet.value("target_modules")
    if isinstance(modules, str):
        modules = tuple(name for name in (part.strip() for part in modules.split(",")) if name)
    if not isinstance(modules, (tuple, type(None))):
        sheet.put("lora.target_modules", modules, "target_modules")
        return
    names = tuple(map(str, modules or ()))
    if sheet.flag("vision_all_linear") or "all-linear" in names:
        if sheet.model is None or any(m.role in ("vision", "audio") for m in sheet.model.modules):
            raise UnknownFact("lora.target_modules")
        sheet.put("lora.target_modules", "all-linear", "target_modules", "vision_all_linear")
    else:
        sheet.put("lora.target_modules", names or _TARGETS, "target_modules")


def _quantisation(sheet: Sheet) -> None:
    """4 bits unless the file says otherwise; the page decides for a file that is only a preset."""
    sheet.present.add("quant")
    sheet.put("quant.load_in_8bit", False)
    if not sheet.has("load_in_4bit") and not _is_command(sheet):
        raise UnknownFact("quant.load_in_4bit")
    full = "lora" not in sheet.present
    sheet.put("quant.load_in_4bit", sheet.flag("load_in_4bit", default=True) and not full, "load_in_4bit", "adapter")
    fixed = {"quant_type": "nf4", "use_double_quant": True, "quant_storage": "uint8", "compute_dtype": "bfloat16"}
    put_all(sheet, {f"quant.bnb_4bit_{name}": value for name, value in fixed.items()}, "fixed by Unsloth")


def _warmup(sheet: Sheet) -> None:
    """A share goes before a number of steps; without either it is five steps."""
    if sheet.has("warmup_ratio"):
        sheet.facts.pop("train.warmup_steps", None)
        sheet.unknown.add("train.warmup_steps")
        sheet.facts["warmup_share"] = sheet.value("warmup_ratio")
    elif not sheet.has("warmup_steps"):
        sheet.put("train.warmup_steps", 5)


def _length_of_run(sheet: Sheet) -> None:
    """0 epochs mean that the steps count."""
    if sheet.value("train.num_train_epochs") == 0:
        del sheet.facts["train.num_train_epochs"]
        raise UnknownFact("train.num_train_epochs")


def _saving(sheet: Sheet) -> None:
    steps = sheet.value("save_steps", 0)
    sheet.put("train.save_strategy", "steps" if steps > 0 else "no", "save_steps")


def _checkpointing(sheet: Sheet) -> None:
    value = str(sheet.value("gradient_checkpointing", "unsloth")).strip().lower()
    sheet.put("train.activation_checkpointing", value in ("", "unsloth", "true", "1", "yes"), "gradient_checkpointing")


def _evaluation(sheet: Sheet) -> None:
    """``eval_steps`` is a share of the run and counts only where there is data to evaluate on, which the file need not say."""
    if sheet.value("eval_steps", 0):
        raise UnknownFact("train.eval_strategy")


def _attention(sheet: Sheet) -> None:
    """Unsloth keeps packed rows apart by its own kernels."""
    if sheet.facts.get("train.packing"):
        raise UnknownFact("train.attn_implementation")


def _loss(sheet: Sheet) -> None:
    if sheet.task is None:
        raw = str(sheet.value("format_type", "")).lower() == "raw"
        sheet.task = task_of("pt") if raw else TaskFacts(name="chat", family="sft")
    if sheet.has("train_on_completions") or _is_command(sheet):
        only = sheet.flag("train_on_completions")
        sheet.put("train.loss_on", "assistant" if only else "all", "train_on_completions")


def _defaults(sheet: Sheet) -> None:
    """Of the command where the file is a run; presets leave their gaps to the page."""
    values = {**TRAINING_DEFAULTS, **_STUDIO, **(_COMMAND if _is_command(sheet) else {})}
    gaps = set() if _is_command(sheet) else set(_COMMAND)
    for fact, value in values.items():
        if fact not in sheet.facts and fact not in sheet.unknown | gaps:
            sheet.put(fact, value)


def _recognise(config: Config) -> int:
    """Keys below ``training`` and ``lora`` that no other trainer has there."""
    own = {
        ("training", "random_seed"), ("training", "train_on_completions"), ("training", "max_seq_length"),
        ("training", "batch_size"), ("training", "num_epochs"), ("training", "training_type"), ("lora", "lora_r"),
        ("lora", "use_loftq"), ("lora", "vision_all_linear"), ("lora", "finetune_mlp_modules"), ("training", "gradient_checkpointing"),
    }  # fmt: skip
    found = {entry.path[:2] for entry in config.entries if len(entry.path) == 2} & own
    sections = {section for section, _ in found}
    return len(found) if config.shape == "mapping" and "training" in sections and len(found) > 2 else 0


UNSLOTH_STUDIO = Dialect(
    name="unsloth-studio", title="Unsloth Studio", framework="unsloth", lenses=LENSES,
    steps=(
        model_step("model"), Step(("lora",), _adapter), Step(("lora.target_modules",), _targets),
        Step(("quant.load_in_4bit", "quant.bnb_4bit_compute_dtype"), _quantisation), *TRAINING_STEPS,
        Step(("train.warmup_steps",), _warmup), Step(("train.num_train_epochs",), _length_of_run),
        Step(("train.save_strategy",), _saving), Step(("train.activation_checkpointing",), _checkpointing),
        Step(("train.eval_strategy", "train.eval_steps"), _evaluation), Step(("train.loss_on",), _loss),
        Step(("train.attn_implementation",), _attention), Step((), _defaults),
    ),
    defaults={"stack.sharding": "none"},
    known=keys_of("unsloth-studio") | {"inference", "audio_type", "audio_input", "model_name"}, recognise=_recognise,
    newest="unsloth 2026.10.9",
)  # fmt: skip
