"""Settings of a trainer that nobody here knows, under names that mean the same everywhere: dialect ``other``.

The last resort. Only keys whose meaning is beyond doubt become facts; whatever such a file does not say stays unknown,
because nothing is known of the script behind it.
"""

from __future__ import annotations

from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.document import Config
from lora_advise.launchers import put_sharding
from lora_advise.sheet import Sheet
from lora_advise.unknown import UnknownFact

_LORA_GROUPS = ("lora", "peft", "adapter", "lora_config", "peft_config", "qlora")
_TRAIN_GROUPS = (
    "training", "train", "trainer", "training_args", "training_arguments", "training_config", "optimizer", "optim", "hyperparameters",
    "finetune", "sft", "scheduler", "optimizer_kwargs", "optimizer_args",
)  # fmt: skip
_MODEL_GROUPS = ("model", "base_model", "quantization", "quantisation", "bnb", "bnb_config", "quant")
_GROUPS = (*_LORA_GROUPS, *_TRAIN_GROUPS, *_MODEL_GROUPS, "data", "dataset", "data_args", "model_args", "lora_args")


def _lens(name: str, kind: str, keys: str, inner: str = "") -> Lens:
    """A lens over these names, on their own or in any of the usual groups; ``inner`` names count inside LoRA's groups only,
    and those with a dot just there."""
    plain = [key for key in keys.split() if "." not in key]
    found = [*plain, *(f"{group}.{key}" for key in plain for group in _GROUPS)]
    found += [f"{group}.{key}" for key in inner.split() if "." not in key for group in _LORA_GROUPS]
    found += [key for key in (*keys.split(), *inner.split()) if "." in key]
    unique = dict.fromkeys(found)
    key, *former = unique
    kinds = {"number": "number", "count": "count", "flag": "flag", "word": "word", "names": "names", "any": "any"}
    return Lens(name, key, kinds[kind], tuple(former))  # type: ignore[arg-type]


LENSES: tuple[Lens, ...] = (
    _lens(
        "model", "word", "base_model model_name_or_path model_name model_id base_model_name_or_path base_model_name "
        "pretrained_model_name_or_path model.name model.id model.path model.name_or_path model.base",
    ),
    _lens("lora.r", "count", "lora_r lora_rank lora_dim", "r rank"),
    _lens("lora.lora_alpha", "number", "lora_alpha", "alpha"),
    _lens("lora.lora_dropout", "number", "lora_dropout lora_dropout_p", "dropout"),
    _lens("target_modules", "any", "lora_target_modules target_modules lora_targets lora_modules", "targets"),
    _lens("lora.modules_to_save", "names", "lora_modules_to_save modules_to_save"),
    _lens("lora.use_rslora", "flag", "use_rslora"),
    _lens("lora.use_dora", "flag", "use_dora"),
    _lens("method", "word", "method finetuning_method adapter peft_method finetune_method training_method"),
    _lens("load_in_4bit", "flag", "load_in_4bit use_4bit use_4bit_quantization"),
    _lens("load_in_8bit", "flag", "load_in_8bit use_8bit use_8bit_quantization"),
    _lens("bits", "any", "bits quantization_bit quant_bits quantization"),
    _lens("quant.bnb_4bit_quant_type", "word", "bnb_4bit_quant_type quant_type quantization_type"),
    _lens("quant.bnb_4bit_use_double_quant", "flag", "bnb_4bit_use_double_quant use_nested_quant double_quant double_quantization"),
    _lens("quant.bnb_4bit_compute_dtype", "word", "bnb_4bit_compute_dtype"),
    _lens("train.learning_rate", "number", "learning_rate lr"),
    _lens("lr_scheduler", "word", "lr_scheduler_type lr_scheduler"),
    _lens("warmup_steps", "number", "warmup_steps num_warmup_steps"),
    _lens("warmup_ratio", "number", "warmup_ratio"),
    _lens("train.weight_decay", "number", "weight_decay"),
    _lens("train.max_grad_norm", "number", "max_grad_norm"),
    _lens("train.num_train_epochs", "number", "num_train_epochs num_epochs epochs n_epochs"),
    _lens("max_steps", "count", "max_steps"),
    _lens("train.per_device_train_batch_size", "count", "per_device_train_batch_size micro_batch_size"),
    _lens("train.gradient_accumulation_steps", "count", "gradient_accumulation_steps grad_accumulation_steps grad_accum_steps"),
    _lens("train.max_length", "count", "max_length max_seq_length max_seq_len cutoff_len seq_len model_max_length sequence_len block_size"),
    _lens("gradient_checkpointing", "flag", "gradient_checkpointing activation_checkpointing"),
    _lens("bf16", "any", "bf16"),
    _lens("fp16", "any", "fp16"),
    _lens("deepspeed", "any", "deepspeed"),
    _lens("fsdp", "any", "fsdp"),
    _lens("trust_remote_code", "flag", "trust_remote_code"),
)  # fmt: skip
_METHODS = {"lora": False, "qlora": True}
_RANKS = {"lora_r", "lora_rank", "lora_dim", "lora_alpha", "lora_target_modules", "lora_dropout"}
_TRAINS = {
    "learning_rate", "lr", "num_train_epochs", "num_epochs", "epochs", "max_steps", "gradient_accumulation_steps", "warmup_steps",
    "warmup_ratio", "micro_batch_size", "per_device_train_batch_size",
}  # fmt: skip
_ELSEWHERE = {
    "peft_type", "_component_", "zero_optimization", "compute_environment", "architectures", "export_dir", "merge", "models",
}  # fmt: skip


