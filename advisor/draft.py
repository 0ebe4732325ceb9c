"""The advisor's working sheet: values chosen so far, the decisions behind them, and the user's overrides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from lora_advise.facts import DataFacts, HardwareFacts, ModelFacts, Origin
from lora_advise.plan import Confidence, Decision, Note, Override
from lora_advise.tasks import TaskProfile

T = TypeVar("T")
Topic = Literal["purpose", "method", "adapter", "rate", "batch", "data", "precision", "evaluation", "next"]


@dataclass
class Draft:
    """Grows while the deciders run, one topic after the other; nothing outside the advisor sees it."""

    model: ModelFacts
    task: TaskProfile
    data: DataFacts
    hardware: HardwareFacts
    profile: Literal["safe", "balanced"] = "balanced"
    framework: str = "trl"
    overrides: dict[str, Any] = field(default_factory=dict)
    because: str | None = None
    origins: dict[str, Origin] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def decide(  # noqa: PLR0913 - one keyword for each thing that an expert asks
        self,
        field: str,
        topic: Topic,
        label: str,
        value: T,
        *,
        because: str,
        sources: tuple[str, ...],
        confidence: Confidence,
        flips: str,
        shown: str | None = None,
        sweep: tuple[Any, ...] | None = None,
    ) -> T:
        """Record a choice and return what holds: the user's value where one was given, else ours."""
        overridden = field in self.overrides
        chosen = self.overrides[field] if overridden else value
        self.values[field] = chosen
        if overridden:
            self.origins[field] = Origin.SET
        self.decisions.append(
            Decision(
                field=field,
                topic=topic,
                label=label,
                value=chosen,
                shown=show(chosen) if overridden or shown is None else shown,
                sweep=sweep,
                because=because,
                sources=sources,
                confidence=confidence,
                flips=flips,
                advised=value if overridden else None,
                overridden=overridden,
                override_reason=self.because if overridden else None,
            )
        )
        return chosen

    def note(self, kind: Literal["warning", "assumption", "advice"], text: str, *sources: str) -> None:
        """Say something that the user must see before the settings."""
        self.notes.append(Note(kind=kind, text=text, sources=sources))

    def recorded_overrides(self) -> tuple[Override, ...]:
        """The overrides as the plan keeps them, in the order of their fields."""
        return tuple(Override(field=f, value=v, because=self.because) for f, v in sorted(self.overrides.items()))

    @property
    def fp16_only(self) -> bool:
        """Whether the device lacks bf16 (Volta, Turing), so that 16-bit means fp16."""
        return self.hardware.bf16 is False and self.hardware.kind in ("cuda", "rocm")


def show(value: Any) -> str:
    """A value as a person reads it: 3e-4, 2,048, yes, q_proj, k_proj."""
    if isinstance(value, (tuple, list)):
        return ", ".join(show(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {show(v)}" for k, v in value.items()) or "none"
    if isinstance(value, float):
        from lora_advise.rates import format_lr

        return format_lr(value) if 0 < abs(value) < 0.01 else f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
