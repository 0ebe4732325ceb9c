"""What a Python file itself declares as settings: options of its command line, and classes of arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from lora_advise.python_names import CallSite, Found, Option, Program
from lora_advise.python_syntax import dotted_name, keyword_of, written_text

_ARGUMENT_BASES = ("Config", "Arguments", "Args")


def options(program: Program) -> dict[str, Option]:
    """What ``add_argument`` says, by name; two options of one name with other defaults leave it open."""
    found: dict[str, Option] = {}
    for option in _options(program):
        before = found.get(option.name)
        open_ = before is not None and _written(before.default) != _written(option.default)
        found[option.name] = option._replace(default=None) if open_ else option
    return found


def _written(default: Found | None) -> str:
    return ast.dump(default.node) if default else ""


def _options(program: Program) -> Iterator[Option]:
    for event in program.events:
        if isinstance(event, CallSite) and dotted_name(event.call.func)[-1:] == ("add_argument",):
            flags = [arg for arg in event.call.args if written_text(arg)]
            flag = next((arg for arg in flags if written_text(arg).startswith("--")), flags[0] if flags else None)
            if flag is None:
                continue
            destination = keyword_of(event.call, "dest")
            named = written_text(flag).lstrip("-").replace("-", "_")
            kind = (dotted_name(keyword_of(event.call, "type") or flag) or ("str",))[-1]
            yield Option((destination and written_text(destination)) or named, flag, _default(event), kind)


def _default(event: CallSite) -> Found | None:
    default = keyword_of(event.call, "default")
    action = keyword_of(event.call, "action")
    if default is None and isinstance(action, ast.Constant) and action.value in ("store_true", "store_false"):
        made = ast.copy_location(ast.Constant(action.value == "store_false"), action)
        return Found(made, event.place)
    return Found(default, event.place) if default else None


def is_group(node: ast.ClassDef) -> bool:
    """Whether a class holds arguments: a dataclass, or a kind of them by its base."""
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    if any(dotted_name(mark)[-1:] == ("dataclass",) for mark in marks):
        return True
    return any((dotted_name(base) or ("",))[-1].endswith(_ARGUMENT_BASES) for base in node.bases)