def _model(sheet: Sheet) -> None:
    """By a setting of its own, else by ``model`` where that is a name and no group."""
    plain = sheet.config.get("model")
    if "model" in sheet.written and sheet.has("model"):
        sheet.resolve_model(str(sheet.value("model")), "model")
    elif plain is not None and isinstance(plain.value, str):
        sheet.resolve_model(plain.value, "model")


def _adapter(sheet: Sheet) -> None:
    settings = any(name.startswith("lora.") for name in sheet.facts) or sheet.has("target_modules")
    if settings or str(sheet.value("method", "")).lower() in _METHODS:
        sheet.present.add("lora")


def _targets(sheet: Sheet) -> None:
    modules = sheet.value("target_modules")
    if isinstance(modules, tuple) and all(isinstance(name, str) for name in modules):
        sheet.put("lora.target_modules", modules, "target_modules")
    elif modules == "all-linear":
        sheet.put("lora.target_modules", "all-linear", "target_modules")
    elif isinstance(modules, str) and ("," in modules or modules.strip()[:1] == "["):
        parts = (part.strip(" '\"") for part in modules.strip().strip("[]").split(","))
        sheet.put("lora.target_modules", tuple(part for part in parts if part), "target_modules")
    else:
        raise UnknownFact("lora.target_modules")


def _bits(sheet: Sheet) -> int | None:
    """How many bits the base is loaded in, where a setting says so."""
    word = str(sheet.value("bits", "")).lower().replace("-", "").replace("_", "")
    return {"4": 4, "4bit": 4, "nf4": 4, "int4": 4, "8": 8, "8bit": 8, "int8": 8, "16": 16, "none": 16}.get(word)


