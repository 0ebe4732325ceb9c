"""Where the value of a name, an attribute or an item is written: what was bound last for certain, or nothing."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from lora_advise.document import Path
from lora_advise.python_names import Binding, Parameter, Place, Program, Scope, dotted_name, update_items

MAX_STEPS = 200_000
"""Look-ups and expressions that are read for one document; beyond it everything is unresolved."""
MAX_HOPS = 40
_PARSERS = frozenset({"parse_args_into_dataclasses", "parse_args_and_config", "parse_dict", "parse_json_file", "parse_yaml_file"})
_FACTORIES = frozenset({"field", "Field", "HfArg", "Arg"})


class Found(NamedTuple):
    """An expression, and the moment at which it was written."""

    node: ast.expr
    place: Place


class Item(NamedTuple):
    """An item of a dict as written; no value where it hangs on a condition."""

    key: ast.expr | None
    value: Found | None


class Option(NamedTuple):
    """``parser.add_argument("--lr", type=float, default=2e-4)``."""

    name: str
    flag: ast.expr
    default: Found | None
    kind: str
    """The name of ``type``; ``str`` where there is none."""


class Lookup:
    """Answers where things are written; one for a document."""

    def __init__(self, program: Program, options: Mapping[str, Option]) -> None:
        self.program, self.options = program, options
        self.steps = 0

    def spent(self) -> bool:
        """Count a step; whether there have been too many."""
        self.steps += 1
        return self.steps > MAX_STEPS

    def binding(self, name: str, place: Place) -> tuple[Binding | None, list[Binding]]:
        """What the name is bound to for certain, and what happened to it since (items and attributes, latest first)."""
        scope, blocks, at, later = place.scope, place.blocks, place.at, False
        while True:
            if name in scope.bindings and not (later and scope.kind == "class"):
                return self._last(scope.bindings[name], Place(scope, blocks, at), later)
            if scope.outer is None:
                return None, []
            later = later or scope.kind == "function"
            scope, blocks, at = scope.outer

    def _last(self, bindings: list[Binding], place: Place, later: bool) -> tuple[Binding | None, list[Binding]]:
        """``later``: the code is in a function, which may run after everything else in this scope."""
        count = bisect_right(bindings, place.at, key=lambda binding: binding.place.at)
        if later and count < len(bindings):
            if sum(binding.kind not in ("item", "attribute") for binding in bindings) > 1:
                return None, []
            count = len(bindings)
        elif count < len(bindings) and bindings[count].place.at < self._loop_end(place.blocks):
            return None, []
        since: list[Binding] = []
        for binding in reversed(bindings[max(0, count - 200) : count]):
            if binding.kind not in ("item", "attribute"):
                return (binding if binding.place.sure_at(place.blocks) else None), since
            since.append(binding)
        return None, since

    def _loop_end(self, blocks: tuple[int, ...]) -> int:
        return next((self.program.loop_ends[block] for block in blocks if block in self.program.loop_ends), 0)

    def definition(self, node: ast.expr, place: Place) -> Found | None:
        """One step from a name, an attribute or an item to the expression that it stands for."""
        if self.spent():
            return None
        if isinstance(node, ast.Name):
            return self._name(node.id, place)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, place)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, place)
        return None

    def follow(self, node: ast.expr, place: Place) -> Found:
        """The expression that a name stands for in the end; the node itself where nothing is known."""
        found = Found(node, place)
        for _ in range(MAX_HOPS):
            further = self.definition(*found)
            if further is None:
                return found
            found = further
        return found

    def _name(self, name: str, place: Place) -> Found | None:
        bound, since = self.binding(name, place)
        if bound is None:
            return None
        if bound.kind == "parameter" and bound.parameter and bound.node:
            if self._overridden(bound.parameter) or any(event.kind == "item" for event in since):
                return None
            outer = bound.place.scope.outer
            return Found(bound.node, outer) if outer else None
        if bound.kind != "value" or bound.node is None:
            return None
        found = Found(bound.node, bound.place)
        changed = any(event.kind == "item" for event in since)
        return None if changed and not isinstance(bound.node, (ast.Dict, ast.Call)) else found

    def _overridden(self, parameter: Parameter) -> bool:
        """Whether some call in the file gives that parameter, or may give it."""
        for call in self.program.calls.get(parameter.function, ()):
            if any(keyword.arg in (None, parameter.name) for keyword in call.keywords):
                return True
            if len(call.args) > parameter.position >= 0 or any(isinstance(a, ast.Starred) for a in call.args):
                return True
        return False

    def _attribute(self, node: ast.Attribute, place: Place) -> Found | None:
        if isinstance(node.value, ast.Name):
            for event in self.binding(node.value.id, place)[1]:
                if event.kind == "attribute" and event.key == node.attr:
                    sure = event.node and event.place.sure_at(place.blocks)
                    return Found(event.node, event.place) if sure and event.node else None
        scope = self.class_of(node.value, place)
        if scope is not None:
            made = self.follow(node.value, place)
            given = keyword_of(made.node, node.attr)
            return Found(given, made.place) if given else self.class_attribute(scope, node.attr)
        made = self.follow(node.value, place)
        if isinstance(made.node, ast.Call) and (dotted_name(made.node.func) or ("",))[-1][:1].isupper():
            given = keyword_of(made.node, node.attr)
            return Found(given, made.place) if given else None
        option = self.option(node, made)
        return option.default if option else None

    def option(self, node: ast.expr, made: Found | None = None) -> Option | None:
        """The command-line option that ``args.lr`` reads."""
        if not isinstance(node, ast.Attribute) or node.attr not in self.options or not isinstance(node.value, ast.Name):
            return None
        named = node.value.id.lower().endswith(("args", "arguments", "opt", "opts", "options", "flags", "hparams"))
        parsed = made is not None and isinstance(made.node, ast.Call) and dotted_name(made.node.func)[-1:] == ("parse_args",)
        return self.options[node.attr] if named or parsed else None

    def class_of(self, node: ast.expr, place: Place, hops: int = 0) -> Scope | None:
        """The class of the file that a name is, or is an instance of."""
        if isinstance(node, ast.Name):
            bound, _ = self.binding(node.id, place)
            if bound is None or self.spent() or hops > MAX_HOPS:
                return None
            if bound.kind == "class":
                return bound.scope
            if bound.kind == "part" and bound.node:
                return self._parsed(bound.node, bound.place, bound.key)
            if bound.kind == "parameter" and bound.parameter and bound.parameter.annotation and bound.node is None:
                outer = bound.place.scope.outer
                return self.class_of(bound.parameter.annotation, outer, hops + 1) if outer else None
        made = self.follow(node, place)
        if isinstance(made.node, ast.Subscript) and isinstance(made.node.slice, ast.Constant):
            return self._parsed(made.node.value, made.place, made.node.slice.value)
        if isinstance(made.node, ast.Name) and made.node is not node:
            return self.class_of(made.node, made.place, hops + 1)
        if isinstance(made.node, ast.Call) and hops <= MAX_HOPS:
            if isinstance(made.node.func, ast.Name):
                return self.class_of(made.node.func, made.place, hops + 1) if made.node.func is not node else None
            if dotted_name(made.node.func)[-1:] == ("cli",) and made.node.args:
                return self.class_of(made.node.args[0], made.place, hops + 1)
        return None

    def _parsed(self, node: ast.expr, place: Place, index: object) -> Scope | None:
        """The class at that index of what ``HfArgumentParser((A, B)).parse_args_into_dataclasses()`` gives."""
        function = node.func if isinstance(node, ast.Call) else None
        if not isinstance(function, ast.Attribute) or function.attr not in _PARSERS:
            return None
        parser = self.follow(function.value, place)
        if not isinstance(parser.node, ast.Call):
            return None
        listed = parser.node.args[0] if parser.node.args else keyword_of(parser.node, "dataclass_types")
        if listed is None:
            return None
        kinds = self.follow(listed, parser.place)
        if isinstance(kinds.node, (ast.Tuple, ast.List)):
            inside = isinstance(index, int) and 0 <= index < len(kinds.node.elts)
            return self.class_of(kinds.node.elts[index], kinds.place) if inside else None  # type: ignore[index]
        return self.class_of(kinds.node, kinds.place) if index == 0 else None

    def class_attribute(self, scope: Scope, name: str, hops: int = 0) -> Found | None:
        """The default of a field, in the class or those that it inherits from."""
        if name in scope.bindings:
            bound = scope.bindings[name][-1]
            whole = bound.kind == "value" and bound.node and not bound.place.blocks
            return Found(field_default(bound.node), bound.place) if whole and bound.node else None
        site = next((site for site in self.program.classes if site.scope is scope), None)
        for base in site.node.bases if site and hops < 8 else ():
            kind = self.class_of(base, site.place) if site else None
            found = self.class_attribute(kind, name, hops + 1) if kind else None
            if found:
                return found
        return None

    def _subscript(self, node: ast.Subscript, place: Place) -> Found | None:
        if not isinstance(node.slice, ast.Constant):
            return None
        items = self.mapping(node.value, place)
        item = items.get(str(node.slice.value)) if items is not None else None
        return item.value if item else None

    def mapping(self, node: ast.expr, place: Place, hops: int = 0) -> dict[str, Item] | None:
        """The items of a dict by key, with what was set since; None where some of its keys are not known."""
        if hops > MAX_HOPS or self.spent():
            return None
        if isinstance(node, ast.Dict):
            return self._literal(node, place, hops)
        if isinstance(node, ast.Call):
            return self._dict_call(node, place)
        found = self.definition(node, place)
        items = self.mapping(*found, hops + 1) if found else None
        since = self.binding(node.id, place)[1] if isinstance(node, ast.Name) else []
        for event in reversed(since) if items is not None else ():
            if event.kind == "item":
                key = constant_key(event.key)
                if key is None:
                    return None
                sure = event.node and event.place.sure_at(place.blocks)
                value = Found(event.node, event.place) if sure and event.node else None
                items = {**(items or {}), key: Item(event.key if isinstance(event.key, ast.expr) else None, value)}
        return items

    def _literal(self, node: ast.Dict, place: Place, hops: int) -> dict[str, Item] | None:
        items: dict[str, Item] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self.mapping(value, place, hops + 1)
                if more is None:
                    return None
                items |= more
                continue
            name = constant_key(key)
            if name is None:
                return None
            items[name] = Item(key, Found(value, place))
        return items

    def _dict_call(self, node: ast.Call, place: Place) -> dict[str, Item] | None:
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or self.binding("dict", place)[0]:
            return None
        items = update_items(node)
        named = [(constant_key(key), key, value) for key, value in items or ()]
        if items is None or any(name is None for name, _, _ in named):
            return None
        return {
            str(name): Item(key if isinstance(key, ast.expr) else None, Found(value, place)) for name, key, value in named
        }


def constant_key(key: object) -> str | None:
    """A key that is written out, as text."""
    if isinstance(key, ast.Constant) and isinstance(key.value, (str, int)):
        return str(key.value) if len(str(key.value)) <= 500 else None
    return key if isinstance(key, str) else None


def keyword_of(node: ast.expr, name: str) -> ast.expr | None:
    """The argument of that name in a call."""
    keywords = node.keywords if isinstance(node, ast.Call) else ()
    return next((keyword.value for keyword in keywords if keyword.arg == name), None)


def field_default(node: ast.expr) -> ast.expr:
    """What ``field(default=8)`` or ``field(default_factory=lambda: [])`` gives; other expressions are themselves."""
    if not isinstance(node, ast.Call) or dotted_name(node.func)[-1:] not in {(name,) for name in _FACTORIES}:
        return node
    made = keyword_of(node, "default_factory")
    if isinstance(made, ast.Lambda):
        return made.body
    return keyword_of(node, "default") or (node.args[0] if node.args else node)


def path_text(path: Path) -> str:
    """A path as people write it."""
    return ".".join(map(str, path))
