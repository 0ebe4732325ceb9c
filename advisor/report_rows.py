"""The rows and blocks that every report format renders. All text is plain: no markup, no control characters."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.report_memory import MemoryRow, PartRow, WayRow


class HeadRow(NamedTuple):
    """One line of the headline: what, its value, and where it came from."""

    label: str
    value: str
    origin: str = ""


class NoteRow(NamedTuple):
    """A sentence to be read before the settings."""

    kind: str
    text: str
    sources: tuple[str, ...]


class SettingRow(NamedTuple):
    """One setting at a glance. ``advised`` is what we would have chosen where the user chose."""

    field: str
    label: str
    value: str
    sweep: str
    yours: bool = False
    advised: str = ""


class WhyRow(NamedTuple):
    """The reasons of one decision."""

    label: str
    value: str
    because: str
    sources: tuple[str, ...]
    confidence: str
    flips: str
    sweep: str
    yours: str = ""


class WhyGroup(NamedTuple):
    """The decisions of one topic."""

    title: str
    rows: tuple[WhyRow, ...]


class FindingRow(NamedTuple):
    """One finding of the linter on the plan."""

    severity: str
    rule: str
    code: str
    message: str
    fix: str
    sources: tuple[str, ...]


class GuideRow(NamedTuple):
    """One statement of a guide beside ours."""

    guide: str
    topic: str
    says: str
    we_say: str
    verdict: str
    reason: str
    sources: tuple[str, ...]


class SourceRow(NamedTuple):
    """One cited source."""

    id: str
    title: str
    where: str


class View(NamedTuple):
    """The blocks of a report, from the first to the last. All text is plain: no markup, no control characters."""

    title: str
    tool: str
    headline: tuple[HeadRow, ...]
    notes: tuple[NoteRow, ...]
    settings: tuple[SettingRow, ...]
    steps: str
    steps_detail: str
    time: str
    time_detail: str
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
