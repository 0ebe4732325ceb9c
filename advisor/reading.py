"""From a config as it is written to the facts of the run: what the trainer will really use, and where each value stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_advise.dialect import Dialect
from lora_advise.document import Config, Entry, Unresolved
from lora_advise.facts import Facts, HardwareFacts, LoraFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.section import Section, field_types
from lora_advise.sheet import Problem, Sheet, dotted, is_placeholder
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
    versions: Mapping[str, str] = {}
    """Of the trainer and the libraries below it, by name, where they are known."""

    also: Mapping[str, Any] = {}
    """What the trainer will really use of settings that are no facts, by the name of their lens: defaults included."""
    document: str = ""
    """The path of the document, whose ending tells its format."""
    meant: Mapping[str, str] = {}
    """What this trainer calls the settings among ``strangers`` that other trainers have: their keys, with its own."""

    def effective(self, name: str, default: Any = None) -> Any:
        """What the run will use for that setting: put by the dialect, else as written, else ``default``."""
        if name in self.also:
            return self.also[name]
        return self.value(name, default)

    def has(self, name: str) -> bool:
        """Whether the file has that setting with a value."""
        return name in self.written and self.written[name].value is not None

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a setting as written; raises UnknownFact where it stands only when the program runs."""
        entry = self.written.get(name)
        if entry is None or entry.value is None:
            return default
        if isinstance(entry.value, Unresolved) or is_placeholder(entry.value):
            raise UnknownFact(name)
        return entry.value


def read_config(
    dialect: Dialect, config: Config, versions: Mapping[str, str] | None = None, given: Mapping[str, Any] | None = None,
    document: str = "",
) -> Reading:  # fmt: skip
    """Read a config as that trainer does.

    ``given`` are whole sections that the command line says: ``model``, ``data``, ``hardware``, ``task``. ``document`` is
    the document's path, beside which files lie that the config names.
    """
    if dialect.prepare is not None:
        config = dialect.prepare(config)
    if dialect.known_in is not None:
        dialect = dialect._replace(known=dialect.known_in(config))
    sheet = Sheet(dialect, config, versions, document)
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
    _attention(sheet)
    return _reading(sheet)


def _attention(sheet: Sheet) -> None:
    """Where nobody says which, transformers takes eager attention for a class that has no sdpa."""
    from lora_advise.model_kernels import attention_refused

    silent = "train.attn_implementation" in sheet.inherited
    if silent and sheet.model is not None and attention_refused(sheet.model.model_type, "sdpa"):
        sheet.put("train.attn_implementation", "eager", said="transformers' choice for this class")


def _reading(sheet: Sheet) -> Reading:
    sections: dict[str, Any] = {name: _section(sheet, name) for name in SECTIONS if name in sheet.present}
    stack = StackFacts(
        framework=sheet.dialect.framework, versions=sheet.versions,
        sharding=sheet.facts.get("stack.sharding", "none"), cpu_offload=sheet.facts.get("stack.cpu_offload", False),
    )  # fmt: skip
    unknown = [fact.partition(".")[2] for fact in sheet.unknown if fact.startswith("stack.")]
    facts = Facts(
        task=sheet.task, model=sheet.model, data=sheet.data, hardware=_devices(sheet, stack.sharding),
        stack=without(stack, unknown, "stack"), **sections,
    )  # fmt: skip
    facts = _warmed(facts, sheet)
    strangers, outdated = _leftover(sheet)
    places = {
        **{dotted(entry.path): (entry,) for entry in sheet.config.entries},
        **{f"shadowed.{n}": (entry,) for n, entry in enumerate(sheet.config.shadowed)},
        **{name: (entry,) for name, entry in sheet.written.items()}, **sheet.places,
    }  # fmt: skip
    return Reading(
        sheet.dialect, sheet.config, facts, places, sheet.inherited, sheet.written, strangers, outdated,
        tuple(sheet.problems), tuple(dict.fromkeys(sheet.notes)), sheet.versions,
        {name: value for name, value in sheet.facts.items() if "." not in name}, sheet.document,
        _meant(strangers, sheet.dialect),
    )  # fmt: skip


def _devices(sheet: Sheet, sharding: str) -> HardwareFacts | None:
    """The device that was named, as often as the launcher says; without a name only its number is known, or not even that.

    A run that names no launcher, no sharding and no device counts as one process.
    """
    count = sheet.facts.get("processes")
    if sheet.hardware is not None:
        return sheet.hardware.changed({"count": count}) if count else sheet.hardware
    if count is None and sharding == "none" and "stack.sharding" not in sheet.unknown:
        return None
    bare = HardwareFacts(name="not named", memory_gib=1.0, count=count or 1)
    return without(bare, [f for f in field_types(HardwareFacts) if f != "count" or count is None], "hardware")


def _warmed(facts: Facts, sheet: Sheet) -> Facts:
    """With the warmup in steps, where the file gives a share and the number of steps is known."""
    share = sheet.facts.get("warmup_share")
    if share is None or facts.train is None or "train.warmup_steps" not in sheet.unknown:
        return facts
    try:
        steps = facts.optimizer_steps
    except UnknownFact:
        return facts
    if steps is None:
        return facts
    most = sheet.facts.get("warmup_most", steps)
    return facts.changed({"train": facts.train.changed({"warmup_steps": min(most, math.ceil(share * steps))})})


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
    """The section; a value that the facts cannot hold is a problem of its setting, and the field unknown."""
    from lora_advise.fact_types import MisfitError, fitted

    types, made = field_types(kind), {}
    for field, value in known.items():
        try:
            made[field] = fitted(types[field], value)
        except MisfitError as wanted:
            for entry in sheet.places.get(f"{name}.{field}", ()):
                sheet.problems.append(Problem(entry, dotted(entry.path), str(wanted)))
    whole = kind(**{**_STAND_INS.get(name, {}), **made})
    return without(whole, [field for field in types if field not in made], name)


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
    closed = sheet.dialect.closed(sheet.config) if sheet.dialect.closed else {}
    bound = {entry.via for entry in sheet.config.entries}
    strangers, old = [], []
    for entry in sheet.config.entries:
        key = dotted(entry.path)
        if key in outdated:
            old.append((entry, outdated[key]))
        elif len(entry.path) == 2 and entry.path[0] in closed:
            if isinstance(entry.path[1], str) and entry.path[1] not in closed[str(entry.path[0])]:
                strangers.append(entry)
        elif entry.span in bound:
            continue
        elif len(entry.path) == 1 and sheet.is_stranger(key):
            strangers.append(entry)
    return tuple(strangers), tuple(old)


def _meant(strangers: tuple[Entry, ...], dialect: Dialect) -> Mapping[str, str]:
    """Keys that other trainers have, with this one's for the same idea, where all of them agree on it."""
    if not strangers:
        return {}
    from lora_advise.dialects import same_idea

    found = {str(entry.path[-1]): same_idea(str(entry.path[-1]), dialect) for entry in strangers}
    return {key: own for key, own in found.items() if own is not None}
