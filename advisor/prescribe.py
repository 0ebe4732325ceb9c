"""What a change proposed by a diagnosis looks like, and the learning rates it proposes."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from lora_advise.facts import Facts
from lora_advise.finding import Finding
from lora_advise.rates import format_lr, round_lr
from lora_advise.run_facts import Run
from lora_advise.section import Section
from lora_advise.signal_curves import Curves
from lora_advise.tasks import TASKS

SENSIBLE_RATES = (1e-12, 1e3)
"""What a log calls a learning rate outside of this is damage, not a rate."""


class Proposal(Section):
    """One change for the next run. ``field`` is a path of the facts, or None for work outside the settings."""

    action: str
    """What to do, as a sentence."""
    because: str
    sources: tuple[str, ...]
    field: str | None = None
    current: Any = None
    """The value that the run had, when it is known."""
    value: Any = None


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a prescription reads. ``finding`` is the one that decided the verdict."""

    facts: Facts
    run: Run
    curves: Curves
    finding: Finding | None

    @property
    def rate(self) -> float | None:
        """The peak learning rate: of the plan, else of the log; None when neither names a sensible one."""
        train = self.facts.train
        rate = train.learning_rate if train is not None else self.curves.peak_rate
        return rate if SENSIBLE_RATES[0] <= rate <= SENSIBLE_RATES[1] else None

    @property
    def epochs(self) -> float | None:
        """The planned epochs: of the plan, else of the log, else how far the log goes."""
        if self.facts.train is not None and not self.facts.train.max_steps:
            return self.facts.train.num_train_epochs
        if self.run.num_train_epochs:
            return self.run.num_train_epochs
        return self.curves.last_epoch if isfinite(self.curves.last_epoch) else None

    @property
    def steps(self) -> int:
        """Optimizer steps: planned ones, else those of the log."""
        return self.curves.planned_steps or self.curves.last_step


def show(value: Any) -> str:
    """A value as a person writes it in a configuration; rates as ``3e-4``."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return format_lr(value) if 0 < abs(value) < 1e-2 else f"{value:g}"


def setting(case: Case, path: str, value: Any, because: str, sources: tuple[str, ...], current: Any = None) -> Proposal:
    """A proposal to change one field; its present value is read from the facts where they know it."""
    section, name = path.split(".", 1)
    known = getattr(getattr(case.facts, section), name, None)
    now = known if known is not None else current
    change = f"from {show(now)} to {show(value)}" if now is not None else f"to {show(value)}"
    return Proposal(
        action=f"Set {path} {change}.", because=because, sources=sources, field=path, current=now, value=value
    )


def work(action: str, because: str, sources: tuple[str, ...]) -> Proposal:
    """A proposal for work outside the settings."""
    return Proposal(action=action, because=because, sources=sources)


def usual_rate(case: Case) -> float | None:
    """The rate of the task at this alpha: rate at alpha 32 times sqrt(32 / alpha_eff), so that E2 = lr sqrt(alpha_eff)
    stays.

    None without an adapter in the facts: E2 is about adapters only.
    """
    if case.facts.lora is None or case.facts.lora.alpha_eff <= 0:
        return None
    profile = TASKS.get(case.facts.task.name) if case.facts.task is not None else None
    return (profile or TASKS["chat"]).rate * sqrt(32 / case.facts.lora.alpha_eff)


def lower_rate(case: Case, worked: float | None = None) -> Proposal:
    """Half the largest rate at which the loss still fell, else the task's usual rate at this alpha, else a third."""
    now, usual = case.rate, usual_rate(case)
    if now is None:
        return work(
            "Lower the learning rate to a third, and log it.", "The log does not name the rate.", ("diagnosis-corpus",)
        )
    if worked is not None and 10 * SENSIBLE_RATES[0] <= worked < now:
        value, why = worked / 2, f"Half of {format_lr(worked)}, the largest rate at which the loss still fell."
        sources: tuple[str, ...] = ("diagnosis-corpus",)
    elif usual is not None and usual < 0.7 * now:
        alpha = case.facts.lora.alpha_eff if case.facts.lora else 32.0
        value = usual
        why = (
            f"E2 = lr x sqrt(alpha_eff) is {now * sqrt(alpha):.1e}; the value that works for this task is "
            f"{usual * sqrt(alpha):.1e}."
        )
        sources = ("e2-metric", "tinker-sweep")
    else:
        value, why, sources = now / 3, "A third: one step of the usual sweep.", ("e2-metric", "tinker-sweep")
    return setting(case, "train.learning_rate", round_lr(value), why, sources, now)


def raise_rate(case: Case, factor: float = 3.0) -> Proposal | None:
    """The task's usual rate at this alpha, else the rate times ``factor``; None when it is there already."""
    now, usual = case.rate, usual_rate(case)
    if now is None:
        return work(
            "Raise the learning rate three times, and log it.", "The log does not name the rate.", ("diagnosis-corpus",)
        )
    value = round_lr(now * factor if usual is None else usual)
    if value <= 1.2 * now:
        return None
    why = (
        "One step of the usual sweep upward."
        if usual is None
        else f"{show(round_lr(usual))} is usual for this task and alpha."
    )
    return setting(case, "train.learning_rate", value, why, ("e2-metric", "tinker-sweep"), now)
