"""``${other.key}`` in a YAML file, as OmegaConf resolves it: with the value of another setting of the same file."""

from __future__ import annotations

import re

from lora_advise.document import Config, Entry, Unresolved
from lora_advise.sheet import dotted

_WHOLE = re.compile(r"\$\{([A-Za-z_][\w.\-]{0,199})\}")
_MOST_HOPS = 16
_LONGEST = 4096


def interpolated(config: Config) -> Config:
    """The config with every ``${key}`` replaced; what cannot be resolved within the file stands only when it runs."""
    if not any(_has(entry) for entry in config.entries):
        return config
    table = {dotted(entry.path): entry for entry in config.entries}
    done = tuple(_resolved(entry, table, _MOST_HOPS) if _has(entry) else entry for entry in config.entries)
    return config._replace(entries=done)


def _has(entry: Entry) -> bool:
    return isinstance(entry.value, str) and "${" in entry.value


def _resolved(entry: Entry, table: dict[str, Entry], hops: int) -> Entry:
    text = entry.value
    whole = _WHOLE.fullmatch(text)
    if whole:
        other = _target(whole[1], table, hops)
        return entry._replace(value=Unresolved(text)) if other is None else _bound(entry, other)
    parts = []
    for name in _WHOLE.findall(text):
        other = _target(name, table, hops)
        if other is None or not isinstance(other.value, (str, int, float)) or isinstance(other.value, bool):
            return entry._replace(value=Unresolved(text))
        parts.append(other.text or str(other.value))
    filled = iter(parts)
    new = _WHOLE.sub(lambda _: next(filled), text)
    return entry._replace(value=Unresolved(text) if "${" in new or len(new) > _LONGEST else new)


def _bound(entry: Entry, other: Entry) -> Entry:
    return entry._replace(value=other.value, text=other.text, quoted=other.quoted, via=other.via or other.span)


def _target(name: str, table: dict[str, Entry], hops: int) -> Entry | None:
    """The setting of that name, itself resolved; None where there is none, or where it leads round in a circle."""
    other = table.get(name)
    if other is None or hops <= 0 or len(str(other.value)) > _LONGEST:
        return None
    if _has(other):
        other = _resolved(other, table, hops - 1)
    return None if isinstance(other.value, Unresolved) else other
