"""YAML files of other trainers: every setting with its place, as a person means it.

Values are those of YAML 1.2's core schema (``no`` is a word, ``3e-4`` a number, ``0x10`` and ``0o17`` too, ``010`` is ten) with
Python's grouping of digits (``1_000``), which PyYAML and OmegaConf also read as a number. What a trainer makes of words that
YAML versions read differently is left to its dialect: ``Entry.text`` says how they are written. ``${name}`` stays text.

The event stream of PyYAML is read; nothing is constructed. Merge keys work as in PyYAML 6.0.2: the first of a list of mappings
goes first, the last of several ``<<``. A tag outside the core schema
(``!!python/tuple``) and ``{{ a template }}`` outside quotes are Unresolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lora_advise.document import MAX_DEPTH, MAX_ENTRIES, Comment, Document, Unresolved
from lora_advise.document_places import Places
from lora_advise.document_tree import Budget, Node, Pair, config_of, too_deep
from lora_advise.errors import LoraAdviseError
from lora_advise.plan_yaml import core_value, yaml_problem
from lora_advise.report_words import plain

_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIRECTIVE = re.compile(r"(?:\A|[\n\r\x85\u2028\u2029])%")
MAX_DIRECTIVES = 50
"""YAML readers look each one up among all others."""
_PROPERTY = re.compile(r"(?:!<[^>\s]*>|[&!][^\s,\[\]{}]*)(?:\s+(?:#[^\n\r]*)?)*")
_OUTSIDE = re.compile(
    r"!<[^>\s]*>|[&*!][^\s,\[\]{}]*|^%(?:[^\s#]|(?<=\S)#|[ \t])*|(?P<comment>#[^\n\r\x85\u2028\u2029]*)", re.MULTILINE
)
"""What may stand between scalars and hold a number sign."""
_GROUPED = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.(?:[0-9]+(?:_[0-9]+)*)?)?(?:[eE][-+]?[0-9]+)?")
_RADIX = re.compile(r"0x[0-9a-fA-F]{1,16}|0o[0-7]{1,21}")
_SPECIAL = re.compile(r"(?P<inf>[-+]?\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)")
_HEADER = re.compile(r"[^\n\r]*")
"""Of a block scalar: ``|-`` and maybe a comment."""
_BLANKS = " \t\n\r\x85\u2028\u2029"
_MERGED_TWICE = (
    "Mappings merged on line {line} share a key: the first counts, as YAML's merge keys and PyYAML 6.0.2 have it; "
    "PyYAML 6.0.4 takes the last."
)
_CORE = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


def read_yaml(text: str, name: str) -> Document:
    """The settings of a YAML file, a config for each of its documents that is not empty.

    Raises LoraAdviseError with line and column for text that is not YAML, or is larger than any config.
    """
    text = text.lstrip("\ufeff")
    places = Places(text, name)
    _readable(places)
    reader = _Reader(places, Budget(places))
    for event in _events(places):
        reader.take(event)
    roots = [root for root in reader.roots if root[0].end > root[0].start] or reader.roots[:1]
    configs = [config_of(root, reader.budget, notes) for root, notes in roots] or [config_of(None, reader.budget)]
    return Document(name, text, "yaml", tuple(configs), tuple(_comments(places, reader.scalars)))


def yaml_number(text: str) -> Any:
    """A scalar without quotes and tag: its value in the schema that this module's first lines describe."""
    value = core_value(text)
    if not isinstance(value, str) or len(value) > 400:
        return value
    if "_" in value and _GROUPED.fullmatch(value):
        return core_value(value.replace("_", ""))
    if _RADIX.fullmatch(value):
        return int(value, 0)
    special = _SPECIAL.fullmatch(value)
    if special:
        return float((special["inf"] or ".nan").replace(".", ""))
    return value


