"""Shell scripts and pasted command lines as documents: one config for each command that carries flags. Nothing is executed.

In a config ``--lora-r 8`` and ``--lora_r=8`` are both ``("lora_r",)``, a launcher's flags are ``("launcher", name)``, other
arguments are ``("positional", n)``, and ``key.name=value`` has ``("key", "name")`` as well. The shell takes quotes away before a
program sees its arguments: a quoted number is a number here.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lora_advise.document import MAX_BYTES, MAX_ENTRIES, Config, Document, Entry, Path, Span, Unresolved
from lora_advise.document_places import Places
from lora_advise.shell_fields import Field, Piece
from lora_advise.shell_launchers import Launch, taken_apart
from lora_advise.shell_script import Command, Script
from lora_advise.shell_values import typed

_OVERRIDE = re.compile(r"(?:\+{0,2})([A-Za-z_]\w*(?:[./][A-Za-z_0-9]\w*)*)=", re.ASCII)
_SWITCHES = frozenset({"multirun", "m"})
"""Flags that no value follows, though ``key=value`` may: Hydra's."""
_ONE_VALUE = re.compile(r"axolotl(?:\.cli.*)?")
"""Programs whose flags take one value each, so that a file name behind one is an argument of its own."""
_MOST_NOTES = 20


def read_shell(text: str, name: str) -> Document:
    """The commands of a script that have flags, in their order, and its comments.

    Raises LoraAdviseError for a quote or substitution without an end, and for what is larger or deeper than a script is.
    """
    places = Places(text, name)
    if len(text) > MAX_BYTES:
        raise places.error(
            MAX_BYTES, f"a script of more than {MAX_BYTES:,} characters is not read: give the launch command"
        )
    script = Script(places)
    left, configs = MAX_ENTRIES, []
    for command in script.commands:
        config = _Command(command, places, left).config()
        left -= len(config.entries) + len(config.shadowed)
        configs.append(config)
    return Document(name, text, "shell", tuple(configs), script.comments)


class _Setting(NamedTuple):
    entry: Entry
    items: tuple[Entry, ...] = ()


