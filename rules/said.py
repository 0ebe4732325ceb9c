"""What a file says of a setting, for tables of rules: by the name of its lens, or by the trainer's own key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lora_advise.document import Entry, Unresolved
from lora_advise.finding import Severity
from lora_advise.reading import Reading
from lora_advise.sheet import is_placeholder
from lora_advise.unknown import UnknownFact

OFF = ("false", "no", "0", "none", "null", "", "off")


def entry_of(config: Reading, name: str) -> Entry | None:
    """The setting of that name; None where the file has none."""
    if name in config.written:
        return config.written[name]
    return config.config.get(*name.split("."))


def said(config: Reading, name: str, default: object = None) -> object:
    """Its value as written; raises UnknownFact where it stands only when the program runs."""
    entry = entry_of(config, name)
    if entry is None or entry.value is None:
        return default
    if isinstance(entry.value, Unresolved) or is_placeholder(entry.value):
        raise UnknownFact(name)
    value: object = entry.value
    return value


def on(config: Reading, name: str) -> bool:
    """Whether it is given with a value that is not off; a list or a group is on where it is not empty."""
    value = said(config, name)
    return bool(value) and str(value).lower() not in OFF


def off(config: Reading, name: str) -> bool:
    """Whether the file is silent about it, or switches it off."""
    return not on(config, name)


def word(config: Reading, name: str, default: str = "") -> str:
    """Its value as a word in small letters."""
    return str(said(config, name, default)).lower()


def above(config: Reading, name: str, bound: float) -> bool:
    """Whether it is a number above the bound."""
    value = said(config, name)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > bound


class Case(NamedTuple):
    """A row of a table: what is wrong under which condition."""

    settings: tuple[str, ...]
    """The settings to show, by lens or key; those that the file has."""
    when: Callable[[Reading], bool]
    words: str
    """A sentence with the way out."""
    severity: Severity = Severity.ERROR


def applies(case: Case, config: Reading) -> bool:
    """Whether the row's condition is met; not where a value that it needs is not known."""
    try:
        return case.when(config)
    except UnknownFact:
        return False


def fields(case: Case, config: Reading) -> tuple[str, ...]:
    """The row's settings that the file has, as fields of a finding."""
    return tuple(f"config.{name}" for name in case.settings if entry_of(config, name) is not None)


def key_of(config: Reading, name: str) -> str:
    """What the file calls it."""
    entry = entry_of(config, name)
    return str(entry.path[-1]) if entry is not None else name
