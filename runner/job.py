"""Everything that one training run needs, made from the plan before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts, Facts, TaskFacts, TrainFacts
from lora_advise.run_facts import AdapterSignal
from lora_advise.runner.adapter_config import lora_config
from lora_advise.runner.chat import ensure_template, mask_rows
from lora_advise.runner.data_rows import Row, read_rows, split
from lora_advise.runner.data_shapes import shape_rows
from lora_advise.runner.device import Effective, settle
from lora_advise.runner.launch import main_process, on_these_devices, processes
from lora_advise.runner.load_model import load_base, load_tokenizer
from lora_advise.runner.optimizer_groups import optimizer_for
from lora_advise.runner.progress import Progress
from lora_advise.runner.run_folder import CHECKPOINTS
from lora_advise.runner.train_args import build_arguments, common_arguments, trainer_arguments, without_router_loss
from lora_advise.runner.trainers import build_trainer, trainer_classes
from lora_advise.runner.watch import Interrupts, Watch


@dataclass(slots=True)
class Job:
    """A run that is ready to start. ``facts`` are those in effect on these devices."""

    facts: Facts
    trainer: Any
    tokenizer: Any
    held_out: list[Row]
    """Shaped evaluation rows, before tokenisation."""
    effective: Effective
    interrupts: Interrupts
    watch: Watch
    progress: Progress
    deviations: list[str]


def make_job(facts: Facts, out: Path, console: Any, *, resumed: bool, signals: tuple[AdapterSignal, ...] = ()) -> Job:
    """Load data and model, attach the adapter and build the trainer.

    Raises :class:`LoraAdviseError` for anything of the plan that cannot be run, before the first step.
    """
    task, data, train = _sections(facts)
    deviations: list[str] = []
    facts = on_these_devices(facts, deviations)
    _stack(facts, deviations)
    classes = trainer_classes(task.trainer)
    rows = load_rows(data, task, train, deviations)
    effective = settle(facts)
    effective.deviations = deviations = deviations + effective.deviations
    if facts.model is None:
        raise LoraAdviseError("the plan names no model; make one with: lora-advise MODEL --emit.")
    tokenizer = load_tokenizer(facts.model)
    ensure_template(tokenizer, rows[0], deviations)
    masking: dict[str, bool] = {}
    if task.trainer == "sft":
        train_rows, masking = mask_rows(rows[0], train.loss_on, tokenizer, deviations)
        rows = (train_rows, mask_rows(rows[1], train.loss_on, tokenizer, [])[0])
    wanted = common_arguments(facts, effective, out / CHECKPOINTS, evaluated=bool(rows[1]), resumed=resumed)
    arguments = build_arguments(
        classes[1], wanted | trainer_arguments(facts, task.trainer, masking, deviations), deviations
    )
    if processes() == 1:
        # Several visible GPUs would otherwise be used through nn.DataParallel, which the plan does not mean.
        arguments._n_gpu = min(1, arguments.n_gpu)
    model = load_base(facts, effective, tokenizer, _classes(rows, task))
    if without_router_loss(model.config, arguments):
        deviations.append(
            "The routers' balancing loss is off: TRL does not find the number of experts in this model's config."
        )
    adapter = None if facts.lora is None else lora_config(facts.lora, task, model, deviations)
    interrupts, watch, progress = Interrupts(), Watch(train.max_grad_norm, signals), Progress(console)
    callbacks = [interrupts, watch, *([progress] if main_process() else []), *_patience(train, arguments, deviations)]
    trainer = build_trainer(facts, classes, arguments, model, adapter, tokenizer, rows, callbacks)
    _finish(facts, trainer, rows[0], effective)
    return Job(facts, trainer, tokenizer, rows[1], effective, interrupts, watch, progress, deviations)


def _sections(facts: Facts) -> tuple[TaskFacts, DataFacts, TrainFacts]:
    for name, section in (("task", facts.task), ("data", facts.data), ("train", facts.train)):
        if section is None:
            raise LoraAdviseError(
                f"the plan has no {name} section, so it cannot be run; make a plan with: lora-advise --emit."
            )
    if facts.task is None or facts.data is None or facts.train is None:
        raise AssertionError
    if facts.data.path is None:
        raise LoraAdviseError(
            "the plan names no data file (data.path), so there is nothing to train on; name one with --data."
        )
    return facts.task, facts.data, facts.train


def _stack(facts: Facts, deviations: list[str]) -> None:
    if facts.stack is None:
        return
    if facts.stack.framework != "trl":
        deviations.append(f"stack.framework {facts.stack.framework}: this runner trains with TRL and transformers.")
    if facts.stack.cpu_offload and facts.stack.sharding == "none":
        deviations.append("stack.cpu_offload: a run on one device does not offload.")


def load_rows(
    data: DataFacts, task: TaskFacts, train: TrainFacts, deviations: list[str]
) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows in the trainer's shape; the split is the same for the same seed."""
    raw = read_rows(Path(data.path or ""))
    rows = shape_rows(raw, data, task)
    if len(rows) < len(raw):
        deviations.append(f"{len(raw) - len(rows)} of {len(raw)} rows of {data.path} are empty and are left out.")
    if train.eval_strategy == "no":
        return rows, []
    if data.eval_path:
        held = shape_rows(read_rows(Path(data.eval_path)), data.changed({"path": data.eval_path}), task)
        return rows, held
    return split(rows, train.eval_share, train.seed)