def _readable(places: Places) -> None:
    wrong = _UNREADABLE.search(places.text)
    if wrong:
        raise places.error(wrong.start(), f"the character U+{ord(wrong[0]):04X} is not allowed in YAML; remove it")
    for number, directive in enumerate(_DIRECTIVE.finditer(places.text), 1):
        if number > MAX_DIRECTIVES:
            raise places.error(directive.end() - 1, f"more than {MAX_DIRECTIVES} directives (%); a config needs none")


def _events(places: Places) -> Iterator[Any]:
    import yaml

    events = yaml.parse(places.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    while True:
        try:
            event = next(events, None)
        except yaml.YAMLError as error:
            raise _not_yaml(places, error) from None
        except ValueError as error:  # an escape or a version number that Python cannot hold
            raise places.error(0, f"not readable as YAML: {plain(error)[:120]}; mend it there") from None
        if event is None:
            return
        yield event


def _not_yaml(places: Places, error: Any) -> LoraAdviseError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = mark.index if mark is not None else 0
    line = places.line_of(min(offset, len(places.text))) + places.text[offset : offset + 200].partition("\n")[0]
    way_out = "mend it there"
    if "{%" in line or "{{" in line:
        way_out = "this looks like a template, so fill it in and lint the result"
    elif "\t" in line:
        way_out = "indent with spaces, not tabs"
    return places.error(offset, f"not readable as YAML: {plain(yaml_problem(error))[:120]}; {way_out}")


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    node: Node
    event: Any
    notes: int
    """How many notes there were before it."""
    key: Node | None = None


class _Reader:
    """Takes the events of all documents."""

    def __init__(self, places: Places, budget: Budget) -> None:
        self.places, self.text, self.budget = places, places.text, budget
        self.roots: list[tuple[Node, tuple[str, ...]]] = []
        self.scalars: list[tuple[int, int]] = []
        """Where no comment can stand, in the order of the text."""
        self._count = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._notes: list[str] = []

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            self._finish(self._scalar(event), event.anchor)
        elif kind == "AliasEvent":
            self._finish(self._alias(event), None)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._open(event, "mapping" if kind == "MappingStartEvent" else "list")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._close(event)
        elif kind == "DocumentStartEvent":
            self._anchors, self._notes = {}, []

    def _open(self, event: Any, kind: Any) -> None:
        start = self._begin(event)
        if len(self._stack) >= MAX_DEPTH:
            raise too_deep(self.places, start)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(Node(start, start, kind, []), event, len(self._notes)))

    def _close(self, event: Any) -> None:
        done = self._stack.pop()
        node, opened = done.node, done.event
        if opened.flow_style:
            node.end = event.end_mark.index
        if node.kind == "mapping" and any(pair.merged for pair in node.content):
            kept = {id(pair) for pair in node.winners()}
            node.content = [pair for pair in node.content if not pair.merged or id(pair) in kept]
        foreign = opened.tag not in (None, "!", f"{_CORE}map", f"{_CORE}seq")
        if foreign or (opened.flow_style and _is_template(self.text[node.start : node.end])):
            del self._notes[done.notes :]
            source = self.text[opened.start_mark.index if foreign else node.start : node.end]
            node = Node(node.start, node.end, "scalar", Unresolved(source), text=self.text[node.start : node.end])
        self._finish(node, opened.anchor)

    def _finish(self, node: Node, anchor: str | None) -> None:
        """Give a complete value to what holds it."""
        self._count += 1
        if self._count > 2 * MAX_ENTRIES + 2:
            self.budget.spend(node.start, MAX_ENTRIES + 1)
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.roots.append((node, tuple(self._notes)))
            return
        top = self._stack[-1]
        top.node.end = max(top.node.end, node.end)
        if top.node.kind == "list":
            top.node.content.append(node)
        elif top.key is None:
            top.key = node
        else:
            self._pair(top, top.key, node)
            top.key = None

    def _pair(self, top: _Open, key: Node, node: Node) -> None:
        named = key.content if key.kind == "alias" else key
        if named.kind != "scalar" or isinstance(named.content, Unresolved):
            line = self.places.at(key.start)[0]
            self._notes.append(f"The key on line {line} is not a word; it was passed over.")
        elif named.text == "<<" and not named.quoted:
            self._merge(top, node)
        else:
            word = named.content if isinstance(named.content, str) else named.text
            edge = 1 if key.quoted else 0
            top.node.content.append(Pair(word, key.start + edge, key.end - edge, node))

    def _merge(self, top: _Open, node: Node) -> None:
        target = node.content if node.kind == "alias" else node
        merged = target.content if target.kind == "list" else [target]
        names: set[str] = set()
        for source in merged:
            mapping = source.content if source.kind == "alias" else source
            if mapping.kind != "mapping":
                line = self.places.at(source.start)[0]
                self._notes.append(f"The merge key << takes mappings; what stands on line {line} was passed over.")
                continue
            pairs = mapping.winners()
            self.budget.spend(node.start, len(mapping.content) + 1)
            if not names.isdisjoint(pair.name for pair in pairs):
                self._notes.append(_MERGED_TWICE.format(line=self.places.at(node.start)[0]))
            top.node.content += [pair._replace(merged=True) for pair in pairs if pair.name not in names]
            names |= {pair.name for pair in pairs}

    def _alias(self, event: Any) -> Node:
        start, end = event.start_mark.index, event.end_mark.index
        target = self._anchors.get(event.anchor)
        if target is None:
            why = "stands within its own anchor" if event.anchor in self._anchors else "has no anchor before it"
            raise self.places.error(start, f"the alias *{plain(event.anchor)[:60]} {why}; write the value out")
        return Node(start, end, "alias", target)

    def _scalar(self, event: Any) -> Node:
        start, end = self._begin(event), event.end_mark.index
        covered = start
        quoted = event.style in ("'", '"')
        if event.style in ("|", ">"):
            end = start + len(self.text[start:end].rstrip(_BLANKS))
            header = _HEADER.match(self.text, start, end)
            covered = header.end() if header else end
        elif start == end and self._stack and self._stack[-1].key and self.text[start - 1 : start] != ":":
            start = end = self._stack[-1].key.end  # a key without a colon: the parser looks for one until the next key
        if end > covered:
            self.scalars.append((covered, end))
        written = self.text[start + 1 : end - 1] if quoted else self.text[start:end]
        value = _value(event, self.text[min(event.start_mark.index, start) : end])
        return Node(start, end, "scalar", value, quoted, written)

    def _begin(self, event: Any) -> int:
        """Where the value itself begins, after its anchor and tag."""
        start: int = event.start_mark.index
        for given in (event.anchor, event.tag):
            found = _PROPERTY.match(self.text, start) if given is not None else None
            start = found.end() if found else start
        return min(start, event.end_mark.index) if type(event).__name__ == "ScalarEvent" else start


