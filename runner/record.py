"""Turns a finished, interrupted or failed job into the run record."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lora_advise.calibration import switched_off
from lora_advise.calibration_store import Peaks, add_run, run_of
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.run_facts import Memory, Outcome, Run, Sample, Throughput, log_entries
from lora_advise.runner.device import device_name
from lora_advise.runner.job import Job
from lora_advise.runner.launch import processes

PACKAGES = ("lora-advise", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")
STEPS_TO_PEAK = 2
"""The optimizer's states are there from the end of the first step on."""


@dataclass(slots=True)
class Ending:
    """How training ended, and what was asked of the model afterwards."""

    outcome: Outcome
    message: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    """The trainer's closing numbers; empty when it did not get to write them."""
    samples: tuple[Sample, ...] = ()
    matches: tuple[float, float, int] | None = None
    """Share of exact answers before, after, and over how many rows."""
    peaks: Peaks | None = None
    """Device memory of the training steps; ``None`` without a CUDA device."""
    aborted: bool = False
    """Whether it stopped within a step, so that the weights are not to be kept."""


def environment(job: Job) -> dict[str, str]:
    """Versions of everything that the result depends on, and the number formats in use."""
    import torch

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    trained = {str(p.dtype).removeprefix("torch.") for p in job.trainer.model.parameters() if p.requires_grad}
    found |= {
        "dtype": job.effective.dtype,
        "trained_dtype": ", ".join(sorted(trained)),
        "attention": job.effective.attention,
    }
    return found


def host_peak() -> int | None:
    """The largest resident memory of this process in bytes; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory(job: Job, loading: tuple[int, int], peaks: Peaks | None) -> Memory:
    """Measured peaks of the whole run; on a CUDA device the forecast stands beside them.

    ``loading`` is the peak (allocated, reserved) before the first step, ``peaks`` are those of the steps.
    """
    import torch

    if not torch.cuda.is_available():
        return Memory(peak_host_rss=host_peak())
    from lora_advise.memory import estimate

    return Memory(
        peak_allocated=max(loading[0], torch.cuda.max_memory_allocated()),
        peak_reserved=max(loading[1], torch.cuda.max_memory_reserved()),
        peak_host_rss=host_peak(),
        context=peaks.beyond if peaks else None,
        predicted=estimate(in_effect(job)).allocated,
    )


def begin_peaks() -> tuple[int, int]:
    """The peaks so far (allocated, reserved) in bytes, from where those of the training steps are counted anew."""
    import torch

    if not torch.cuda.is_available():
        return 0, 0
    loading = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return loading


def end_peaks() -> Peaks | None:
    """Peaks since :func:`begin_peaks`, and what the driver says now; ``None`` without a CUDA device."""
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return Peaks(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        held=torch.cuda.memory_reserved(),
        used=total - free,
    )


def in_effect(job: Job) -> Facts:
    """The facts as this run really was: what the device changed of the plan, and its longest row in tokens."""
    facts, effective = job.facts, job.effective
    if facts.train is None or facts.data is None:
        return facts
    train = facts.train.changed({
        "dtype": effective.dtype, "attn_implementation": effective.attention, "optim": effective.optim,
        "activation_checkpointing": effective.checkpointing, "use_liger_kernel": effective.liger,
    })  # fmt: skip
    rows = job.trainer.train_dataset
    if train.packing or "input_ids" not in (getattr(rows, "column_names", None) or ()):
        return facts.changed({"train": train})
    longest = max((len(row) for row in rows["input_ids"]), default=0)
    return facts.changed({"train": train, "data": facts.data.changed({"max_tokens": longest or None})})


def calibrate(job: Job, run: Run, peaks: Peaks | None) -> str | None:
    """Keep what this run measured of its device, for the next forecasts; says so in a sentence.

    ``None`` where nothing was measured: no CUDA device, a failed run, or fewer steps than it takes to reach the peak.
    """
    if peaks is None or run.outcome == "failed" or (run.steps_done or 0) < STEPS_TO_PEAK or switched_off():
        return None
    versions = {name: run.environment[name] for name in (*PACKAGES, "cuda") if name in run.environment}
    try:
        made = run_of(in_effect(job), peaks, date=run.ended or now(), versions=versions, devices=processes())
        kept = add_run(run.device or device_name(), made)
    except LoraAdviseError as error:
        return f"This run is not in the calibration: {error}"
    context = f"CUDA context {made.context / 2**30:.2f} GiB" if made.context else "CUDA context unknown"
    factor = made.reserved / made.allocated
    runs = f"{kept.runs} {'run' if kept.runs == 1 else 'runs'}"
    aside = f" The older file was broken and is kept as {kept.aside.name}." if kept.aside else ""
    return f"Calibration: {context}, reserved {factor:.2f} times allocated; {runs} in {kept.path}.{aside}"


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def make_record(
    job: Job,
    ending: Ending,
    *,
    started: str,
    wall_s: float,
    before: Run | None = None,
    loading: tuple[int, int] = (0, 0),
) -> Run:
    """The record of a job; ``before`` is that of the part which was interrupted, ``loading`` the peak before training."""
    state = job.trainer.state
    trained, total = _counts(job.trainer.model)
    return Run(
        started=before.started if before else started,
        ended=now(),
        wall_s=wall_s + (before.wall_s or 0.0 if before else 0.0),
        device=device_name(),
        environment=environment(job),
        max_steps=state.max_steps or None,
        num_train_epochs=job.facts.train.num_train_epochs if job.facts.train else None,
        logging_steps=job.facts.train.logging_steps if job.facts.train else None,
        steps_done=state.global_step,
        epochs_done=state.epoch,
        log=log_entries(state.log_history),
        memory=memory(job, loading, ending.peaks),
        throughput=_throughput(state.log_history, ending.metrics),
        trainable_params=trained,
        total_params=total,
        signals=tuple(job.watch.signals),
        samples=ending.samples,
        deviations=tuple(job.deviations),
        exact_match_before=ending.matches[0] if ending.matches else None,
        exact_match_after=ending.matches[1] if ending.matches else None,
        exact_match_rows=ending.matches[2] if ending.matches else None,
        outcome=ending.outcome,
        message=ending.message,
    )


def _counts(model: Any) -> tuple[int, int]:
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())


def _throughput(history: list[dict[str, Any]], metrics: dict[str, Any]) -> Throughput | None:
    seconds = metrics.get("train_runtime")
    if not seconds:
        return None
    tokens = next((row["num_tokens"] for row in reversed(history) if "num_tokens" in row), None)
    return Throughput(
        samples_per_s=metrics.get("train_samples_per_second"),
        steps_per_s=metrics.get("train_steps_per_second"),
        tokens_per_s=float(tokens) / float(seconds) if tokens else None,
    )
