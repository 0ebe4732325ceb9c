"""What a training run left behind: log, memory, speed, adapter signals, samples.

Our runner writes it; the log of any other trainer can be read as one.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from lora_advise.atomic_file import write_text
from lora_advise.errors import LoraAdviseError
from lora_advise.section import AtLeast, Section, field, to_json

RUN_VERSION = 1
"""Version of run.json; raised when a field changes its meaning."""

MAX_LOG_BYTES = 64 * 2**20
"""Larger logs are refused: 100,000 entries with every field of the Trainer take about 20 MiB."""

Outcome = Literal["finished", "interrupted", "failed"]


class LogEntry(Section):
    """One entry of the trainer's log. ``None`` is "not logged"; NaN is a NaN that was logged."""

    step: Annotated[int, AtLeast(0)]
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    mean_token_accuracy: float | None = None
    eval_mean_token_accuracy: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    """Every other number that was logged, by the trainer's name: ``rewards/margins``, ``entropy``, ``num_tokens``."""


class AdapterSignal(Section):
    """The adapter after one step, over all LoRA pairs. Norms are Frobenius."""

    step: Annotated[int, AtLeast(0)]
    norm_b: float
    """Root of the summed squares of every B; 0 as long as nothing was trained."""
    norm_a: float
    relative_update_median: float | None = None
    """Median of scale * ||B A|| / ||W|| over the adapted matrices whose base weight can be read."""
    relative_update_max: float | None = None
    a_drift: float | None = None
    """||A - A0|| / ||A0|| over every A, since this process started."""
    effective_rank_median: float | None = None
    """Median stable rank of B A: squared Frobenius norm over squared spectral norm."""
    clipped_share: float | None = None
    """Share of the logged steps so far whose gradient norm exceeded ``max_grad_norm``."""


class Memory(Section):
    """Measured peaks in bytes. The device's are ``None`` where the run had no accelerator."""

    peak_allocated: int | None = None
    peak_reserved: int | None = None
    peak_host_rss: int | None = None
    context: int | None = None
    """What the driver counted as used beyond torch's reserved memory when training ended; other processes included."""
    predicted: int | None = None
    """What the memory forecast of the plan said for one device."""


class Throughput(Section):
    """Speed of the training steps, evaluation and saving included."""

    samples_per_s: float | None = None
    steps_per_s: float | None = None
    tokens_per_s: float | None = None


class Sample(Section):
    """Greedy answers to one held-out prompt, with the adapter switched off and on."""

    prompt: str
    expected: str
    before: str
    after: str


class Run(Section):
    """One training run. Only the log is always there: a foreign log knows no more."""

    version: int = RUN_VERSION
    source: Literal["lora-advise", "trainer_state", "log_history"] = "lora-advise"
    started: str | None = None
    ended: str | None = None
    """UTC, ISO 8601."""
    wall_s: float | None = None
    device: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    max_steps: int | None = None
    """Optimizer steps that were planned."""
    num_train_epochs: float | None = None
    logging_steps: float | None = None
    steps_done: int | None = None
    epochs_done: float | None = None
    log: tuple[LogEntry, ...] = ()
    memory: Memory | None = None
    throughput: Throughput | None = None
    trainable_params: int | None = None
    total_params: int | None = None
    signals: tuple[AdapterSignal, ...] = ()
    samples: tuple[Sample, ...] = ()
    deviations: tuple[str, ...] = ()
    """Where the run differs from the plan, one sentence each."""
    exact_match_before: float | None = None
    exact_match_after: float | None = None
    """Share of held-out answers that equal the reference, base model and adapter; over ``exact_match_rows`` rows."""
    exact_match_rows: int | None = None
    outcome: Outcome | None = None
    message: str | None = None


_NAMED = ("loss", "eval_loss", "learning_rate", "grad_norm", "mean_token_accuracy", "eval_mean_token_accuracy")


