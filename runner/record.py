"""Turns a finished, interrupted or failed job into the run record."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lora_advise.facts import Facts
from lora_advise.run_facts import Memory, Outcome, Run, Sample, Throughput, log_entries
from lora_advise.runner.device import device_name
from lora_advise.runner.job import Job

PACKAGES = ("lora-advise", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


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


def memory(facts: Facts) -> Memory:
    """Measured peaks; on a CUDA device the forecast stands beside them."""
    import torch

    if not torch.cuda.is_available():
        return Memory(peak_host_rss=host_peak())
    from lora_advise.memory import estimate

    return Memory(
        peak_allocated=torch.cuda.max_memory_allocated(),
        peak_reserved=torch.cuda.max_memory_reserved(),
        peak_host_rss=host_peak(),
        predicted=estimate(facts).allocated,
    )


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def make_record(job: Job, ending: Ending, *, started: str, wall_s: float, before: Run | None = None) -> Run:
    """The record of a job; ``before`` is that of the part which was interrupted."""
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
        memory=memory(job.facts),
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
