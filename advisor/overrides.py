"""The user's own choices: their short names, and the check that a value can be one at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LoraFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.section import Section, field_types

SHORT: dict[str, str] = {
    "method": "method",
    "r": "lora.r",
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "targets": "lora.target_modules",
    "target_parameters": "lora.target_parameters",
    "modules_to_save": "lora.modules_to_save",
    "rslora": "lora.use_rslora",
    "dora": "lora.use_dora",
    "bias": "lora.bias",
    "init": "lora.init_lora_weights",
    "lr": "train.learning_rate",
    "scheduler": "train.lr_scheduler_type",
    "warmup_steps": "train.warmup_steps",
    "optim": "train.optim",
    "weight_decay": "train.weight_decay",
    "clip": "train.max_grad_norm",
    "batch": "effective_batch",
    "micro_batch": "train.per_device_train_batch_size",
    "accumulation": "train.gradient_accumulation_steps",
    "epochs": "train.num_train_epochs",
    "max_steps": "train.max_steps",
    "max_length": "train.max_length",
    "packing": "train.packing",
    "loss_on": "train.loss_on",
    "dtype": "train.dtype",
    "attention": "train.attn_implementation",
    "checkpointing": "train.activation_checkpointing",
    "neftune": "train.neftune_noise_alpha",
    "eval_steps": "train.eval_steps",
    "beta": "train.beta",
    "seed": "train.seed",
    "sharding": "stack.sharding",
}
"""Short name (``--r``, ``advise(r=64)``) to field of the plan."""

_SECTIONS: dict[str, type[Section]] = {
    "lora": LoraFacts,
    "train": TrainFacts,
    "quant": QuantFacts,
    "stack": StackFacts,
}
_POSITIVE = {
    "lora.r", "lora.lora_alpha", "train.learning_rate", "train.embedding_learning_rate", "train.num_train_epochs",
    "train.max_length", "train.max_steps", "train.eval_steps", "train.save_steps", "train.logging_steps",
    "effective_batch", "train.max_grad_norm", "train.num_generations", "train.max_completion_length",
}  # fmt: skip
_SHARES = {"lora.lora_dropout", "train.eval_share"}
_EMPTY = {"none", "null", ""}


def check_override(field: str, raw: Any, flag: str | None = None) -> Any:
    """The value of one override in the type of its field. Raises LoraAdviseError naming flag, value and way out."""
    name = flag or f"--set {field}"
    if field == "method":
        return _one_of(name, raw, ("lora", "qlora", "full"))
    value = _typed(name, field, raw)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise LoraAdviseError(f"{name}: {raw!r} is not a finite number.")
    if field == "train.optim":
        from lora_advise.memory_weights import check_optimizer

        check_optimizer(str(value), name)
    if field == "train.lr_scheduler_type":
        from lora_advise.rates import SCHEDULERS

        _one_of(name, value, SCHEDULERS)
    if field == "lora.target_modules" and not value:
        raise LoraAdviseError(f"{name}: no module is named, so nothing would be trained; name some, or all-linear.")
    if field in _POSITIVE and value is not None and value <= 0:
        raise LoraAdviseError(f"{name}: {raw} must be greater than 0.")
    if field in _SHARES and not 0 <= value < 1:
        raise LoraAdviseError(f"{name}: {raw} must be at least 0 and below 1.")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        raise LoraAdviseError(f"{name}: {raw} must not be negative.")
    return value


def _typed(name: str, field: str, raw: Any) -> Any:
    if field == "effective_batch":
        return _adapt(name, int, raw)
    section, _, key = field.partition(".")
    model = _SECTIONS.get(section)
    if model is None or key not in field_types(model):
        raise LoraAdviseError(f"{name}: the plan has no field {field!r}{_closest(field)}")
    annotation = field_types(model)[key]
    if isinstance(raw, str) and raw.strip().lower() in _EMPTY and "None" in str(annotation):
        return None
    if isinstance(raw, str) and "tuple" in str(annotation):
        raw = _names(raw, allow_text="str" in str(annotation).replace("tuple[str", ""))
    if isinstance(raw, list):
        raw = tuple(raw)
    return _adapt(name, annotation, raw)


def check_choices(overrides: dict[str, Any]) -> None:
    """Refuse choices that exclude each other. Raises LoraAdviseError naming the field and the way out."""
    if overrides.get("method") != "full":
        return
    for field in overrides:
        if field.startswith(("lora.", "quant.")):
            what = "adapter" if field.startswith("lora.") else "quantized base"
            raise LoraAdviseError(f"{field}: full fine-tuning has no {what}; leave it out, or leave --method full out.")


def _names(raw: str, *, allow_text: bool) -> Any:
    """A comma list as a tuple; one word such as all-linear, or a regular expression, stays text where the field allows."""
    text = raw.strip()
    if text.lower() in _EMPTY:
        return ()
    if allow_text and (text == "all-linear" or any(c in text for c in "*\\|()[]^$")):
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _adapt(name: str, annotation: Any, raw: Any) -> Any:
    from lora_advise.checked import FactError, checked

    try:
        return checked(annotation, raw)
    except FactError as error:
        raise LoraAdviseError(f"{name}: {str(raw)[:60]!r} {error.said}.") from None


def _one_of(name: str, raw: Any, allowed: tuple[str, ...]) -> str:
    if raw not in allowed:
        raise LoraAdviseError(f"{name}: {str(raw)[:60]!r} should be one of {', '.join(allowed)}.")
    return str(raw)


def _closest(field: str) -> str:
    import difflib

    known = [f"{s}.{k}" for s, model in _SECTIONS.items() for k in field_types(model)] + ["effective_batch", "method"]
    close = difflib.get_close_matches(field, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "; see `lora-advise schema plan`."


def parse_set(text: str) -> tuple[str, Any]:
    """``field=value`` of ``--set``, checked."""
    field, equals, raw = text.partition("=")
    field = field.strip()
    if not equals or not field:
        raise LoraAdviseError(f"--set: {text[:60]!r} should be FIELD=VALUE, such as lora.r=64.")
    field = SHORT.get(field.replace("-", "_"), field)
    return field, check_override(field, raw.strip())


def collect(
    given: dict[str, Any], flag: Callable[[str], str] = lambda short: f"--{short.replace('_', '-')}"
) -> dict[str, Any]:
    """Checked overrides by field, from short names and values; values that are ``None`` were not given."""
    out: dict[str, Any] = {}
    for short, raw in given.items():
        if raw is None:
            continue
        if short not in SHORT:
            raise LoraAdviseError(f"{flag(short)}: no setting has this name; use one of {', '.join(SHORT)}.")
        out[SHORT[short]] = check_override(SHORT[short], raw, flag(short))
    return out