def log_entries(history: list[dict[str, Any]]) -> tuple[LogEntry, ...]:
    """The trainer's ``log_history`` as entries; its closing summary and entries without a step are left out."""
    entries = []
    for raw in history:
        if not isinstance(raw, dict) or "train_runtime" in raw:
            continue
        step = _number(raw.get("step"))
        if step is None or not 0 <= step < 2**53:
            continue
        numbers = {str(key)[:80]: _number(value) for key, value in raw.items() if key not in {"step", "epoch"}}
        named = {key: numbers.get(key) for key in _NAMED}
        extra = {key: value for key, value in numbers.items() if value is not None and key not in _NAMED}
        entries.append(LogEntry(step=int(step), epoch=_number(raw.get("epoch")), **named, extra=extra))
    return tuple(entries)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def read_run(path: Path) -> Run:
    """Read ``run.json``, a Hugging Face ``trainer_state.json``, or a bare list of log entries (JSON or JSON lines).

    A folder is searched for these names. Raises :class:`LoraAdviseError` for a file that is absent, too large or none
    of these.
    """
    path = _log_file(path)
    content = _parse(path)
    if isinstance(content, list):
        return _foreign(path, content, "log_history", {})
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        return _foreign(path, content["log_history"], "trainer_state", content)
    if isinstance(content, dict) and "log" in content:
        from lora_advise.checked import FactError, checked

        try:
            return checked(Run, content)
        except FactError as error:
            raise LoraAdviseError(f"{path}: not a run record of lora-advise {RUN_VERSION}: {error}") from error
    raise LoraAdviseError(
        f"{path}: holds no training log; give a run.json, a trainer_state.json, or a JSON list of log entries."
    )


def _log_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("run.json", "trainer_state.json", "log_history.json"):
            if (path / name).is_file():
                return path / name
        states = sorted(path.glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
        if states:
            return states[-1]
        raise LoraAdviseError(f"{path}: this folder holds no run.json and no trainer_state.json; name the log file.")
    if not path.is_file():
        raise LoraAdviseError(f"{path}: there is no such log file; name a run.json or a trainer_state.json.")
    size = path.stat().st_size
    if size > MAX_LOG_BYTES:
        raise LoraAdviseError(
            f"{path}: {size / 2**20:.0f} MiB is more than the {MAX_LOG_BYTES // 2**20} MiB of a training log; "
            "cut it to its log_history."
        )
    return path


def _parse(path: Path) -> object:
    """JSON with bare NaN and Infinity allowed, or one JSON object per line."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoraAdviseError(f"{path}: not a UTF-8 text file; a training log is JSON.") from error
    try:
        content: object = json.loads(text)
    except RecursionError as error:
        raise LoraAdviseError(f"{path}: nested too deeply for a training log.") from error
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            rows = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            rows = []
        if len(rows) < 2:
            raise LoraAdviseError(f"{path}: not JSON ({error}); give a run.json or a trainer_state.json.") from error
        return rows
    # One entry on one line is JSON lines too.
    return [content] if isinstance(content, dict) and "step" in content and "log" not in content else content


def _foreign(
    path: Path, history: list[Any], source: Literal["trainer_state", "log_history"], state: dict[str, Any]
) -> Run:
    entries = log_entries(history)
    if history and not entries:
        raise LoraAdviseError(f"{path}: none of its {len(history)} log entries has a step; is this a training log?")
    closing = next((row for row in reversed(history) if isinstance(row, dict) and "train_runtime" in row), {})
    planned, epochs = _number(state.get("max_steps")), _number(state.get("num_train_epochs"))
    done = _number(state.get("global_step"))
    every = _number(state.get("logging_steps"))
    return Run(
        source=source,
        wall_s=_number(closing.get("train_runtime")),
        max_steps=int(planned) if planned is not None and 0 < planned < 2**53 else None,
        num_train_epochs=epochs,
        logging_steps=every if every and every > 0 else None,
        steps_done=int(done)
        if done is not None and 0 <= done < 2**53
        else max((e.step for e in entries), default=None),
        epochs_done=next((e.epoch for e in reversed(entries) if e.epoch is not None), None),
        log=entries,
        throughput=Throughput(
            samples_per_s=_number(closing.get("train_samples_per_second")),
            steps_per_s=_number(closing.get("train_steps_per_second")),
        )
        if closing
        else None,
        outcome="finished" if closing else None,
    )


def write_run(run: Run, path: Path) -> None:
    """Write the run as JSON, whole or not at all."""
    write_text(path, to_json(run, indent=1))
