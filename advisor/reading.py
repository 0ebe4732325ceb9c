"""From a config as it is written to the facts of the run: what the trainer will really use, and where each value stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_advise.dialect import Dialect
from lora_advise.document import Config, Entry, Unresolved
from lora_advise.facts import Facts, LoraFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.section import Section, field_types
from lora_advise.sheet import Problem, Sheet, dotted
from lora_advise.unknown import UnknownFact, without

SECTIONS: dict[str, type[Section]] = {"lora": LoraFacts, "quant": QuantFacts, "train": TrainFacts}
"""Sections that a file fills field by field."""


class Reading(NamedTuple):
    """One config, read as its trainer reads it."""

    dialect: Dialect
    config: Config
    facts: Facts
    """Fields that are not known raise UnknownFact when they are read."""
    places: Mapping[str, tuple[Entry, ...]]
    """Facts, and names of settings, with the settings that make them."""
    inherited: Mapping[str, str]
    """Facts that the file does not set, with who does: ``Axolotl's default``."""
    written: Mapping[str, Entry]
    """Settings by the name of their lens."""
    strangers: tuple[Entry, ...]
    """Settings whose keys the trainer does not know."""
    outdated: tuple[tuple[Entry, int], ...]
    """Settings under a name of ``dialect.renamed``, with its place there."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    version: str | None = None
    """Of the trainer, where it is known."""

    def has(self, name: str) -> bool:
        """Whether the file has that setting with a value."""
        return name in self.written and self.written[name].value is not None

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a setting as written; raises UnknownFact where it stands only when the program runs."""
        entry = self.written.get(name)
        if entry is None or entry.value is None:
            return default
        if isinstance(entry.value, Unresolved):
            raise UnknownFact(name)
        return entry.value


def read_config(
    dialect: Dialect, config: Config, version: str | None = None, given: Mapping[str, Any] | None = None
) -> Reading:
    """Read a config as that trainer does.

    ``given`` are whole sections that the command line says: ``model``, ``data``, ``hardware``, ``task``.
    """
    sheet = Sheet(dialect, config, version)
    for lens in dialect.lenses:
        if "." in lens.name and lens.name in sheet.written and sheet.written[lens.name].value is not None:
            try:
                sheet.put(lens.name, sheet.value(lens.name), lens.name)
            except UnknownFact:
                sheet.unknown.add(lens.name)
    for section in ("model", "data", "hardware", "task"):
        if given and given.get(section) is not None:
            setattr(sheet, section, given[section])
    for step in dialect.steps:
        try:
            step.run(sheet)
        except UnknownFact:
            sheet.unknown |= {fact for fact in step.facts if fact not in sheet.facts}
    for section in ("model", "data", "hardware", "task"):
        if given and given.get(section) is not None:
            setattr(sheet, section, given[section])
    for fact, value in dialect.defaults.items():
        if fact not in sheet.facts and fact not in sheet.unknown:
            sheet.put(fact, value)
    return _reading(sheet)


def _reading(sheet: Sheet) -> Reading:
    sections: dict[str, Any] = {name: _section(sheet, name) for name in SECTIONS if name in sheet.present}
    stack = StackFacts(
        framework=sheet.dialect.framework, versions=sheet.versions,
        sharding=sheet.facts.get("stack.sharding", "none"), cpu_offload=sheet.facts.get("stack.cpu_offload", False),
    )  # fmt: skip
    unknown = [fact.partition(".")[2] for fact in sheet.unknown if fact.startswith("stack.")]
    facts = Facts(
        task=sheet.task, model=sheet.model, data=sheet.data, hardware=sheet.hardware,
        stack=without(stack, unknown, "stack"), **sections,
    )  # fmt: skip
    strangers, outdated = _leftover(sheet)
    places = {**{name: (entry,) for name, entry in sheet.written.items()}, **sheet.places}
    return Reading(
        sheet.dialect, sheet.config, facts, places, sheet.inherited, sheet.written, strangers, outdated,
        tuple(sheet.problems), tuple(dict.fromkeys(sheet.notes)), sheet.version,
    )  # fmt: skip


def _section(sheet: Sheet, name: str) -> Any:
    """The section with what is known; every field that nobody put on the sheet is unknown."""
    kind = SECTIONS[name]
    known: dict[str, Any] = {}
    for field in field_types(kind):
        fact = f"{name}.{field}"
        if fact in sheet.facts and fact not in sheet.unknown:
            known[field] = sheet.facts[fact]
    return _checked(sheet, name, kind, known)


def _checked(sheet: Sheet, name: str, kind: type[Section], known: dict[str, Any]) -> Any:
    """The section, checked field by field: a value that the facts cannot hold is a problem of its setting."""
    from lora_advise.checked import FactError, checked

    standing = {**_STAND_INS.get(name, {}), **known}
    while True:
        try:
            whole = checked(kind, standing)
            break
        except FactError as error:
            field = str(error.place[0]) if error.place else ""
            if field not in known:
                raise
            for entry in sheet.places.get(f"{name}.{field}", ()):
                sheet.problems.append(Problem(entry, dotted(entry.path), error.said.removeprefix("should be ")))
            del known[field]
            standing = {**_STAND_INS.get(name, {}), **known}
    return without(whole, [field for field in field_types(kind) if field not in known], name)


_STAND_INS: dict[str, dict[str, Any]] = {
    "lora": {"r": 1, "lora_alpha": 1.0},
    "train": {
        "learning_rate": 1.0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_length": 1,
    },
}  # fmt: skip
"""So that a section can be built before its required fields are hidden again; nobody reads them."""


def _leftover(sheet: Sheet) -> tuple[tuple[Entry, ...], tuple[tuple[Entry, int], ...]]:
    """Settings that the trainer does not know, and those under an outdated name."""
    outdated = {r.old: n for n, r in enumerate(sheet.dialect.renamed)}
    strangers, old = [], []
    for entry in sheet.config.entries:
        key = dotted(entry.path)
        if key in outdated:
            old.append((entry, outdated[key]))
        elif len(entry.path) == 1 and sheet.is_stranger(key):
            strangers.append(entry)
    return tuple(strangers), tuple(old)
