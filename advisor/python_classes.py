"""Classes of a Python file as groups of settings: their defaults, and which class a name is an instance of."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from lora_advise.python_names import MAX_HOPS, Binding, Found, Place, Scope
from lora_advise.python_syntax import dotted_name, keyword_of

if TYPE_CHECKING:
    from lora_advise.python_lookup import Lookup

_PARSERS = frozenset(
    {"parse_args_into_dataclasses", "parse_args_and_config", "parse_dict", "parse_json_file", "parse_yaml_file"}
)
"""Methods of transformers' ``HfArgumentParser`` and TRL's ``TrlParser`` that give one instance for each class."""
_FACTORIES = frozenset({"field", "Field", "HfArg"})


def class_of(lookup: Lookup, node: ast.expr, place: Place, hops: int = 0) -> Scope | None:
    """The class of the file that a name is, or is an instance of."""
    if hops > MAX_HOPS or lookup.spent():
        return None
    if isinstance(node, ast.Name):
        bound, _ = lookup.binding(node.id, place)
        if bound is None or bound.kind not in ("value", "parameter"):
            return _class_of_binding(lookup, bound) if bound else None
        if bound.kind == "parameter" and bound.node is None:
            return _class_of_parameter(lookup, bound, hops)
    made = lookup.follow(node, place)
    further = _further(made.node)
    if isinstance(made.node, ast.Subscript) and isinstance(made.node.slice, ast.Constant):
        return _parsed(lookup, made.node.value, made.place, made.node.slice.value)
    return class_of(lookup, further, made.place, hops + 1) if further and further is not node else None


def _further(node: ast.expr) -> ast.expr | None:
    """What names the class of an expression: of ``A()`` it is ``A``, of ``tyro.cli(A)`` too."""
    if isinstance(node, ast.Call) and dotted_name(node.func)[-1:] == ("cli",) and node.args:
        return node.args[0]
    if isinstance(node, ast.Call):
        return node.func if isinstance(node.func, ast.Name) else None
    return node if isinstance(node, ast.Name) else None


def _class_of_binding(lookup: Lookup, bound: Binding) -> Scope | None:
    if bound.kind == "part" and bound.node:
        return _parsed(lookup, bound.node, bound.read or bound.place, bound.key)
    return bound.scope


def _class_of_parameter(lookup: Lookup, bound: Binding, hops: int) -> Scope | None:
    """``self`` is an instance of the class around it, other parameters of what their annotation says."""
    outer, parameter = bound.place.scope.outer, bound.parameter
    if outer is None or parameter is None:
        return None
    if parameter.name == "self" and outer.scope.kind == "class":
        return outer.scope
    return class_of(lookup, parameter.annotation, outer, hops + 1) if parameter.annotation else None


def _parsed(lookup: Lookup, node: ast.expr, place: Place, index: object) -> Scope | None:
    """The class at that index of what ``HfArgumentParser((A, B)).parse_args_into_dataclasses()`` gives."""
    function = node.func if isinstance(node, ast.Call) else None
    if not isinstance(function, ast.Attribute) or function.attr not in _PARSERS:
        return None
    parser = lookup.follow(function.value, place)
    if not isinstance(parser.node, ast.Call):
        return None
    listed = parser.node.args[0] if parser.node.args else keyword_of(parser.node, "dataclass_types")
    if listed is None:
        return None
    kinds = lookup.follow(listed, parser.place)
    if isinstance(kinds.node, (ast.Tuple, ast.List)):
        inside = isinstance(index, int) and 0 <= index < len(kinds.node.elts)
        kind = kinds.node.elts[index] if inside and isinstance(index, int) else None
        return class_of(lookup, kind, kinds.place) if kind else None
    return class_of(lookup, kinds.node, kinds.place) if index == 0 else None


def class_attribute(lookup: Lookup, scope: Scope, name: str, hops: int = 0) -> Found | None:
    """The default of a field, in the class or those that it inherits from."""
    if name in scope.bindings:
        bound = scope.bindings[name][-1]
        whole = bound.kind == "value" and bound.node and not bound.place.blocks
        return Found(field_default(bound.node), bound.read or bound.place) if whole and bound.node else None
    site = lookup.program.classes.get(scope)
    for base in site.node.bases if site and hops < 8 else ():
        kind = class_of(lookup, base, site.place) if site else None
        found = class_attribute(lookup, kind, name, hops + 1) if kind else None
        if found:
            return found
    return None


def field_default(node: ast.expr) -> ast.expr:
    """What ``field(default=8)`` or ``field(default_factory=lambda: [])`` gives; other expressions are themselves."""
    if not isinstance(node, ast.Call) or dotted_name(node.func)[-1:] not in {(name,) for name in _FACTORIES}:
        return node
    made = keyword_of(node, "default_factory")
    if isinstance(made, ast.Lambda):
        return made.body
    return keyword_of(node, "default") or (node.args[0] if node.args else node)