def _classes(rows: tuple[list[Row], list[Row]], task: TaskFacts) -> list[Any] | None:
    """The classes of a classifier, in an order that does not depend on the rows' order."""
    if task.trainer != "classification":
        return None
    found = {str(row["label"]) for row in (*rows[0], *rows[1])}
    if len(found) < 2:
        raise LoraAdviseError(
            f"the data has one class only ({next(iter(found))[:60]!r}); classification needs two or more."
        )
    return sorted(found, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))


def _patience(train: TrainFacts, arguments: Any, deviations: list[str]) -> list[Any]:
    if train.early_stopping_patience is None:
        return []
    if not arguments.load_best_model_at_end:
        deviations.append("train.early_stopping_patience: needs evaluation and load_best_model_at_end, so it is off.")
        return []
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=train.early_stopping_patience)]


def _finish(facts: Facts, trainer: Any, rows: list[Row], effective: Effective) -> None:
    """Last touches on a built trainer: own optimizer, adapter precision, silence, what became of the rows."""
    import torch
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for owner, name in ((trainer, "create_model_card"), (trainer.model, "create_or_update_model_card")):
        if hasattr(owner, name):
            # A card in every checkpoint, from a template that is compiled each time; the result gets one of our own.
            setattr(owner, name, _no_card)
    if effective.dtype == "float32":
        # TRL stores the adapter of a quantised base in bfloat16; a float32 run keeps all of it in float32.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad and parameter.dtype is torch.bfloat16:
                parameter.data = parameter.data.float()
    optimizer = optimizer_for(facts, trainer)
    if optimizer is not None:
        trainer.optimizer = optimizer
    _account(facts, trainer, rows, effective.deviations)


def _no_card(*_: Any, **__: Any) -> None:
    """Write no model card."""


def _account(facts: Facts, trainer: Any, rows: list[Row], deviations: list[str]) -> None:
    """Say which rows the trainer dropped or cut, and refuse a set in which nothing carries loss."""
    train = facts.train
    columns = trainer.train_dataset.column_names
    if train is None or train.packing:
        return
    dropped = len(rows) - len(trainer.train_dataset)
    if dropped > 0:
        deviations.append(
            f"{dropped} of {len(rows)} training rows do not fit into train.max_length {train.max_length} "
            "and are left out."
        )
    if len(trainer.train_dataset) == 0:
        raise LoraAdviseError(f"no training row fits into train.max_length {train.max_length}; raise it.")
    if "input_ids" in columns and "labels" in columns:
        ids, labels = trainer.train_dataset["input_ids"], trainer.train_dataset["labels"]
        cut = sum(len(row) >= train.max_length for row in ids)
        if cut:
            deviations.append(
                f"{cut} of {len(rows)} training rows are cut at train.max_length {train.max_length} tokens."
            )
        if isinstance(labels[0], list):
            mute = sum(all(label == -100 for label in row) for row in labels)
            if mute == len(trainer.train_dataset):
                raise LoraAdviseError(
                    "no training row has a token that carries loss: every completion lies beyond train.max_length."
                )
            if mute:
                deviations.append(
                    f"{mute} training rows have no token that carries loss: their completion lies beyond "
                    f"train.max_length {train.max_length}."
                )
