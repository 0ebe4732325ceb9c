"""Live progress of a run: one bar in a terminal, one line per log entry elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows step, loss, evaluation loss, learning rate and the time that is left."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._bar: Any = None
        self._task: Any = None
        self._began: float | None = None
        self._first = 0
        self._loss = ""
        self._eval = ""

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Open the bar."""
        self._began = None
        self._first = state.global_step
        if self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, values="")

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The time that is left is reckoned from the first step: an evaluation may come before it."""
        if self._began is None:
            self._began = time.monotonic()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show what was logged."""
        logs = logs or {}
        if "loss" in logs:
            rate = logs.get("learning_rate")
            self._loss = f"loss {float(logs['loss']):.4f}" + ("" if rate is None else f"  lr {float(rate):.2e}")
            self._show(state, self._loss)
        if "eval_loss" in logs:
            self._eval = f"eval loss {float(logs['eval_loss']):.4f}"
            self._show(state, self._eval)

    def _show(self, state: Any, line: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, values="  ".join(filter(None, (self._loss, self._eval))))
            return
        done = state.global_step - self._first
        left = ""
        if done > 0 and self._began is not None:
            seconds = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)
            left = f"  about {timedelta(seconds=round(seconds))} left"
        self._console.print(f"step {state.global_step}/{state.max_steps}  {line}{left}", markup=False, highlight=False)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
