"""The working sheet of a reading: a dialect's steps read settings from it and put facts on it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_advise.dialect import Dialect, Lens
from lora_advise.document import Config, Entry, Path, Unresolved
from lora_advise.errors import LoraAdviseError
from lora_advise.fact_types import HELD, held
from lora_advise.facts import DataFacts, HardwareFacts, ModelFacts, TaskFacts
from lora_advise.unknown import UnknownFact

_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_FILLED_IN = re.compile(r"\$\w+|\$\{[^{}]*\}|\$\([^()]*\)|\{\{.*\}\}|%\(\w+\)s|\?\?\?", re.DOTALL)
"""``$LR``, ``${LR}``, ``{{ lr }}``: what a template engine or a shell puts in before the trainer reads the file."""
_NAMED_GAP = re.compile(r"<[^<>|]+>|\{\w+\}|__\w+__|@\w+@")
"""``<lr>`` and its like, which may be a token's name where words are expected."""
_MOST_WORDS = 12
_TRUE, _FALSE = {"true", "yes", "on", "1", "t", "y"}, {"false", "no", "off", "0", "f", "n"}


class Problem(NamedTuple):
    """A value that the key cannot have."""

    entry: Entry
    key: str
    wanted: str
    """``a number``, ``true or false``."""


class Sheet:
    """The working sheet of one reading: a dialect's steps put facts on it."""

    def __init__(
        self, dialect: Dialect, config: Config, versions: Mapping[str, str] | None = None, document: str = ""
    ) -> None:
        self.dialect, self.config = dialect, config
        self.document = document
        """The path of the document; files that it names lie beside it."""
        self.facts: dict[str, Any] = {}
        """Values by fact (``train.learning_rate``)."""
        self.places: dict[str, tuple[Entry, ...]] = {}
        self.inherited: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.problems: list[Problem] = []
        self.notes: list[str] = list(config.notes)
        self.task: TaskFacts | None = None
        self.model: ModelFacts | None = None
        self.data: DataFacts | None = None
        self.hardware: HardwareFacts | None = None
        self.versions: dict[str, str] = dict(versions or {})
        self.present: set[str] = {"train"}
        """Sections that this run has."""
        self._entries = {dotted(entry.path): entry for entry in config.entries}
        self._used: set[str] = set()
        self._lenses = {lens.name: lens for lens in dialect.lenses}
        self.written = self._written()

    def _written(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for lens in self.dialect.lenses:
            for key in (lens.key, *lens.former):
                entry = self._entries.get(key)
                if entry is not None:
                    self._used.add(key)
                    if lens.name not in found or found[lens.name].value is None:
                        found[lens.name] = entry
        return found

    def entry(self, name: str) -> Entry | None:
        """The setting of that name (a lens's name, or a key of the file)."""
        if name in self.written:
            return self.written[name]
        if name in self._entries:
            self._used.add(name)
        return self._entries.get(name)

    def has(self, name: str) -> bool:
        """Whether the file has that setting with a value other than null."""
        entry = self.entry(name)
        return entry is not None and entry.value is not None

    def value(self, name: str, default: Any = None) -> Any:
        """The setting's value after its lens; ``default`` where the file is silent or says null.

        Raises UnknownFact where the value is not known, or cannot be what the key takes.
        """
        entry = self.entry(name)
        if entry is None or entry.value is None:
            return default
        lens = self._lenses.get(name, Lens(name, name))
        value = self._typed(entry, lens)
        return lens.read(value) if lens.read else value

    def flag(self, name: str, default: bool = False) -> bool:
        """A setting that is true or false."""
        return bool(self.value(name, default))

    def put(self, fact: str, value: Any, *names: str, said: str = "") -> None:
        """Set a fact. ``names`` are the settings that make it; where the file has none of them, ``said`` says who does."""
        entries = tuple(e for e in map(self.entry, names) if e is not None and e.value is not None)
        self.facts[fact] = value
        self.unknown.discard(fact)
        if entries:
            self.places[fact] = entries
        else:
            self.inherited[fact] = said or f"{self.dialect.title}'s default"

    def is_stranger(self, key: str) -> bool:
        """Whether the trainer does not know that key; False where its keys have not been written down."""
        known = self.dialect.known
        if self.dialect.known_in is not None:
            return bool(known) and key not in known
        return bool(known) and key not in known | self._used and not any(u.startswith(f"{key}.") for u in self._used)

    def resolve_model(self, name: str, *names: str) -> None:
        """Take the model of that id from the catalogue; a note where it is not there."""
        from lora_advise.catalogue_lookup import find_model

        self.model = find_model(name)
        entries = tuple(e for e in map(self.entry, names) if e is not None)
        if entries:
            self.places["model"] = self.places["model.name"] = entries
        if self.model is None:
            self.notes.append(f"The model {name[:80]!r} is not in the catalogue; --model says which one it is.")

    def _typed(self, entry: Entry, lens: Lens) -> Any:
        value = entry.value
        if isinstance(value, Unresolved) or is_placeholder(value, lens.kind):
            raise UnknownFact(lens.name)
        try:
            made = typed(value, lens.kind)
            if lens.choices and dotted(entry.path) == lens.key:
                _chosen(made, lens.choices)
            return made
        except LoraAdviseError as error:
            problem = Problem(entry, lens.key, str(error))
            if problem not in self.problems:
                self.problems.append(problem)
            raise UnknownFact(lens.name) from None


def is_placeholder(value: Any, kind: str = "any") -> bool:
    """Whether something else fills the value in before the run: ``$LR``, ``{{ lr }}``, and ``<lr>`` where a number belongs."""
    if not isinstance(value, str) or len(value) > 200:
        return False
    text = value.strip()
    if kind in ("number", "count", "flag") and _NAMED_GAP.fullmatch(text):
        return True
    return _FILLED_IN.fullmatch(text) is not None


def _chosen(value: Any, choices: tuple[str, ...]) -> None:
    """Raises LoraAdviseError for a word that is none of them; ``no`` and ``false`` are one word to some readers."""
    if str(value) in choices or (str(value).lower() in ("false", "no") and {"no", "false"} & {*choices}):
        return
    if len(choices) <= _MOST_WORDS:
        raise LoraAdviseError(f"one of {', '.join(choices)}")
    low = str(value).lower()[:60]
    near = [word for word in choices if word.startswith(low)][:3] or difflib.get_close_matches(low, choices, 3, 0.5)
    raise LoraAdviseError(f"one of its {len(choices)} words" + (f", such as {' or '.join(near)}" if near else ""))


def dotted(path: Path) -> str:
    """A path as lenses write keys: ``datasets.0.path``."""
    return ".".join(map(str, path))


def typed(value: Any, kind: str) -> Any:  # noqa: PLR0911 - one return per kind
    """The value as that kind. Raises LoraAdviseError, whose words are what was wanted."""
    if kind in ("number", "count"):
        return _number(value, whole=kind == "count")
    if kind == "flag":
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise LoraAdviseError("true or false")
    if kind == "word":
        if isinstance(value, (tuple, dict)):
            raise LoraAdviseError("one word")
        return str(value).strip()
    if kind == "names":
        if isinstance(value, str):
            inner = value.strip()[1:-1] if value.strip()[:1] == "[" and value.strip()[-1:] == "]" else value
            return tuple(part for part in (p.strip(" '\"") for p in inner.split(",")) if part)
        if isinstance(value, tuple):
            return tuple(str(item) for item in value if isinstance(item, (str, int)))
        raise LoraAdviseError("a list of names")
    return value


def _number(value: Any, *, whole: bool) -> int | float:
    wanted = LoraAdviseError("a whole number" if whole else "a number")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wanted
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()) or len(value) > 64:
            raise wanted
        value = float(value.strip().replace("_", ""))
    if not held(value):
        raise LoraAdviseError(HELD)
    if whole and float(value) != int(value):
        raise wanted
    return int(value) if whole else value
