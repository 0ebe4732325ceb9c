"""What is watched while training: interrupts, losses that are no numbers, the adapter's signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from lora_advise.run_facts import AdapterSignal
from lora_advise.runner.adapter_signals import Pair, find_pairs, measure


class Interrupts(TrainerCallback):  # type: ignore[misc]
    """The first Ctrl-C ends the run after the current step, with a checkpoint; the second aborts at once."""

    def __init__(self) -> None:
        self.asked = False
        self.training = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """What the signal does."""
        if self.asked or not self.training:
            raise KeyboardInterrupt
        self.asked = True

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """From here a step can be finished."""
        self.training = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """From here there is no step to finish."""
        self.training = False

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> Any:
        """Save and stop when asked to."""
        if self.asked:
            # The weights of the last step are what the user goes on from, not the best ones so far.
            args.load_best_model_at_end = False
            control.should_save = True
            control.should_training_stop = True
        return control


@contextmanager
def interruptible(interrupts: Interrupts) -> Iterator[None]:
    """Ctrl-C goes to ``interrupts`` inside; elsewhere than in the main thread it stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reads the log as it is written: stops at a loss that is no number, and measures the adapter."""

    def __init__(self, max_grad_norm: float | None, signals: tuple[AdapterSignal, ...] = ()) -> None:
        self.problem: str | None = None
        self.signals = list(signals)
        self._limit = max_grad_norm
        self._norms = 0
        self._clipped = 0
        self._pairs: tuple[Pair, ...] = ()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        """Remember where the adapter starts."""
        self.signals = [s for s in self.signals if s.step <= state.global_step]
        self._pairs = find_pairs(model)
        if self._pairs and not self.signals:
            self.signals.append(measure(self._pairs, state.global_step, None))

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> Any:
        """Judge one entry of the log."""
        logs = logs or {}
        if "loss" not in logs:
            return control
        norm = logs.get("grad_norm")
        if norm is not None and self._limit:
            self._norms += 1
            self._clipped += float(norm) > self._limit
        if not isfinite(float(logs["loss"])):
            self.problem = (
                f"The loss is {float(logs['loss'])} at step {state.global_step}, so training was stopped: lower "
                "train.learning_rate, or look for rows without a supervised token."
            )
            control.should_training_stop = True
        elif self._pairs:
            share = self._clipped / self._norms if self._norms else None
            self.signals.append(measure(self._pairs, state.global_step, share))
        return control
