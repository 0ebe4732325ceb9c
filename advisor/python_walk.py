"""The walk over a syntax tree, in the order of the text, that fills a :class:`lora_advise.python_names.Program`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from lora_advise.python_names import ClassSite, Function, Place, Program, Scope, parameters

_LEAVES = (ast.JoinedStr, ast.Constant, ast.Name, ast.expr_context, ast.operator)
"""Without calls in them; places inside f-strings are not exact before Python 3.12."""
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Walk:
    """Goes through statements by recursion, which Python's limit of 100 indentations bounds, through expressions by a stack."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._blocks = 0

    def module(self, tree: ast.Module) -> None:
        """Add a tree to the program; names carry over from the trees before."""
        self._body(tree.body, Place(self.program.module, (), 0))

    def _body(self, statements: Iterable[ast.stmt], place: Place) -> None:
        for statement in statements:
            self.program.tick()
            step = _STEPS.get(type(statement))
            if step:
                step(self, statement, place)
            else:
                self._expressions(statement, place)

    def _expressions(self, node: ast.AST, place: Place) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._expression(child, place)

    def _expression(self, root: ast.expr, place: Place) -> None:
        """Calls and ``:=`` below a node, in the order of the text."""
        stack: list[tuple[ast.AST, Place]] = [(root, place)]
        while stack:
            node, here = stack.pop()
            if isinstance(node, _LEAVES):
                continue
            if isinstance(node, ast.Call):
                self.program.call(node, here)
            elif isinstance(node, ast.NamedExpr):
                self.program.target(node.target, node.value, self._now(self._block(here)))
            elif isinstance(node, ast.Lambda):
                here = self._function_scope(node, here)
            elif isinstance(node, _COMPREHENSIONS):
                here = Place(Scope("inline", self._now(here)), (), 0)
                for generator in node.generators:
                    self.program.target(generator.target, None, here)
            stack += ((child, here) for child in reversed(list(ast.iter_child_nodes(node))))

    def _block(self, place: Place) -> Place:
        self._blocks += 1
        return place._replace(blocks=(*place.blocks, self._blocks))

    def _now(self, place: Place) -> Place:
        return place._replace(at=self.program.tick())

    def _function_scope(self, node: Function | ast.Lambda, place: Place) -> Place:
        inside = Place(Scope("function", self._now(place)), (), 0)
        for parameter in parameters(node):
            self.program.bind(parameter.name, "parameter", inside, parameter.default, parameter=parameter)
        return inside

    def _function(self, node: Function, place: Place) -> None:
        for expression in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if expression:
                self._expression(expression, place)
        self.program.bind(node.name, "unknown", place)
        self._body(node.body, self._function_scope(node, place))

    def _class(self, node: ast.ClassDef, place: Place) -> None:
        for expression in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self._expression(expression, place)
        scope = Scope("class", self._now(place))
        self._body(node.body, Place(scope, (), 0))
        self.program.bind(node.name, "class", place, scope=scope)
        self.program.classes[scope] = ClassSite(node, scope, self._now(place))

    def _assign(self, node: ast.Assign, place: Place) -> None:
        self._expression(node.value, place)
        now = self._now(place)
        for target in node.targets:
            self.program.target(target, node.value, now)

    def _annotated(self, node: ast.AnnAssign, place: Place) -> None:
        if node.value:
            self._expression(node.value, place)
            self.program.target(node.target, node.value, self._now(place))

    def _augmented(self, node: ast.AugAssign, place: Place) -> None:
        """``+=`` changes the thing, and may bind the name of a class body anew."""
        self._expression(node.value, place)
        if isinstance(node.target, ast.Name):
            self.program.bind(node.target.id, "change", place)
        self.program.target(node.target, None, place)

    def _for(self, node: ast.For | ast.AsyncFor, place: Place) -> None:
        self._expression(node.iter, place)
        inside = self._block(place)
        self.program.target(node.target, None, inside)
        self._loop(node.body, inside)
        self._body(node.orelse, self._block(place))

    def _while(self, node: ast.While, place: Place) -> None:
        self._expression(node.test, place)
        self._loop(node.body, self._block(place))
        self._body(node.orelse, self._block(place))

    def _loop(self, body: list[ast.stmt], inside: Place) -> None:
        self._body(body, inside)
        self.program.loop_ends[inside.blocks[-1]] = self.program.tick()

    def _if(self, node: ast.If, place: Place) -> None:
        """Branches, ``elif`` in a row rather than nested; what always runs is no branch."""
        branch = node
        while True:
            self._expression(branch.test, place)
            self._body(branch.body, place if _always(branch.test) else self._block(place))
            if len(branch.orelse) != 1 or not isinstance(branch.orelse[0], ast.If):
                break
            branch = branch.orelse[0]
        self._body(branch.orelse, self._block(place))

    def _with(self, node: ast.With | ast.AsyncWith, place: Place) -> None:
        for item in node.items:
            self._expression(item.context_expr, place)
            if item.optional_vars:
                self.program.target(item.optional_vars, None, place)
        self._body(node.body, place)

    def _try(self, node: Any, place: Place) -> None:
        self._body(node.body, place)
        for handler in node.handlers:
            inside = self._block(place)
            if handler.name:
                self.program.bind(handler.name, "unknown", inside)
            self._body(handler.body, inside)
        self._body(node.orelse, place)
        self._body(node.finalbody, place)

    def _match(self, node: ast.Match, place: Place) -> None:
        self._expression(node.subject, place)
        for case in node.cases:
            inside = self._block(place)
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None) or getattr(pattern, "rest", None)
                if isinstance(name, str):
                    self.program.bind(name, "unknown", inside)
            if case.guard:
                self._expression(case.guard, inside)
            self._body(case.body, inside)

    def _import(self, node: ast.Import, place: Place) -> None:
        for alias in node.names:
            self.program.modules[alias.name] = None
            name = alias.asname or alias.name.partition(".")[0]
            self.program.bind(name, "import", place, key=alias.name if alias.asname else name)

    def _import_from(self, node: ast.ImportFrom, place: Place) -> None:
        module = "." * node.level + (node.module or "")
        self.program.modules[module] = None
        for alias in node.names:
            self.program.bind(alias.asname or alias.name, "import", place, key=f"{module}.{alias.name}")

    def _elsewhere(self, node: ast.Global | ast.Nonlocal, place: Place) -> None:
        """A name that a function may rebind in the module: nobody knows when."""
        for name in node.names:
            self.program.bind(name, "unknown", self._block(Place(self.program.module, (), 0)))
            self.program.bind(name, "unknown", place)

    def _delete(self, node: ast.Delete, place: Place) -> None:
        for target in node.targets:
            self.program.target(target, None, place)


def _always(test: ast.expr) -> bool:
    if isinstance(test, ast.Constant):
        return bool(test.value)
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


_STEPS: dict[type[ast.stmt], Any] = {
    ast.FunctionDef: Walk._function, ast.AsyncFunctionDef: Walk._function, ast.ClassDef: Walk._class,
    ast.Assign: Walk._assign, ast.AnnAssign: Walk._annotated, ast.AugAssign: Walk._augmented,
    ast.For: Walk._for, ast.AsyncFor: Walk._for, ast.While: Walk._while, ast.If: Walk._if,
    ast.With: Walk._with, ast.AsyncWith: Walk._with, ast.Try: Walk._try, ast.Match: Walk._match,
    ast.Import: Walk._import, ast.ImportFrom: Walk._import_from, ast.Global: Walk._elsewhere,
    ast.Nonlocal: Walk._elsewhere, ast.Delete: Walk._delete,
}  # fmt: skip
if hasattr(ast, "TryStar"):
    _STEPS[ast.TryStar] = Walk._try