class _Command:
    """One command on its way to be a config."""

    def __init__(self, command: Command, places: Places, left: int) -> None:
        self.command, self.places, self._left = command, places, left
        self.settings: list[_Setting] = []
        self.notes = list(command.notes)
        self._positional = 0
        self._single = False

    def config(self) -> Config:
        """Take it apart."""
        command = self.command
        raw = [field.text if field.known else self._written(field) for field in command.fields]
        launch = taken_apart(command.fields, raw)
        self._launcher(launch)
        self._single = any(_ONE_VALUE.fullmatch(word) for word in launch.program)
        self._arguments(command.fields[launch.begin :])
        last = {setting.entry.path: number for number, setting in enumerate(self.settings)}
        entries: list[Entry] = []
        shadowed: list[Entry] = []
        for number, (entry, items) in enumerate(self.settings):
            (entries if last[entry.path] == number else shadowed).extend((entry, *items))
        return Config(
            "command",
            tuple(launch.program),
            tuple(entries),
            self.places.span(command.start, max(command.start, command.end)),
            (*command.environment, *launch.environment),
            tuple(shadowed),
            tuple(self.notes[:_MOST_NOTES]),
        )

    def _written(self, field: Field) -> str:
        return self.places.text[field.start : field.end]

    def _span(self, field: Field) -> Span:
        return self.places.span(field.start, field.end)

    def _launcher(self, launch: Launch) -> None:
        for flag, value in launch.flags:
            name, key, given = self._flag(flag)
            given = given or value
            self._add(("launcher", name), key, [given] if given else [])
        for number, word in enumerate(launch.words):
            self._add(("launcher", "positional", number), None, [word])
        for field in launch.unread:
            self._note(field)

    def _note(self, field: Field) -> None:
        line = self.places.at(field.start)[0]
        self.notes.append(
            f"Line {line}: {self._written(field)[:60]} is not set in this file; flags that it may hold are not read."
        )

    def _flag(self, field: Field) -> tuple[str, Span, Field | None]:
        """Name, place, and what stands behind ``=``."""
        name, equals, _ = field.text.partition("=")
        written = self._written(field)
        at = written.find("=") if equals else -1
        if not all(piece.known for piece in _halves(field)[0]):
            name = written[:at] if at >= 0 else written
        path = name.lstrip("-").replace("-", "_")
        if at < 0:
            return path, self._span(field), None
        first = field.pieces[0]
        start = first.start if first.start <= field.start + at <= first.end else field.start
        return path, self.places.span(start, field.start + at), _behind(field, field.start + at + 1)

    def _arguments(self, fields: list[Field]) -> None:
        at, literal = 0, False
        while at < len(fields):
            here = fields[at]
            at += 1
            if literal or not here.flag:
                if here.text == "--" and here.known and not literal:
                    literal = True
                else:
                    self._plain(here)
                continue
            name, key, given = self._flag(here)
            values = [given] if given else self._values(name, fields, at)
            at += 0 if given else len(values)
            self._add((name,), key, values)

    def _values(self, name: str, fields: list[Field], at: int) -> list[Field]:
        """The arguments that follow a flag up to the next; an override that follows a value is none of them."""
        start = at
        while at < len(fields) and not self._ends(fields[at], at > start):
            if _override(fields[at]) and (name in _SWITCHES or (at > start and not _override(fields[start]))):
                break
            at += 1
            if self._single:
                break
        return fields[start:at]

    def _ends(self, field: Field, further: bool) -> bool:
        """Whether a flag's values end before it."""
        return field.flag or field.listed or (field.many and further) or (field.text == "--" and field.known)

    def _plain(self, field: Field) -> None:
        self._add(("positional", self._positional), None, [field])
        self._positional += 1
        if field.many:
            self._note(field)
        if found := _override(field):
            start = self._written(field).find(f"{found[1]}=")
            if start >= 0:
                at = field.start + start + len(found[1])
                key = self.places.span(field.start + start, at)
                self._add(tuple(re.split(r"[./]", found[1])), key, [_behind(field, at + 1)])

    def _add(self, path: Path, key: Span | None, values: list[Field]) -> None:
        self._left -= len(values) + (len(values) != 1)
        if self._left < 0:
            raise self.places.error(
                self.command.start, f"more than {MAX_ENTRIES:,} settings by here; a run has a few hundred"
            )
        if key is not None and not values:
            self.settings.append(_Setting(Entry(path, True, key, key)))
            return
        if len(values) == 1:
            self.settings.append(_Setting(self._entry(path, key, values[0])))
            return
        items = tuple(self._entry((*path, number), None, value) for number, value in enumerate(values))
        first, last = values[0], values[-1]
        span = self.places.span(first.start, last.end if last.end >= first.end else first.end)
        whole = Entry(path, tuple(item.value for item in items), span, key, all(item.quoted for item in items))
        self.settings.append(_Setting(whole, items))

    def _entry(self, path: Path, key: Span | None, field: Field) -> Entry:
        value: Any = typed(field.text) if field.known else Unresolved(self._written(field))
        text = field.text if field.known else self._written(field)
        via = self.places.span(*field.via) if field.via and field.known else None
        return Entry(
            path,
            value,
            self._span(field),
            key,
            field.quoted,
            "" if isinstance(value, (tuple, dict)) and not isinstance(value, Unresolved) else text,
            via,
        )


def _override(field: Field) -> re.Match[str] | None:
    return _OVERRIDE.match(field.text) if field.pieces and field.pieces[0].known else None


def _halves(field: Field) -> tuple[list[Piece], list[Piece]]:
    """The pieces of ``name=value`` on both sides of the ``=``, which the first ones hold."""
    name: list[Piece] = []
    value: list[Piece] = []
    for piece in field.pieces:
        at = -1 if value or any("=" in p.text for p in name) else piece.text.find("=")
        if at >= 0:
            name.append(piece._replace(text=piece.text[: at + 1]))
            if at + 1 < len(piece.text):
                start = piece.start + at + 1 if piece.exact else piece.start
                value.append(piece._replace(text=piece.text[at + 1 :], start=start))
        else:
            (value if any("=" in p.text for p in name) else name).append(piece)
    return name, value


def _behind(field: Field, start: int) -> Field:
    """What stands behind the ``=`` of an argument, from ``start`` in the text."""
    pieces = _halves(field)[1]
    inside = bool(pieces) and pieces[0].quoted and pieces[0].start == start
    end = pieces[-1].end if inside else field.end
    return Field(tuple(pieces), start, max(start, end), pieces[0].via if len(pieces) == 1 else None)
