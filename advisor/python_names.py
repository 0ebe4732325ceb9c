"""What the names of a Python program are bound to, in which order, and where its calls stand. Nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Literal, NamedTuple

from lora_advise.python_syntax import update_items, written_text
from lora_advise.python_text import TooLarge

Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_HOPS = 40
"""Steps from a name to what it stands for."""
MAX_MOMENTS = 100_000
"""Statements, bindings and calls of a program."""
Kind = Literal["value", "part", "unknown", "import", "class", "parameter", "item", "attribute", "change"]
CHANGES = ("item", "attribute", "change")
"""What changes the thing that a name stands for, and not which thing it stands for."""
_CHANGING = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "pop",
        "clear",
        "sort",
        "reverse",
        "setdefault",
        "popitem",
        "add",
        "discard",
        "__setitem__",
    ]
)
"""Methods after which a list, dict or set is no longer what was written; ``update`` is read."""


class Scope:
    """A namespace: the module, a function, a class, or a comprehension, which runs where it stands."""

    def __init__(self, kind: Literal["module", "function", "class", "inline"], outer: Place | None = None) -> None:
        self.kind, self.outer = kind, outer
        self.bindings: dict[str, list[Binding]] = {}
        self.disturbed: dict[str, list[Binding]] = {}
        """What functions inside may do to a name of this scope: nobody knows when."""

    def has(self, name: str) -> bool:
        """Whether something was bound to that name here."""
        return any(binding.kind not in CHANGES for binding in self.bindings.get(name, ())[:1])


class Place(NamedTuple):
    """A moment of the program as its text runs: the scope, the conditional blocks around it, and a running number."""

    scope: Scope
    blocks: tuple[int, ...]
    at: int

    def sure_at(self, blocks: tuple[int, ...]) -> bool:
        """Whether what happens here has happened for code in those blocks."""
        return blocks[: len(self.blocks)] == self.blocks


class Parameter(NamedTuple):
    """A parameter of a function of the file."""

    function: str
    name: str
    position: int
    """Among the arguments that a caller writes; -1 for one that is given by name only."""
    default: ast.expr | None
    annotation: ast.expr | None


class Binding(NamedTuple):
    """Something that happens to a name."""

    kind: Kind
    place: Place
    node: ast.expr | None = None
    """The value bound; of ``part`` the value that is taken apart."""
    key: ast.expr | ast.keyword | str | int | None = None
    """Of ``value`` the name where it is written; of ``item`` the key; of ``attribute`` its name; of ``import`` what is imported; of ``part`` the index."""
    parameter: Parameter | None = None
    scope: Scope | None = None
    """Of a class."""
    read: Place | None = None
    """Where and when the value was computed: in ``a, b = b, a`` before all of its bindings."""

    def value(self) -> Found | None:
        """The value as an expression, where it was computed."""
        return Found(self.node, self.read or self.place) if self.node else None

    def unsure(self) -> Binding:
        """The same at no certain moment."""
        return self._replace(place=self.place._replace(blocks=(-1,)))


class CallSite(NamedTuple):
    """A call and its moment."""

    call: ast.Call
    place: Place


class AttributeSet(NamedTuple):
    """``args.learning_rate = 1e-3``."""

    target: ast.Attribute
    value: ast.expr
    place: Place


class ClassSite(NamedTuple):
    """A class of the file."""

    node: ast.ClassDef
    scope: Scope
    place: Place


class Found(NamedTuple):
    """An expression, and the moment at which it was written."""

    node: ast.expr
    place: Place
    kind: str = ""
    """What a command line makes of a text: the name of ``type``."""


class Item(NamedTuple):
    """An item of a dict as written; no value where it hangs on a condition."""

    key: ast.expr | ast.keyword | None
    value: Found | None


class Option(NamedTuple):
    """``parser.add_argument("--lr", type=float, default=2e-4)``."""

    name: str
    flag: ast.expr
    default: Found | None
    kind: str
    """The name of ``type``; ``str`` where there is none."""


class Program:
    """Everything that the text says of names, gathered in one walk over the syntax trees of a file or of its cells."""

    def __init__(self) -> None:
        self.module = Scope("module")
        self.modules: dict[str, None] = {}
        """Imported, in order."""
        self.events: list[CallSite | AttributeSet] = []
        self.classes: dict[Scope, ClassSite] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        """By the last part of the called name."""
        self.loop_ends: dict[int, int] = {}
        """Moments at which the blocks that are loops end."""
        self.environment: list[tuple[str, ast.expr, Place]] = []
        self._clock = 0

    def tick(self) -> int:
        """The next moment. Raises TooLarge when there have been too many."""
        self._clock += 1
        if self._clock > MAX_MOMENTS:
            raise TooLarge
        return self._clock

    def bind(self, name: str, kind: Kind, place: Place, node: ast.expr | None = None, **more: object) -> None:
        """Note what happens to a name."""
        now = place._replace(at=self.tick())
        made = Binding(kind, now, node, **{"read": place if place.at else now, **more})  # type: ignore[arg-type]
        if kind in CHANGES and place.scope.kind != "module" and not place.scope.has(name):
            self._disturb(name, made)
            return
        place.scope.bindings.setdefault(name, []).append(made)

    def _disturb(self, name: str, change: Binding) -> None:
        """Note for the scopes around that a name of theirs may be changed."""
        outer = change.place.scope.outer
        while outer is not None:
            changes = outer.scope.disturbed.setdefault(name, [])
            kind: Kind = change.kind if len(changes) < MAX_HOPS else "change"
            if len(changes) <= MAX_HOPS:
                changes.append(change._replace(kind=kind).unsure())
            outer = outer.scope.outer

    def target(self, target: ast.expr, value: ast.expr | None, place: Place) -> None:
        """Assign to whatever stands left of ``=``; without a value it is unknown."""
        if isinstance(target, ast.Name):
            self.bind(target.id, "value" if value else "unknown", place, value, key=target)
        elif isinstance(target, ast.Starred):
            self.target(target.value, None, place)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, place)
        elif isinstance(target, ast.Attribute):
            self._attribute(target, value, place)
        elif isinstance(target, ast.Subscript):
            self._item(target, value, place)

    def _unpack(self, targets: list[ast.expr], value: ast.expr | None, place: Place) -> None:
        starred = any(isinstance(target, ast.Starred) for target in targets)
        if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(targets) and not starred:
            for target, part in zip(targets, value.elts, strict=True):
                self.target(target, part, place)
            return
        for index, target in enumerate(targets):
            if isinstance(target, ast.Name) and value and not starred:
                self.bind(target.id, "part", place, value, key=index)
            else:
                self.target(target, None, place)

    def _attribute(self, target: ast.Attribute, value: ast.expr | None, place: Place) -> None:
        root = target.value
        if isinstance(root, ast.Name):
            self.bind(root.id, "attribute", place, value, key=target.attr)
            outer = place.scope.outer
            if root.id == "self" and outer is not None and outer.scope.kind == "class":
                inside = outer._replace(blocks=(*outer.blocks, *place.blocks))
                self.bind(target.attr, "value" if value else "unknown", inside, value, read=place)
        if value is not None:
            self.events.append(AttributeSet(target, value, place))

    def _item(self, target: ast.Subscript, value: ast.expr | None, place: Place) -> None:
        root = target.value
        if isinstance(root, ast.Name):
            self.bind(root.id, "item" if value else "change", place, value, key=target.slice)
        elif isinstance(root, ast.Attribute) and root.attr == "environ" and value and written_text(target.slice):
            self.environment.append((written_text(target.slice), value, place._replace(at=self.tick())))
        else:
            while isinstance(root, (ast.Subscript, ast.Attribute)):
                root = root.value
            if isinstance(root, ast.Name):
                self.bind(root.id, "change", place)

    def call(self, call: ast.Call, place: Place) -> None:
        """Note a call, and what it does to the thing whose method it is."""
        self.events.append(CallSite(call, place._replace(at=self.tick())))
        place = place._replace(at=self._clock)
        function = call.func
        if isinstance(function, ast.Name):
            self.calls.setdefault(function.id, []).append(call)
        if isinstance(function, ast.Attribute):
            self.calls.setdefault(function.attr, []).append(call)
            if isinstance(function.value, ast.Name):
                self._method(function.value.id, function.attr, call, place)

    def _method(self, name: str, method: str, call: ast.Call, place: Place) -> None:
        if method in _CHANGING:
            self.bind(name, "change", place)
        elif method == "update":
            items = update_items(call)
            if items is None:
                self.bind(name, "change", place)
            for key, value in items or ():
                self.bind(name, "item", place, value, key=key)


def parameters(function: Function | ast.Lambda) -> Iterable[Parameter]:
    """The parameters of a function with their defaults."""
    spec = function.args
    name = "" if isinstance(function, ast.Lambda) else function.name
    listed = [*spec.posonlyargs, *spec.args]
    skip = 1 if listed and listed[0].arg in ("self", "cls") else 0
    missing: list[ast.expr | None] = [None] * (len(listed) - len(spec.defaults))
    for position, (arg, default) in enumerate(zip(listed, [*missing, *spec.defaults], strict=True)):
        yield Parameter(name, arg.arg, position - skip, default, arg.annotation)
    for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        yield Parameter(name, arg.arg, -1, default, arg.annotation)
    for star in (spec.vararg, spec.kwarg):
        if star:
            yield Parameter(name, star.arg, -1, None, None)
