"""From the plan's adapter to ``peft.LoraConfig``, refusing targets that match nothing before any training."""

from __future__ import annotations

import re
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LoraFacts, TaskFacts


def lora_config(lora: LoraFacts, task: TaskFacts, model: Any, deviations: list[str]) -> Any:
    """The PEFT configuration of that adapter for that loaded model."""
    from peft import LoraConfig

    check_targets(lora, model, deviations)
    head = task.trainer in {"reward", "classification"}
    task_type = "SEQ_CLS" if head else (lora.task_type or "CAUSAL_LM")
    alpha = int(lora.lora_alpha) if float(lora.lora_alpha).is_integer() else lora.lora_alpha
    arguments: dict[str, Any] = {
        "r": lora.r,
        "lora_alpha": alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        "target_parameters": list(lora.target_parameters) or None,
        "exclude_modules": _listed(lora.exclude_modules),
        "modules_to_save": list(lora.modules_to_save) or None,
        "layers_to_transform": _listed(lora.layers_to_transform),
        "trainable_token_indices": _listed(lora.trainable_token_indices),
        "bias": lora.bias,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": lora.init_lora_weights,
        "task_type": task_type,
    }
    if lora.ensure_weight_tying:
        arguments["ensure_weight_tying"] = True
    try:
        return LoraConfig(**arguments)
    except (ValueError, TypeError) as error:
        raise LoraAdviseError(f"PEFT refuses the adapter of the plan: {str(error).splitlines()[0][:300]}") from error


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_targets(lora: LoraFacts, model: Any, deviations: list[str]) -> None:
    """Refuse an adapter that would sit on nothing; name the targets that match no module."""
    names = [name for name, _ in model.named_modules() if name]
    targets = lora.target_modules
    if isinstance(targets, str):
        if targets == "all-linear":
            return
        try:
            matched = any(re.fullmatch(targets, name) for name in names)
        except re.error as error:
            raise LoraAdviseError(f"lora.target_modules {targets!r}: is not a regular expression ({error}).") from error
        missed: tuple[str, ...] = () if matched else (targets,)
    else:
        missed = tuple(t for t in targets if not any(_suffix(name, t) for name in names))
        matched = len(missed) < len(targets)
    parameters = [name for name, _ in model.named_parameters()]
    absent = tuple(t for t in lora.target_parameters if not any(_suffix(name, t) for name in parameters))
    if not matched and len(absent) == len(lora.target_parameters):
        found = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if hasattr(m, "in_features")})
        raise LoraAdviseError(
            f"lora.target_modules {', '.join((*missed, *absent)) or '(empty)'}: match no module of this model, "
            f"so nothing would be trained; its linear layers are {', '.join(found)}."
        )
    for name in (*missed, *absent):
        deviations.append(f"lora.target_modules {name}: matches nothing in this model; the other targets are used.")


def _suffix(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
