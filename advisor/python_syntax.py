"""Small questions to nodes of a Python syntax tree."""

from __future__ import annotations

import ast


def update_items(call: ast.Call) -> list[tuple[ast.expr | ast.keyword, ast.expr]] | None:
    """What ``dict(…)`` or ``.update(…)`` puts into a dict; None where that is not written out."""
    items: list[tuple[ast.expr | ast.keyword, ast.expr]] = []
    for argument in call.args:
        if not isinstance(argument, ast.Dict) or None in argument.keys:
            return None
        items += ((key, value) for key, value in zip(argument.keys, argument.values, strict=True) if key)
    for keyword in call.keywords:
        if keyword.arg is None:
            return None
        items.append((keyword, keyword.value))
    return items


def dotted_name(node: ast.expr) -> tuple[str, ...]:
    """The parts of a dotted name from left to right, as far as names go: those behind a call or an index alone."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return tuple(reversed(parts))


def keyword_of(node: ast.expr, name: str) -> ast.expr | None:
    """The argument of that name in a call."""
    keywords = node.keywords if isinstance(node, ast.Call) else ()
    return next((keyword.value for keyword in keywords if keyword.arg == name), None)


def written_text(node: ast.expr) -> str:
    """What a literal says; empty for all other expressions."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
