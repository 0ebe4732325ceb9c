"""The real trainer of a plan around a model on the meta device, and the batches that it would see."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, TaskFacts, TrainFacts
from lora_advise.memory_case import length_of
from lora_advise.runner.adapter_config import lora_config
from lora_advise.runner.builtin import builtin_model_path
from lora_advise.runner.device import Effective
from lora_advise.runner.meta_device import adapted
from lora_advise.runner.meta_optimizer import optimizer_for
from lora_advise.runner.train_args import build_arguments, common_arguments, trainer_arguments, without_router_loss
from lora_advise.runner.trainers import trainer_classes

REHEARSED = ("sft", "dpo", "reward", "classification")
"""Trainers whose steps are rehearsed."""
FRAMEWORKS = ("trl", "transformers", "peft")
"""Frameworks whose code is installed with the runner."""


class Rig(NamedTuple):
    """A trainer with the model as accelerate wraps it, its optimizer, and the rows of a micro-batch."""

    trainer: Any
    model: Any
    optimizer: Any
    rows: list[dict[str, Any]]


def rig(facts: Facts, model: Any, folder: Path, *, half_adapters: bool = False) -> Rig:
    """Attach the adapter and build the trainer as the plan's framework does; ``half_adapters`` makes them 16 bits wide.

    Raises LoraAdviseError where it cannot.
    """
    task, train = _sections(facts)
    framework = facts.stack.framework if facts.stack else "trl"
    arguments = _arguments(facts, task, train, folder)
    own = framework != "trl" or task.trainer == "classification"
    trainer = (_plain if own else _trl)(facts, task, model, arguments)
    if half_adapters:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    if arguments.gradient_checkpointing:
        # Trainer does this when training begins.
        enable = getattr(trainer.model, "activation_checkpointing_enable", trainer.model.gradient_checkpointing_enable)
        enable(arguments.gradient_checkpointing_kwargs)
    prepared = trainer.model
    if framework != "peft":
        prepared = trainer.accelerator.prepare_model(trainer.model, device_placement=False)
    trainer.model_wrapped = prepared
    trainer.current_gradient_accumulation_steps = train.gradient_accumulation_steps
    trainer.optimizer = optimizer_for(train.optim, trainer)
    return Rig(trainer, prepared, trainer.optimizer, _rows(facts, task, train))


def _sections(facts: Facts) -> tuple[TaskFacts, TrainFacts]:
    task = facts.task or TaskFacts(name="chat", family="sft")
    framework = facts.stack.framework if facts.stack else "trl"
    if facts.train is None:
        raise LoraAdviseError("A rehearsal needs the plan's training section; give a batch size and a length.")
    if framework not in FRAMEWORKS:
        raise LoraAdviseError(
            f"--exact runs the installed transformers, PEFT and TRL; the code of {framework} is not among them. Leave "
            "--exact out, or give --framework trl."
        )
    if task.trainer not in REHEARSED:
        raise LoraAdviseError(
            f"--exact rehearses {', '.join(REHEARSED)}; for {task.trainer} leave it out: the closed form has a bound."
        )
    if facts.stack is not None and facts.stack.sharding not in ("none", "ddp"):
        raise LoraAdviseError(
            f"--exact rehearses one device; for {facts.stack.sharding} leave it out: the closed form covers sharding."
        )
    return task, facts.train


def _arguments(facts: Facts, task: TaskFacts, train: TrainFacts, folder: Path) -> Any:
    """The runner's own arguments, on a device that is not there."""
    effective = Effective(
        device="cuda", dtype=train.dtype, attention=train.attn_implementation, optim=train.optim,
        checkpointing=train.activation_checkpointing, liger=False,
    )  # fmt: skip
    wanted = common_arguments(facts, effective, folder, evaluated=False, resumed=True)
    wanted |= trainer_arguments(facts, task.trainer, {}, [])
    if facts.stack is not None and facts.stack.framework == "peft":
        # A hand-written loop has no autocast around the model.
        wanted |= {"bf16": False, "fp16": False}
    wanted |= {"use_cpu": True, "dataloader_pin_memory": False, "optim": "adamw_torch", "save_strategy": "no"}
    config = trainer_classes(task.trainer)[1]
    if task.trainer != "classification" and facts.stack is not None and facts.stack.framework != "trl":
        import transformers

        config = transformers.TrainingArguments
    made = type("OnMeta", (config,), {"device": property(_device), "place_model_on_device": property(_never)})
    return build_arguments(made, wanted, [])


def _device(arguments: Any) -> torch.device:
    arguments._setup_devices  # noqa: B018
    return torch.device("meta")


def _never(_: Any) -> bool:
    return False


def _trl(facts: Facts, task: TaskFacts, model: Any, arguments: Any) -> Any:
    """TRL's trainer, which casts, wraps and patches the model itself."""
    made = trainer_classes(task.trainer)[0]
    adapter = None if facts.lora is None else lora_config(facts.lora, task, model, [])
    if task.trainer == "sft":
        without_router_loss(model.config, arguments)
        arguments.dataset_kwargs = {"skip_prepare_dataset": True}
    return made(
        model=model, args=arguments, train_dataset=_dataset(task.trainer), processing_class=_tokenizer(),
        **({} if adapter is None else {"peft_config": adapter}),
    )  # fmt: skip


def _plain(facts: Facts, task: TaskFacts, model: Any, arguments: Any) -> Any:
    """transformers' Trainer, or the parts of it that a hand-written loop of PEFT's documentation has."""
    import peft
    from transformers import Trainer

    if facts.lora is not None:
        if facts.quant is not None and facts.quant.load_in_4bit:
            model = peft.prepare_model_for_kbit_training(
                model, use_gradient_checkpointing=arguments.gradient_checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False},
            )  # fmt: skip
        model = adapted(model, lora_config(facts.lora, task, model, []))
        if arguments.gradient_checkpointing:
            model.enable_input_require_grads()
    return Trainer(model=model, args=arguments, train_dataset=_dataset(task.trainer), data_collator=_stack)


def _stack(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(builtin_model_path()))


def _dataset(trainer: str) -> Any:
    """A small set of the trainer's kind; the rows of the step are made apart."""
    from datasets import Dataset

    if trainer in ("dpo", "reward"):
        return Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    return Dataset.from_list([{"input_ids": [1, 1], "labels": [1, 1]}] * 2)


def _rows(facts: Facts, task: TaskFacts, train: TrainFacts) -> list[dict[str, Any]]:
    """The rows of one micro-batch, all of the longest length."""
    length, count = length_of(facts, train), train.per_device_train_batch_size
    tokens = [1] * length
    row: dict[str, Any] = {"input_ids": tokens, "labels": tokens}
    if task.trainer == "classification":
        row = {"input_ids": tokens, "attention_mask": tokens, "labels": 0}
    elif task.trainer == "dpo":
        answer = max(1, min(facts.data.completion_tokens if facts.data else length // 2, length - 1))
        row = {"prompt_ids": tokens[answer:], "chosen_ids": tokens[:answer], "rejected_ids": tokens[:answer]}
    elif task.trainer == "reward":
        row = {"chosen_ids": tokens, "rejected_ids": tokens}
    elif facts.stack is not None and facts.stack.framework != "trl":
        row["attention_mask"] = tokens
    elif train.packing:
        each = max(1, min(facts.data.tokens_per_example if facts.data else length, length))
        row["seq_lengths"] = [each] * (length // each) + ([length % each] if length % each else [])
    return [dict(row) for _ in range(count)]