def _is_template(source: str) -> bool:
    """``{{ name }}``: to YAML a mapping whose key is a mapping, to its author what a template fills in."""
    return source.startswith("{{") and source.endswith("}}")


def _value(event: Any, source: str) -> Any:
    """The value of a scalar; Unresolved where its tag is none of the core schema, or does not fit it."""
    if event.implicit[0]:
        return yaml_number(event.value)
    if event.implicit[1] or event.tag in (None, "!", f"{_CORE}str"):
        return event.value
    kind = event.tag.removeprefix(_CORE)
    value: Any = yaml_number(event.value.strip())
    if type(value) not in _TYPES.get(kind, ()):
        return Unresolved(source)
    return float(value) if kind == "float" else value


def _comments(places: Places, scalars: list[tuple[int, int]]) -> Iterator[Comment]:
    position = count = 0
    for start, end in [*scalars, (len(places.text), len(places.text))]:
        for found in _OUTSIDE.finditer(places.text, position, start):
            if found["comment"] is not None:
                count += 1
                if count > MAX_ENTRIES:
                    raise places.error(
                        found.start(), f"more than {MAX_ENTRIES:,} comments, so this is no config; leave it out"
                    )
                line, column = places.at(found.start())
                alone = not places.line_of(found.start()).strip()
                yield Comment(line, found["comment"][1:].strip(), alone, column)
        position = end
