"""From the nodes of a YAML or JSON document to its settings: paths, repeated and merged keys, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lora_advise.document import MAX_DEPTH, MAX_ENTRIES, Config, Entry, Path
from lora_advise.document_places import Places


class Pair(NamedTuple):
    """A key and its value in a mapping."""

    name: str
    start: int
    end: int
    """Of the key, without quotes."""
    node: Node
    merged: bool = False
    """Whether ``<<`` brought it in: keys of the mapping itself go first."""


@dataclass(slots=True)
class Node:
    """A value and where it stands; ``end`` moves while a mapping or list is read."""

    start: int
    end: int
    kind: Literal["scalar", "list", "mapping", "alias"]
    content: Any = None
    """A scalar's value, a list's nodes, a mapping's pairs, the node of an alias."""
    quoted: bool = False
    text: str = ""
    """A scalar as written, without quotes."""

    def winners(self) -> list[Pair]:
        """The pairs of a mapping that count, in the order of the text: the last of each name, but its own before merged."""
        last: dict[str, int] = {}
        for number, pair in enumerate(self.content):
            if not pair.merged or pair.name not in last or self.content[last[pair.name]].merged:
                last[pair.name] = number
        return [self.content[number] for number in sorted(last.values())]


class Budget:
    """How many settings a document may still have: aliases and merge keys multiply them."""

    def __init__(self, places: Places) -> None:
        self.places, self.left = places, MAX_ENTRIES

    def spend(self, offset: int, count: int = 1) -> None:
        """Take that many. Raises LoraAdviseError when the document has more than MAX_ENTRIES."""
        self.left -= count
        if self.left < 0:
            raise self.places.error(offset, f"more than {MAX_ENTRIES:,} settings, so this is no config; leave it out")


def too_deep(places: Places, offset: int) -> Exception:
    """The error for a document that is nested deeper than MAX_DEPTH."""
    return places.error(offset, f"nested deeper than {MAX_DEPTH} levels, so this is no config; leave it out")


def config_of(root: Node | None, budget: Budget, notes: tuple[str, ...] = ()) -> Config:
    """The settings below the root. Raises LoraAdviseError when there are too many, or too deep."""
    places = budget.places
    if root is None:
        return Config("mapping", (), (), places.span(0, len(places.text)), notes=notes)
    span = places.span(root.start, root.end)
    if root.kind == "scalar":
        if root.content is not None:
            notes = (*notes, f"Line {span.line} is a single value, not settings.")
        return Config("mapping", (), (), span, notes=notes)
    walk = _Walk(budget)
    walk.inside(root, (), walk.entries)
    return Config("mapping", (), tuple(walk.entries), span, shadowed=tuple(walk.shadowed), notes=notes)


class _Walk:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.entries: list[Entry] = []
        self.shadowed: list[Entry] = []

    def inside(self, node: Node, path: Path, out: list[Entry]) -> Any:
        """The value of a node; entries of what it holds are added to ``out``."""
        if len(path) > MAX_DEPTH:
            raise too_deep(self._budget.places, node.start)
        if node.kind == "alias":
            return self.inside(node.content, path, out)
        if node.kind == "list":
            return tuple(self._entry(item, (*path, n), None, out) for n, item in enumerate(node.content))
        if node.kind == "scalar":
            return node.content
        values: dict[str, Any] = {}
        winners = {id(pair) for pair in node.winners()}
        for pair in node.content:
            if id(pair) in winners:
                values[pair.name] = self._entry(pair.node, (*path, pair.name), pair, out)
            else:
                self._entry(pair.node, (*path, pair.name), pair, self.shadowed)
        return values

    def _entry(self, node: Node, path: Path, pair: Pair | None, out: list[Entry]) -> Any:
        self._budget.spend(node.start)
        places, place = self._budget.places, len(out)
        key = places.span(pair.start, pair.end) if pair else None
        span = key if key and node.start == node.end else places.span(node.start, node.end)
        literal = node.content if node.kind == "alias" else node
        entry = Entry(path, None, span, key, literal.quoted, literal.text)
        if literal is not node and literal.end > literal.start:
            entry = entry._replace(via=places.span(literal.start, literal.end))
        out.append(entry)
        value = self.inside(node, path, out)
        out[place] = entry._replace(value=value)
        return value
