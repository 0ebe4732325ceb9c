"""The value of a Python expression as far as it is written: literals and what is bound to them. Nothing is executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from math import isfinite
from typing import Any

from lora_advise.document import MAX_DEPTH, Unresolved
from lora_advise.python_lookup import Lookup, is_dict
from lora_advise.python_names import Found, Place
from lora_advise.python_syntax import dotted_name
from lora_advise.python_text import MAX_SOURCE, Code

MAX_NUMBER = 1e30
"""Larger whole numbers are no settings."""
MAX_JOINED = 10_000
"""Characters or items of what is put together from parts."""
_UNKNOWN = Unresolved("")
_LIBRARIES = frozenset(["torch", "transformers", "peft", "trl", "accelerate", "unsloth", "datasets", "numpy", "jax"])
"""Whose dotted names (``torch.bfloat16``, ``TaskType.CAUSAL_LM``) are values by themselves."""
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip


class Values:
    """Resolves expressions; one for a document."""

    def __init__(self, lookup: Lookup, code: Code) -> None:
        self.lookup, self.code = lookup, code
        self._set = {name for name, _, _ in lookup.program.environment}

    def setting(self, node: ast.expr, place: Place) -> Any:
        """The value of a setting; Unresolved with its source where it stands only when the program runs."""
        value = self.value(node, place)
        return Unresolved(self.code.source(node)) if isinstance(value, Unresolved) else value

    def value(self, node: ast.expr, place: Place, depth: int = 0) -> Any:
        """The value, or an Unresolved whose source does not count."""
        read = _READ.get(type(node))
        if read is None or depth > MAX_DEPTH or self.lookup.spent():
            return _UNKNOWN
        return read(self, node, place, depth + 1)

    def _constant(self, node: ast.Constant, *_: Any) -> Any:
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBER:
            return _UNKNOWN
        return value if value is None or isinstance(value, (bool, int, float, str)) else _UNKNOWN

    def _named(self, node: ast.expr, place: Place, depth: int) -> Any:
        found = self.lookup.definition(node, place)
        if found is None:
            return self._dotted(node, place)
        if is_dict(found.node):
            return self._dict(node, place, depth)
        value = self.value(found.node, found.place, depth)
        return converted(value, found.kind) if isinstance(value, str) else value

    def _dotted(self, node: ast.expr, place: Place) -> Any:
        """``torch.bfloat16`` and enums of the training libraries, as text."""
        parts = dotted_name(node)
        if not isinstance(node, ast.Attribute) or len(parts) < 2:
            return _UNKNOWN
        bound, _ = self.lookup.binding(parts[0], place)
        origin = str(bound.key) if bound and bound.kind == "import" else parts[0] if bound is None else ""
        known = origin.partition(".")[0] in _LIBRARIES and _is_name(node)
        return ".".join(parts) if known else _UNKNOWN

    def _dict(self, node: ast.expr, place: Place, depth: int) -> Any:
        items = self.lookup.mapping(node, place)
        if items is None:
            return _UNKNOWN
        return {name: self._item(item.value, depth) for name, item in items.items()}

    def _item(self, found: Found | None, depth: int) -> Any:
        if found is None:
            return Unresolved("set under a condition")
        value = self.value(found.node, found.place, depth)
        return Unresolved(self.code.source(found.node)) if isinstance(value, Unresolved) else value

    def _list(self, node: ast.Tuple | ast.List | ast.Set, place: Place, depth: int) -> Any:
        """One unknown item makes the whole list unknown, so that nobody takes the rest for all of it."""
        values: list[Any] = []
        for item in node.elts:
            if isinstance(item, ast.Starred):
                more = self.value(item.value, place, depth)
                if not isinstance(more, tuple) or isinstance(more, Unresolved):
                    return _UNKNOWN
                values += more
            else:
                values.append(self.value(item, place, depth))
            if isinstance(values and values[-1], Unresolved) or len(values) > MAX_JOINED:
                return _UNKNOWN
        return tuple(values)

    def _unary(self, node: ast.UnaryOp, place: Place, depth: int) -> Any:
        value = self.value(node.operand, place, depth)
        if isinstance(node.op, ast.Not):
            return not value if isinstance(value, bool) else _UNKNOWN
        if not _number(value) or isinstance(node.op, ast.Invert):
            return _UNKNOWN
        return -value if isinstance(node.op, ast.USub) else value

    def _binary(self, node: ast.BinOp, place: Place, depth: int) -> Any:
        left, right = self.value(node.left, place, depth), self.value(node.right, place, depth)
        if isinstance(left, Unresolved) or isinstance(right, Unresolved):
            return _UNKNOWN
        return _calculated(node.op, left, right)

    def _text(self, node: ast.JoinedStr, place: Place, depth: int) -> Any:
        """An f-string of known parts."""
        parts: list[str] = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            value = self.value(inner, place, depth)
            special = isinstance(part, ast.FormattedValue) and (part.format_spec is not None or part.conversion != -1)
            if special or not isinstance(value, (str, int, float)):
                return _UNKNOWN
            parts.append(str(value))
        whole = "".join(parts)
        return whole if len(whole) <= MAX_JOINED else _UNKNOWN

    def _call(self, node: ast.Call, place: Place, depth: int) -> Any:
        name = dotted_name(node.func)
        if name == ("dict",):
            return self._dict(node, place, depth)
        if name[-2:] == ("environ", "get") or name[-1:] == ("getenv",):
            return self._environment(node, place, depth)
        if name and name[-1] == "get" and node.args:
            return self._got(node, place, depth)
        plain = len(name) == 1 and not node.keywords and not self.lookup.binding(name[0], place)[0]
        return self._builtin(name[0], node, place, depth) if plain else _UNKNOWN

    def _builtin(self, name: str, node: ast.Call, place: Place, depth: int) -> Any:
        values = [self.value(argument, place, depth) for argument in node.args[:2]]
        if name == "getattr" and len(node.args) == 2 and dotted_name(node.args[0]) == ("torch",):
            return f"torch.{values[1]}" if isinstance(values[1], str) and values[1].isidentifier() else _UNKNOWN
        if len(node.args) != 1 or isinstance(values[0], Unresolved):
            return _UNKNOWN
        if name in ("list", "tuple"):
            return values[0] if isinstance(values[0], tuple) else _UNKNOWN
        return converted(values[0], name) if name in ("int", "float", "str") else _UNKNOWN

    def _environment(self, node: ast.Call, place: Place, depth: int) -> Any:
        """The default of a variable of the environment that the file does not set itself."""
        values = [self.value(argument, place, depth) for argument in (*node.args, *(k.value for k in node.keywords))]
        known = len(values) == 2 and isinstance(values[0], str) and values[0] not in self._set
        return values[1] if known else _UNKNOWN

    def _got(self, node: ast.Call, place: Place, depth: int) -> Any:
        """``cfg.get("r", 8)``."""
        items = self.lookup.mapping(node.func.value, place) if isinstance(node.func, ast.Attribute) else None
        key = self.value(node.args[0], place, depth)
        if items is None or not isinstance(key, str) or node.keywords:
            return _UNKNOWN
        if key in items:
            return self._item(items[key].value, depth)
        return self.value(node.args[1], place, depth) if len(node.args) > 1 else None


_READ: dict[type[ast.expr], Callable[..., Any]] = {
    ast.Constant: Values._constant, ast.Name: Values._named, ast.Attribute: Values._named, ast.Subscript: Values._named,
    ast.Dict: Values._dict, ast.List: Values._list, ast.Tuple: Values._list, ast.Set: Values._list,
    ast.UnaryOp: Values._unary, ast.BinOp: Values._binary, ast.JoinedStr: Values._text, ast.Call: Values._call,
}  # fmt: skip


def _is_name(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _calculated(kind: ast.operator, left: Any, right: Any) -> Any:
    """Arithmetic of numbers, and texts or lists put together; bounded, so that nothing small becomes large."""
    if isinstance(kind, ast.Add) and type(left) is type(right) and isinstance(left, (str, tuple)):
        return left + right if len(left) + len(right) <= MAX_JOINED else _UNKNOWN
    if kind.__class__ not in _ARITHMETIC or not _number(left) or not _number(right):
        return _UNKNOWN
    if max(abs(left), abs(right)) > MAX_NUMBER or (isinstance(kind, ast.Pow) and abs(right) > 64):
        return _UNKNOWN
    try:
        value = _ARITHMETIC[kind.__class__](left, right)
    except (ArithmeticError, ValueError):
        return _UNKNOWN
    fine = isinstance(value, (int, float)) and abs(value) <= MAX_NUMBER
    return value if fine and isfinite(value) else _UNKNOWN


def converted(value: Any, kind: str) -> Any:
    """What ``int``, ``float`` or ``str`` makes of a value."""
    if isinstance(value, (Unresolved, tuple, dict)) or value is None or kind not in ("int", "float", "str"):
        return value if kind not in ("int", "float", "str") or value is None else _UNKNOWN
    if len(str(value)) > MAX_SOURCE:
        return value if kind == "str" else _UNKNOWN
    try:
        return {"int": int, "float": float, "str": str}[kind](value)
    except (ValueError, OverflowError):
        return _UNKNOWN
