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
        groups = optimizer.param_groups
    else:
        optimizer = made(_decay_groups(trainer, train.weight_decay), **arguments)
        groups = optimizer.param_groups
    if train.embedding_learning_rate is not None:
        groups = _with_embedding_rate(trainer.model, groups, train.embedding_learning_rate)
    # A scheduler may not meet the empty groups that PEFT makes for kinds of weights that are not there.
    optimizer.param_groups[:] = [group for group in groups if group["params"]]
    return optimizer


def _decay_groups(trainer: Any, decay: float) -> list[dict[str, Any]]:
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    trained = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": decay},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]


def _with_embedding_rate(model: Any, groups: list[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    """The groups with every embedding weight moved into a twin of its group that has the embeddings' rate."""
    embeddings = {id(p) for name, p in model.named_parameters() if any(part in name for part in EMBEDDINGS)}
    twins = [{**group, "lr": rate, "params": [p for p in group["params"] if id(p) in embeddings]} for group in groups]
    if not any(twin["params"] for twin in twins):
        raise LoraAdviseError(
            "train.embedding_learning_rate: no embedding is trained; "
            "add embed_tokens to lora.modules_to_save, or leave the rate out."
        )
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in embeddings]} for group in groups]
    return rest + twins
