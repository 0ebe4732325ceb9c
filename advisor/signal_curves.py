"""The curves of one run, prepared once for every signal: logarithms, noise, smoothing, thinning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, exp, inf, isfinite, log, nan
from typing import TypeVar

from lora_advise.curve import median, noise, smooth
from lora_advise.finding import Hit, Severity
from lora_advise.run_facts import LogEntry, Run

SHAPE_POINTS = 2_000
"""Longer curves are thinned for everything about shape: the median of each ceil(n / 2000) entries in a row. Events
(NaN, zeros, spikes, contradictions) are looked for in every entry."""

TINY = 1e-6
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Signal:
    """What one detector saw: a whole sentence with its numbers, where it starts, and how bad it is."""

    message: str
    step: int | None = None
    severity: Severity = Severity.WARNING


def hits(signal: Signal | None, *fields: str) -> Iterator[Hit]:
    """The signal, if there is one, as a rule yields it; ``fields`` are the facts to look at first."""
    if signal is not None:
        yield Hit(signal.message, fields, severity=signal.severity, step=signal.step)


@dataclass(frozen=True, slots=True)
class Series:
    """Training entries as columns; ``nan`` stands for missing and for not finite."""

    step: list[int]
    loss: list[float]
    log_loss: list[float]
    grad_norm: list[float]
    learning_rate: list[float]
    epoch: list[float]

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, eq=False)
class Curves:
    """One run's curves. ``raw`` has every training entry, ``shape`` at most 2,000 points of it."""

    raw: Series
    shape: Series
    grad_logged: list[bool]
    """Whether the entry names a gradient norm at all; a logged NaN is ``nan`` in ``raw`` and true here."""
    accuracy: list[float]
    eval_step: list[int]
    eval_loss: list[float]
    last_step: int
    planned_steps: int | None
    logging_steps: float | None

    @property
    def count(self) -> int:
        """Number of training entries."""
        return len(self.raw)

    @cached_property
    def noise(self) -> float:
        """Noise of one logged ln(loss), at least 0.0001; 0.05 where too few entries show it."""
        found = noise(self.shape.log_loss)
        return max(found, 1e-4) if isfinite(found) else 0.05

    @cached_property
    def width(self) -> int:
        """Entries under the running median; 1 (no smoothing) below 12."""
        return 1 if len(self.shape) < 12 else max(5, len(self.shape) // 20)

    @cached_property
    def smoothed(self) -> list[float]:
        """Running median of ln(loss) over ``shape``."""
        return smooth(self.shape.log_loss, self.width)

    @cached_property
    def rates_known(self) -> bool:
        """Whether every training entry has a learning rate."""
        return self.count > 0 and all(map(isfinite, self.raw.learning_rate))

    @cached_property
    def peak_rate(self) -> float:
        """The largest logged learning rate; ``nan`` when none is logged."""
        return max((v for v in self.raw.learning_rate if isfinite(v)), default=nan)

    @cached_property
    def tail_loss(self) -> float:
        """Median loss of the last tenth of the entries, at least three."""
        return median(self.shape.loss[-max(3, len(self.shape) // 10) :])

    @cached_property
    def evaluations(self) -> tuple[list[int], list[float]]:
        """Steps and losses of the evaluations that gave a finite, positive number."""
        kept = [(s, e) for s, e in zip(self.eval_step, self.eval_loss, strict=True) if isfinite(e) and e > 0]
        return [s for s, _ in kept], [e for _, e in kept]

    @cached_property
    def positive(self) -> bool:
        """Whether the loss behaves like a likelihood: fewer than one entry in twenty is negative."""
        return sum(v < 0 for v in self.raw.loss) < max(1, self.count / 20)

    @cached_property
    def too_short(self) -> bool:
        """Fewer than 25 steps or 4 training losses, or less than 2 % of the planned steps."""
        share = self.last_step / self.planned_steps if self.planned_steps else inf
        return self.last_step < 25 or self.count < 4 or share < 0.02

    @cached_property
    def last_epoch(self) -> float:
        """The epoch of the last training entry; ``nan`` unless every entry names one."""
        known = self.count > 0 and all(map(isfinite, self.raw.epoch))
        return self.raw.epoch[-1] if known else nan


class _Same:
    """A run compared by identity, so that preparing it once serves every rule."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.run is self.run

    def __hash__(self) -> int:
        return id(self.run)


def curves(run: Run) -> Curves:
    """The curves of that run. Where the steps fall back (a resumed or repeated run), the later entries replace."""
    return _prepare(_Same(run))


@lru_cache(maxsize=2)
def _prepare(same: _Same) -> Curves:
    run = same.run
    training = _forward([e for e in run.log if e.loss is not None])
    evaluated = _forward([e for e in run.log if e.eval_loss is not None])
    raw = Series(
        step=[e.step for e in training],
        loss=[_number(e.loss) for e in training],
        log_loss=[_log(_number(e.loss)) for e in training],
        grad_norm=[_number(e.grad_norm) for e in training],
        learning_rate=[_number(e.learning_rate) for e in training],
        epoch=[_number(e.epoch) for e in training],
    )
    return Curves(
        raw=raw,
        shape=_thin(raw),
        grad_logged=[e.grad_norm is not None for e in training],
        accuracy=[_number(e.mean_token_accuracy) for e in training],
        eval_step=[e.step for e in evaluated],
        eval_loss=[_number(e.eval_loss) for e in evaluated],
        last_step=max([run.steps_done or 0, *(e.step for e in run.log)]),
        planned_steps=run.max_steps if run.max_steps and run.max_steps > 0 else None,
        logging_steps=run.logging_steps,
    )


def _number(value: float | None) -> float:
    return nan if value is None or not isfinite(value) else float(value)


def _log(loss: float) -> float:
    return log(max(loss, TINY)) if loss > 0 else nan


def _forward(entries: list[LogEntry]) -> list[LogEntry]:
    """The entries in steps that only rise: a step that comes again replaces everything from there on."""
    kept: list[LogEntry] = []
    for entry in entries:
        while kept and kept[-1].step >= entry.step:
            kept.pop()
        kept.append(entry)
    return kept


def _thin(raw: Series) -> Series:
    size = ceil(len(raw) / SHAPE_POINTS)
    if size <= 1:
        return raw
    starts = range(0, len(raw), size)

    def blocks(values: list[float]) -> list[float]:
        return [median(values[i : i + size]) for i in starts]

    losses = blocks(raw.loss)
    return Series(
        step=[_last(raw.step[i : i + size]) for i in starts],
        loss=losses,
        log_loss=[_log(v) for v in losses],
        grad_norm=blocks(raw.grad_norm),
        learning_rate=blocks(raw.learning_rate),
        epoch=[_last(raw.epoch[i : i + size]) for i in starts],
    )


def _last(values: Sequence[_T]) -> _T:
    return values[-1]


def shown(log_value: float) -> str:
    """A smoothed loss as a person reads it, from its logarithm."""
    return f"{exp(log_value):.3g}"
