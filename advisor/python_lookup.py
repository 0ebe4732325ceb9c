"""Where the value of a name, an attribute or an item is written: what was bound last for certain, or nothing."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Mapping

from lora_advise.python_classes import class_attribute, class_of
from lora_advise.python_names import CHANGES, MAX_HOPS, Binding, Found, Item, Option, Parameter, Place, Program
from lora_advise.python_syntax import dotted_name, keyword_of

MAX_STEPS = 200_000
"""Look-ups and expressions that are read for one document; beyond it everything is unresolved."""
_NAMESPACES = ("args", "arguments", "opt", "opts", "options", "flags", "hparams")
"""Ends of the names that hold what the command line gave, wherever they come from."""


class Lookup:
    """Answers where things are written; one for a document."""

    def __init__(self, program: Program, options: Mapping[str, Option]) -> None:
        self.program, self.options = program, options
        self.steps = 0
        self._depth = 0

    def spent(self) -> bool:
        """Count a step; whether there have been too many."""
        self.steps += 1
        return self.steps > MAX_STEPS

    def binding(self, name: str, place: Place) -> tuple[Binding | None, list[Binding]]:
        """What the name is bound to for certain, and what happened to it since (items and attributes, latest first)."""
        scope, blocks, at, later = place.scope, place.blocks, place.at, False
        while True:
            if name in scope.bindings and not (later and scope.kind == "class"):
                bound, since = self._last(scope.bindings[name], Place(scope, blocks, at), later)
                return bound, [*scope.disturbed.get(name, ()), *since]
            if scope.outer is None:
                return None, []
            later = later or scope.kind == "function"
            scope, blocks, at = scope.outer

    def _last(self, bindings: list[Binding], place: Place, later: bool) -> tuple[Binding | None, list[Binding]]:
        """``later``: the code is in a function, which may run after everything else in this scope."""
        count = bisect_right(bindings, place.at, key=lambda binding: binding.place.at)
        if later and count < len(bindings):
            if any(binding.kind not in CHANGES for binding in bindings[max(1, count) :]):
                return None, []
            count = len(bindings)
        elif count < len(bindings) and bindings[count].place.at < self._loop_end(place.blocks):
            return None, []
        since: list[Binding] = []
        for binding in reversed(bindings[max(0, count - 200) : count]):
            if binding.kind not in CHANGES:
                return (binding if binding.place.sure_at(place.blocks) else None), since
            self.steps += 1
            since.append(binding if binding.place.at <= place.at else binding.unsure())
        return None, since

    def _loop_end(self, blocks: tuple[int, ...]) -> int:
        return next((self.program.loop_ends[block] for block in blocks if block in self.program.loop_ends), 0)

    def definition(self, node: ast.expr, place: Place) -> Found | None:
        """One step from a name, an attribute or an item to the expression that it stands for."""
        if self.spent() or self._depth > MAX_HOPS:
            return None
        self._depth += 1
        try:
            if isinstance(node, ast.Name):
                return self._name(node.id, place)
            if isinstance(node, ast.Attribute):
                return self._attribute(node, place)
            return self._subscript(node, place) if isinstance(node, ast.Subscript) else None
        finally:
            self._depth -= 1

    def follow(self, node: ast.expr, place: Place) -> Found:
        """The expression that a name stands for in the end; the node itself where nothing is known."""
        found = Found(node, place)
        for _ in range(MAX_HOPS):
            further = self.definition(found.node, found.place)
            if further is None:
                break
            found = further._replace(kind=further.kind or found.kind)
        return found

    def _name(self, name: str, place: Place) -> Found | None:
        bound, since = self.binding(name, place)
        if bound is None:
            return None
        if bound.kind == "parameter" and bound.parameter and bound.node:
            if self._overridden(bound.parameter) or _changed(since):
                return None
            outer = bound.place.scope.outer
            return Found(bound.node, outer) if outer else None
        if bound.kind != "value" or bound.node is None:
            return None
        return None if _changed(since) and not is_dict(bound.node) else bound.value()

    def _overridden(self, parameter: Parameter) -> bool:
        """Whether some call in the file gives that parameter, or may give it."""
        for call in self.program.calls.get(parameter.function, ()):
            self.steps += 1
            if any(keyword.arg in (None, parameter.name) for keyword in call.keywords):
                return True
            if len(call.args) > parameter.position >= 0 or any(isinstance(a, ast.Starred) for a in call.args):
                return True
        return False

    def _attribute(self, node: ast.Attribute, place: Place) -> Found | None:
        if isinstance(node.value, ast.Name):
            for event in self.binding(node.value.id, place)[1]:
                if event.kind == "change" or (event.kind == "attribute" and event.key == node.attr):
                    return event.value() if event.place.sure_at(place.blocks) else None
        made = self.follow(node.value, place)
        scope = class_of(self, node.value, place)
        given = keyword_of(made.node, node.attr)
        self.steps += len(made.node.keywords) if isinstance(made.node, ast.Call) else 0
        if scope is not None:
            open_call = isinstance(made.node, ast.Call) and (
                made.node.args or any(not k.arg for k in made.node.keywords)
            )
            plain = None if open_call and made.node is not node.value else class_attribute(self, scope, node.attr)
            return Found(given, made.place) if given else plain
        if isinstance(made.node, ast.Call) and (dotted_name(made.node.func) or ("",))[-1][:1].isupper():
            return Found(given, made.place) if given else None
        option = self._option(node, made)
        return option.default._replace(kind=option.kind) if option and option.default else None

    def _option(self, node: ast.Attribute, made: Found) -> Option | None:
        """The command-line option that ``args.lr`` reads."""
        if node.attr not in self.options or not isinstance(node.value, ast.Name):
            return None
        named = node.value.id.lower().endswith(_NAMESPACES)
        parsed = isinstance(made.node, ast.Call) and dotted_name(made.node.func)[-1:] == ("parse_args",)
        return self.options[node.attr] if named or parsed else None

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
            return self._dict_call(node, place, hops)
        found = self.definition(node, place)
        items = self.mapping(found.node, found.place, hops + 1) if found else None
        since = self.binding(node.id, place)[1] if isinstance(node, ast.Name) else []
        for event in reversed(since):
            if items is not None and event.kind in ("item", "change"):
                key = constant_key(event.key)
                if key is None or event.kind == "change":
                    return None
                value = event.value() if event.place.sure_at(place.blocks) else None
                items[key] = Item(event.key if isinstance(event.key, (ast.expr, ast.keyword)) else None, value)
        return items

    def _literal(self, node: ast.Dict, place: Place, hops: int) -> dict[str, Item] | None:
        self.steps += len(node.keys)
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

    def _dict_call(self, node: ast.Call, place: Place, hops: int) -> dict[str, Item] | None:
        if not is_dict(node) or self.binding("dict", place)[0]:
            return None
        items: dict[str, Item] = {}
        arguments: tuple[ast.expr | ast.keyword, ...] = (*node.args, *node.keywords)
        for argument in arguments:
            if isinstance(argument, ast.keyword) and argument.arg:
                items[argument.arg] = Item(argument, Found(argument.value, place))
                continue
            inner = argument.value if isinstance(argument, ast.keyword) else argument
            more = self.mapping(inner, place, hops + 1)
            if more is None:
                return None
            items |= more
        return items


def _changed(since: list[Binding]) -> bool:
    return any(event.kind in ("item", "change") for event in since)


def constant_key(key: object) -> str | None:
    """A key that is written out, as text."""
    if isinstance(key, ast.Constant) and isinstance(key.value, (str, int)):
        return str(key.value) if len(str(key.value)) <= 500 else None
    return key.arg if isinstance(key, ast.keyword) else None


def is_dict(node: ast.expr | None) -> bool:
    """Whether the expression makes a dict: ``{…}`` or ``dict(…)``."""
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(node, ast.Dict) or (isinstance(called, ast.Name) and called.id == "dict")
