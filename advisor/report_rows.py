"""The rows and blocks that every report format renders. All text is plain: no markup, no control characters."""

from __future__ import annotations

from dataclasses import dataclass

from lora_advise.report_memory import MemoryRow, PartRow, WayRow


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One line of the headline: what, its value, and where it came from."""

    label: str
    value: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class NoteRow:
    """A sentence to be read before the settings."""

    kind: str
    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting at a glance. ``advised`` is what we would have chosen where the user chose."""

    field: str
    label: str
    value: str
    sweep: str
    yours: bool = False
    advised: str = ""


@dataclass(frozen=True, slots=True)
class WhyRow:
    """The reasons of one decision."""

    label: str
    value: str
    because: str
    sources: tuple[str, ...]
    confidence: str
    flips: str
    sweep: str
    yours: str = ""


@dataclass(frozen=True, slots=True)
class WhyGroup:
    """The decisions of one topic."""

    title: str
    rows: tuple[WhyRow, ...]


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding of the linter on the plan."""

    severity: str
    rule: str
    code: str
    message: str
    fix: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuideRow:
    """One statement of a guide beside ours."""

    guide: str
    topic: str
    says: str
    we_say: str
    verdict: str
    reason: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One cited source."""

    id: str
    title: str
    where: str


@dataclass(frozen=True, slots=True)
class View:
    """The blocks of a report, from the first to the last. All text is plain: no markup, no control characters."""

    title: str
    tool: str
    headline: tuple[HeadRow, ...]
    notes: tuple[NoteRow, ...]
    settings: tuple[SettingRow, ...]
    steps: str
    steps_detail: str
    memory: tuple[MemoryRow, ...]
    parts_title: str
    parts: tuple[PartRow, ...]
    ways_out: tuple[WayRow, ...]
    memory_legend: str
    memory_sources: tuple[str, ...]
    findings: tuple[FindingRow, ...]
    linter: str
    why: tuple[WhyGroup, ...]
    guides: tuple[GuideRow, ...]
    next_steps: tuple[str, ...]
    related: tuple[str, ...]
    sources: tuple[SourceRow, ...]
    command: str
