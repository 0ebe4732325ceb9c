"""From the plan's training section to the arguments of the installed trainers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, TrainFacts
from lora_advise.runner.device import Effective


def common_arguments(
    facts: Facts, effective: Effective, checkpoints: Path, *, evaluated: bool, resumed: bool
) -> dict[str, Any]:
    """The arguments that every trainer of transformers and TRL shares."""
    train = _train(facts)
    return {
        "output_dir": str(checkpoints),
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.lr_scheduler_type,
        "lr_scheduler_kwargs": dict(train.lr_scheduler_kwargs) or None,
        "warmup_steps": train.warmup_steps,
        "optim": effective.optim,
        "weight_decay": train.weight_decay,
        "adam_beta1": train.adam_beta1,
        "adam_beta2": train.adam_beta2,
        # Trainer clips only above zero; None would be compared with a number there.
        "max_grad_norm": train.max_grad_norm or 0.0,
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "per_device_eval_batch_size": train.per_device_eval_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps or -1,
        "bf16": effective.device == "cuda" and effective.dtype == "bfloat16",
        "fp16": effective.device == "cuda" and effective.dtype == "float16",
        "use_cpu": effective.device == "cpu",
        "gradient_checkpointing": effective.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if effective.checkpointing else None,
        "use_liger_kernel": effective.liger,
        "neftune_noise_alpha": train.neftune_noise_alpha,
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        # A NaN loss must be seen as NaN: the filter would log the average before it instead.
        "logging_nan_inf_filter": False,
        "seed": train.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": effective.device == "cuda",
        **_saving(train),
        **_evaluation(train, evaluated=evaluated, resumed=resumed),
    }


def _train(facts: Facts) -> TrainFacts:
    if facts.train is None:
        raise LoraAdviseError("the plan has no train section, so it cannot be run; make one with: lora-advise --emit.")
    return facts.train


def _saving(train: TrainFacts) -> dict[str, Any]:
    steps = train.save_steps or train.eval_steps or train.logging_steps
    return {
        "save_strategy": train.save_strategy,
        "save_steps": steps,
        "save_total_limit": train.save_total_limit,
    }


def _evaluation(train: TrainFacts, *, evaluated: bool, resumed: bool) -> dict[str, Any]:
    if not evaluated or train.eval_strategy == "no":
        return {"eval_strategy": "no"}
    arguments: dict[str, Any] = {
        "eval_strategy": train.eval_strategy,
        "eval_steps": train.eval_steps or train.save_steps or train.logging_steps,
        # The loss before the first step is what every later one is judged by.
        "eval_on_start": not resumed,
    }
    if train.load_best_model_at_end:
        metric = train.metric_for_best_model or "eval_loss"
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": not metric.endswith("loss"),
        }
    return arguments


def trainer_arguments(facts: Facts, trainer: str, masking: dict[str, bool], deviations: list[str]) -> dict[str, Any]:
    """The arguments of one kind of trainer alone."""
    train = _train(facts)
    if trainer == "sft":
        return {"max_length": train.max_length, "packing": train.packing, **masking}
    if train.packing:
        deviations.append(f"train.packing: {trainer} training does not pack; every example is a row of its own.")
    if trainer == "classification":
        return {"label_names": ["labels"]}
    if trainer == "reward":
        return {"max_length": train.max_length}
    beta = {} if train.beta is None else {"beta": train.beta}
    if trainer == "grpo":
        grpo: dict[str, Any] = {
            "num_generations": train.num_generations,
            "max_completion_length": train.max_completion_length,
        }
        return {**beta, **{key: value for key, value in grpo.items() if value is not None}}
    if trainer == "simpo":
        # SimPO is CPO's trainer with the SimPO loss and without the behaviour-cloning term.
        return {**beta, "loss_type": "simpo", "cpo_alpha": 0.0, "max_length": train.max_length}
    return {**beta, "max_length": train.max_length}


def build_arguments(config: Any, wanted: dict[str, Any], deviations: list[str]) -> Any:
    """Make the trainer's arguments; a name that this version does not know is a stated deviation.

    Raises :class:`LoraAdviseError` with the trainer's own reason when it refuses the values.
    """
    known = {field.name for field in fields(config) if field.init}
    for name in sorted(set(wanted) - known):
        if wanted[name] not in (None, False):
            deviations.append(
                f"{name} {wanted[name]!r}: {config.__name__} of the installed version has no such argument."
            )
    try:
        return config(**{name: value for name, value in wanted.items() if name in known})
    except (ValueError, TypeError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LoraAdviseError(f"{config.__name__} refuses the plan: {reason}") from error


def without_router_loss(config: Any, arguments: Any) -> bool:
    """Switch the routers' balancing loss off where TRL would look for a count that the model's config does not have.

    TRL 1.16 reads ``num_experts``, which Granite and Phi mixtures call ``num_local_experts``; the first step would fail.
    """
    text = config.get_text_config()
    wanted = hasattr(arguments, "router_aux_loss_coef") and hasattr(text, "output_router_logits")
    if not wanted or hasattr(text, "num_experts"):
        return False
    arguments.router_aux_loss_coef = 0.0
    return True
