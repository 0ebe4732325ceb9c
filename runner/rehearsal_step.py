"""The steps of a rehearsal: the real trainer's, on the meta device, with every storage followed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from lora_advise.facts import Facts
from lora_advise.runner.caching_allocator import reserved_by
from lora_advise.runner.cuda_shapes import CudaShapes
from lora_advise.runner.meta_device import cuda_like
from lora_advise.runner.meta_model import Blueprint, build, held_by, layers_of
from lora_advise.runner.meta_repairs import repairs
from lora_advise.runner.meta_trainer import Rig, rig
from lora_advise.runner.storage_trace import Peak, StorageTrace


class Traced(NamedTuple):
    """One traced depth: the peak of every stage, what the allocator reserved, and the trained parameters."""

    depth: int
    peaks: dict[str, Peak]
    reserved: int
    trained: int


def trace(
    plan: Blueprint,
    facts: Facts,
    depth: int,
    *,
    half_adapters: bool = False,
    padded: bool | None = None,
    once: bool = False,
) -> Traced:
    """Two optimizer steps (or ``once`` one) and one evaluation step of the plan with that many layers.

    Several rows count as ``padded`` unless it is said that they are not.
    """
    shapes = CudaShapes()
    if padded is None:
        padded = facts.train is not None and facts.train.per_device_train_batch_size > 1
    with TemporaryDirectory() as folder, repairs(plan.class_name), cuda_like(shapes, padded=padded):
        model = build(plan, facts, depth)
        layers = layers_of(model, depth)
        made = rig(facts, model, Path(folder), half_adapters=half_adapters)
        watch = StorageTrace(padded=padded)
        trained = [p for p in made.model.parameters() if p.requires_grad]
        watch.hold(held_by(made.model), "weights")
        watch.hold(trained, "adapters" if facts.lora else "weights")
        mark = _Marks(watch, layers)
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(lambda p: watch.hold([p.grad], "gradients"))
        with shapes, watch:
            _steps(made, watch, mark, facts, once=once)
    return Traced(depth, watch.peaks, reserved_by(watch.events), sum(p.numel() for p in trained))


class _Marks:
    """Tells the trace which stage it is in, by hooks on the layers."""

    def __init__(self, watch: StorageTrace, layers: list[Any]) -> None:
        self._watch, self._backward, self._last = watch, False, len(layers) - 1
        for index, layer in enumerate(layers):
            layer.register_forward_hook(self._after(index))

    def begin(self, stage: str) -> None:
        """A forward pass begins, of that stage."""
        self._backward = False
        self._watch.enter(stage, "activations")

    def _after(self, index: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            if self._backward:
                # A layer that is computed again for its backward pass.
                return
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(hidden, torch.Tensor) and hidden.requires_grad:
                hidden.register_hook(lambda _: self._reached(index))
            if index == self._last:
                self._watch.enter("loss" if torch.is_grad_enabled() else "evaluation, loss", "loss")

        return hook

    def _reached(self, index: int) -> None:
        self._backward = True
        self._watch.enter(f"backward {index}", "backward")


def _steps(made: Rig, watch: StorageTrace, mark: _Marks, facts: Facts, *, once: bool) -> None:
    """A first step, which makes the optimizer's states; a second at full height; an evaluation."""
    train = facts.train
    accumulated = train is not None and train.gradient_accumulation_steps > 1
    clip = train.max_grad_norm if train is not None else 1.0
    for micro_batches in (1,) if once else (1, 2 if accumulated else 1):
        for _ in range(micro_batches):
            mark.begin("forward")
            _micro_batch(made, facts)
        watch.enter("clipping", "step")
        if clip:
            made.trainer.accelerator.clip_grad_norm_(made.model.parameters(), clip)
        watch.enter("optimizer step", "step")
        made.optimizer.step()
        watch.hold([t for state in made.optimizer.state.values() for t in state.values() if _kept(t)], "optimizer")
        made.model.zero_grad()
    if train is not None and train.eval_strategy != "no":
        mark.begin("evaluation")
        made.model.eval()
        rows = (made.rows * train.per_device_eval_batch_size)[: train.per_device_eval_batch_size]
        made.trainer.prediction_step(made.model, made.trainer.data_collator(rows), prediction_loss_only=True)


def _kept(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def _micro_batch(made: Rig, facts: Facts) -> None:
    batch = made.trainer.data_collator(made.rows)
    if facts.stack is not None and facts.stack.framework == "peft":
        # As PEFT's documentation writes it: the outputs live through the backward pass, and hold the logits.
        outputs = made.model(**made.trainer._prepare_inputs(batch))
        outputs.loss.backward()
        return
    count = made.trainer._get_num_items_in_batch([batch], torch.device("meta"))
    made.trainer.training_step(made.model, batch, count)