def _quantisation(sheet: Sheet) -> None:
    sheet.present.add("quant")
    bits, method = _bits(sheet), _METHODS.get(str(sheet.value("method", "")).lower())
    if sheet.has("load_in_4bit"):
        sheet.put("quant.load_in_4bit", sheet.flag("load_in_4bit"), "load_in_4bit")
    elif bits is not None:
        sheet.put("quant.load_in_4bit", bits == 4, "bits")
    elif method is True:
        sheet.put("quant.load_in_4bit", True, "method")
    if sheet.has("load_in_8bit"):
        sheet.put("quant.load_in_8bit", sheet.flag("load_in_8bit"), "load_in_8bit")
    elif bits is not None:
        sheet.put("quant.load_in_8bit", bits == 8, "bits")
    for one, other in (("load_in_4bit", "load_in_8bit"), ("load_in_8bit", "load_in_4bit")):
        if sheet.facts.get(f"quant.{one}") and f"quant.{other}" not in sheet.facts:
            sheet.put(f"quant.{other}", False, one, "bits", "method")


def _precision(sheet: Sheet) -> None:
    """Only where one of the two is on."""
    on = [name for name in ("bf16", "fp16") if str(sheet.value(name)).lower() == "true"]
    if len(on) == 1:
        sheet.put("train.dtype", "bfloat16" if on == ["bf16"] else "float16", *on)


def _schedule(sheet: Sheet) -> None:
    kind = str(sheet.value("lr_scheduler", "")).lower()
    if kind in ("cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts"):
        sheet.put("train.lr_scheduler_type", kind, "lr_scheduler")
    steps, share = sheet.value("warmup_steps"), sheet.value("warmup_ratio")
    if steps is not None and (steps >= 1 or not share):
        sheet.put("train.warmup_steps", int(steps), "warmup_steps")
    elif share and 0 < share < 1:
        sheet.facts["warmup_share"] = share
        sheet.places["train.warmup_steps"] = tuple(e for e in (sheet.entry("warmup_ratio"),) if e)
        raise UnknownFact("train.warmup_steps")


def _steps(sheet: Sheet) -> None:
    steps = sheet.value("max_steps")
    if steps is not None:
        sheet.put("train.max_steps", steps if steps > 0 else None, "max_steps")


def _checkpointing(sheet: Sheet) -> None:
    if sheet.has("gradient_checkpointing"):
        sheet.put("train.activation_checkpointing", sheet.flag("gradient_checkpointing"), "gradient_checkpointing")


def _recognise(config: Config) -> int:
    """1 for settings of LoRA beside one of training: any real trainer wins."""
    if config.shape == "calls":
        return 0
    top = {str(entry.path[0]) for entry in config.entries}
    inner = {str(entry.path[1]) for entry in config.entries if len(entry.path) == 2 and entry.path[0] in _GROUPS}
    keys = {key.replace("-", "_") for key in top | inner}
    grouped = {str(e.path[1]) for e in config.entries if len(e.path) == 2 and e.path[0] in _LORA_GROUPS}
    if keys & _ELSEWHERE:
        return 0
    ranked = bool(keys & _RANKS or ("r" in keys and "lora_alpha" in keys) or grouped & {"r", "rank", "alpha"})
    methods = [entry for entry in config.entries if entry.path[-1] in ("method", "adapter", "finetuning_method")]
    named = any(str(entry.value).lower() in _METHODS for entry in methods)
    two = len(keys & _RANKS) > 1
    if config.get("optimizer_kwargs", "lr") is not None:
        return 1
    return 1 if (ranked and (keys & _TRAINS or two)) or (named and keys & _TRAINS) else 0


OTHER = Dialect(
    name="other", title="the script", framework="other", lenses=LENSES,
    steps=(
        Step(("model",), _model), Step(("lora",), _adapter), Step(("lora.target_modules",), _targets),
        Step(("quant.load_in_4bit", "quant.load_in_8bit"), _quantisation), Step(("train.dtype",), _precision),
        Step(("train.lr_scheduler_type", "train.warmup_steps"), _schedule), Step(("train.max_steps",), _steps),
        Step(("train.activation_checkpointing",), _checkpointing),
        Step(("stack.sharding", "stack.cpu_offload"), put_sharding),
    ),
    defaults={}, known=frozenset(), recognise=_recognise, newest="",
)  # fmt: skip
