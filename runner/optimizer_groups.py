"""Optimizers with more than one learning rate: LoRA+ and a rate of its own for embeddings."""

from __future__ import annotations

from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "lora_embedding", "trainable_tokens")


def optimizer_for(facts: Facts, trainer: Any) -> Any | None:
    """The optimizer that the plan asks for, or ``None`` when the trainer's own has every wanted rate."""
    train, lora = facts.train, facts.lora
    if train is None:
        return None
    ratio = lora.loraplus_lr_ratio if lora else None
    if ratio is None and train.embedding_learning_rate is None:
        return None
    made, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    if {"params", "model", "optimizer_dict"} & set(arguments):
        raise LoraAdviseError(f"train.optim {train.optim}: cannot have several learning rates; use adamw_torch.")
    if ratio is not None:
        from peft.optimizers import create_loraplus_optimizer

        rest = {key: value for key, value in arguments.items() if key != "lr"}
        optimizer = create_loraplus_optimizer(
            trainer.model,
            made,
            lr=train.learning_rate,
            loraplus_lr_ratio=ratio,
            loraplus_weight_decay=train.weight_decay,
            loraplus_lr_embedding=train.embedding_learning_rate or train.learning_rate,
            **rest,
        )
        # PEFT makes a group for every kind of weight; a scheduler may not meet an empty one.
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer
    return made(_embedding_groups(trainer, train.embedding_learning_rate, train.weight_decay), **arguments)


def _embedding_groups(trainer: Any, rate: float | None, decay: float) -> list[dict[str, Any]]:
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            embedding = any(part in name for part in EMBEDDINGS)
            groups.setdefault((embedding, name in decayed), []).append(parameter)
    if not any(embedding for embedding, _ in groups):
        raise LoraAdviseError(
            "train.embedding_learning_rate: no embedding is trained; "
            "add embed_tokens to lora.modules_to_save, or leave the rate out."
        )
    return [
        {"params": members, "weight_decay": decay if decays else 0.0, **({"lr": rate} if embedding else {})}
        for (embedding, decays), members in groups.items()
    ]
