"""The settings of a Python program: arguments of the calls that matter to training, and what is set beside them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from lora_advise.document import MAX_DEPTH, Config, Entry, Path, Span, Unresolved
from lora_advise.document_tree import Budget
from lora_advise.python_classes import field_default
from lora_advise.python_groups import is_group, options
from lora_advise.python_lookup import MAX_STEPS, Lookup
from lora_advise.python_names import AttributeSet, CallSite, ClassSite, Found, Option, Place, Program
from lora_advise.python_syntax import dotted_name
from lora_advise.python_text import Code
from lora_advise.python_values import Values, converted

SUFFIXES = ("Config", "Arguments", "Args", "Trainer", "Callback", "from_pretrained", "Kwargs", "Plugin")
PREFIXES = ("DataCollator", "get_peft_model", "prepare_model_for", "save_pretrained", "push_to_hub")
NAMES = frozenset(
    [
        "Accelerator",
        "PeftModel",
        "LoraModel",
        "AdamW",
        "get_chat_template",
        "train_on_responses_only",
        "merge_and_unload",
        "merge_adapter",
        "unload",
        "train",
        "add_special_tokens",
        "add_tokens",
        "add_new_tokens",
        "setup_chat_format",
        "resize_token_embeddings",
        "train_test_split",
        "load_dataset",
        "add_adapter",
        "load_adapter",
        "inject_adapter_in_model",
        "replace_lora_weights_loftq",
        "gradient_checkpointing_enable",
        "gradient_checkpointing_disable",
        "enable_input_require_grads",
        "register_forward_hook",
        "for_training",
        "for_inference",
        "set_seed",
        "apply_chat_template",
    ]
)
"""Which calls are settings, by the last part of the name."""
_WORD = re.compile(r"\w+")


class Calls:
    """Gathers the settings of one document."""

    def __init__(self, program: Program, code: Code) -> None:
        self.program, self.code = program, code
        self.options = options(program)
        self.lookup = Lookup(program, self.options)
        self.values = Values(self.lookup, code)
        self.notes: list[str] = []
        self._budget = Budget(code.places)
        self._entries: dict[Path, Entry] = {}
        self._shadowed: list[Entry] = []
        self._labels: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self._depths: dict[Path, Place] = {}
        self._groups = {site.node.name for site in program.classes.values() if is_group(site.node)}

    def config(self, notes: tuple[str, ...] = ()) -> Config:
        """Everything, as one config. Raises LoraAdviseError when there is too much."""
        for option in self.options.values():
            self._option(option)
        for site in self.program.classes.values():
            if is_group(site.node):
                self._class(site)
        for event in self.program.events:
            if isinstance(event, CallSite):
                self._call(event)
            else:
                self._attribute(event)
        if self.lookup.steps > MAX_STEPS:
            self.notes.append(
                "The program binds too many names for all of them to be followed; some values are left open."
            )
        environment = tuple(
            (name, value)
            for name, node, place in self.program.environment
            if isinstance(value := self.values.value(node, place), str)
        )
        places = self.code.places
        return Config(
            "calls", tuple(self.program.modules), tuple(sorted(self._entries.values(), key=lambda e: e.span.start)),
            places.span(0, len(places.text)), environment, tuple(self._shadowed), (*notes, *dict.fromkeys(self.notes)),
        )  # fmt: skip

    def _call(self, site: CallSite) -> None:
        name = self._callee(site)
        if name is None:
            return
        self._counts[name] = self._counts.get(name, 0) + 1
        label = name if self._counts[name] == 1 else f"{name}#{self._counts[name]}"
        self._labels[id(site.call)] = label
        values: dict[str, Any] = {}
        function = site.call.func
        key = self.code.span(self.code.start(function), self.code.end(function))
        place = site.place
        own = Entry((label,), values, self.code.of(site.call), key)
        self._put(own, place)
        for position, argument in enumerate(site.call.args):
            if isinstance(argument, ast.Starred):
                self._note(argument, f"{label}(*{self.code.source(argument.value)})")
                break
            self._put_value((label, position), argument, place)
        for keyword in site.call.keywords:
            if keyword.arg is None:
                values |= self._spread(label, keyword.value, place)
            else:
                name_span = self._key(keyword)
                values[keyword.arg] = self._put_value((label, keyword.arg), keyword.value, place, name_span)

    def _callee(self, site: CallSite) -> str | None:
        """How a call that matters is named: the last part, with its class; None for all other calls."""
        parts = list(dotted_name(site.call.func))
        if not parts:
            return None
        bound, _ = (
            self.lookup.binding(parts[0], site.place) if isinstance(_root(site.call.func), ast.Name) else (None, [])
        )
        if bound is not None and bound.kind == "import":
            parts[0] = str(bound.key).rpartition(".")[2]
        last = parts[-1]
        known = last in NAMES or last.endswith(SUFFIXES) or last.startswith(PREFIXES)
        if not known and last not in self._groups:
            return None
        return ".".join(parts[-2:]) if len(parts) > 1 and parts[-2][:1].isupper() and not last[:1].isupper() else last

    def _spread(self, label: str, node: ast.expr, place: Place) -> dict[str, Any]:
        """``**kwargs``: its items stand where they are written."""
        items = self.lookup.mapping(node, place)
        if items is None:
            self._note(node, f"{label}(**{self.code.source(node)})")
        values: dict[str, Any] = {}
        for name, item in (items or {}).items():
            key = self._key(item.key)
            if item.value is None:
                span = self.code.of(node)
                value: Any = Unresolved(self.code.source(node))
                self._put(Entry((label, name), value, span, key, text=value.source), place)
            else:
                value = self._put_value((label, name), item.value.node, item.value.place, key)
            values[name] = value
        return values

    def _key(self, node: ast.expr | ast.keyword | None) -> Span | None:
        """A key of a dict without its quotes, or the name of an argument."""
        if node is None:
            return None
        start, end = self.code.start(node), self.code.end(node)
        if isinstance(node, ast.keyword):
            word = _WORD.match(self.code.text, start)
            return self.code.span(start, word.end() if word else end)
        quoted = isinstance(node, ast.Constant) and self.code.text[start + 1 : end - 1] == node.value != ""
        return self.code.span(start + quoted, end - quoted)

    def _put_value(self, path: Path, node: ast.expr, place: Place, key: Span | None = None) -> Any:
        """Add the entry of a value, and those of its items; gives the value."""
        value = self.values.setting(node, place)
        literal = self.lookup.follow(node, place)
        elsewhere = literal.node is not node and not isinstance(literal.node, (ast.Name, ast.Attribute, ast.Subscript))
        via = self.code.of(literal.node) if elsewhere else None
        known = not isinstance(value, Unresolved)
        inner = literal.node if known else node
        quoted = isinstance(value, str) and not (isinstance(inner, ast.Attribute) or value.startswith("torch."))
        self._put(Entry(path, value, self.code.of(node), key, quoted, self._text(value, inner), via), place)
        if known and len(path) < MAX_DEPTH:
            for name, item_key, item in self._items(value, literal):
                self._put_value((*path, name), item.node, item.place, item_key)
        return value

    def _text(self, value: Any, node: ast.expr) -> str:
        if isinstance(value, Unresolved):
            return value.source
        if isinstance(value, (tuple, dict)):
            return ""
        return value if isinstance(value, str) else self.code.source(node)

    def _items(self, value: Any, literal: Found) -> Iterator[tuple[str | int, Span | None, Found]]:
        if isinstance(value, dict):
            for name, item in (self.lookup.mapping(literal.node, literal.place) or {}).items():
                if item.value is not None:
                    yield name, self._key(item.key), item.value
        elif isinstance(literal.node, (ast.List, ast.Tuple, ast.Set)) and len(value) == len(literal.node.elts):
            for index, node in enumerate(literal.node.elts):
                yield index, None, literal._replace(node=node)

    def _put(self, entry: Entry, place: Place) -> None:
        self._budget.spend(entry.span.start)
        earlier = self._entries.get(entry.path)
        if earlier is not None:
            self._shadow(entry.path, earlier)
        self._entries[entry.path] = entry
        self._depths[entry.path] = place

    def _shadow(self, path: Path, earlier: Entry) -> None:
        """Take an entry away, and those of its items."""
        self._shadowed.append(earlier)
        del self._entries[path]
        value = earlier.value
        names: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, tuple) else ()
        for name in names if not isinstance(value, Unresolved) else ():
            inner = self._entries.get((*path, name))
            if inner is not None:
                self._shadow(inner.path, inner)

    def _note(self, node: ast.expr, what: str) -> None:
        self.notes.append(
            f"{self.code.where(node)}: {what} stands only when the program runs, so its settings are not known."
        )

    def _attribute(self, event: AttributeSet) -> None:
        """``args.learning_rate = 1e-3``: a setting of the call that made ``args``, or of that dotted name."""
        parts = dotted_name(event.target.value)
        if not parts or parts[0] in ("self", "cls"):
            return
        made = self.lookup.follow(event.target.value, event.place)
        label = self._labels.get(id(made.node), "")
        path = (label if label.rpartition(".")[2][:1].isupper() else ".".join(parts), event.target.attr)
        end = self.code.end(event.target)
        key = self.code.span(end - len(event.target.attr), end)
        before = self._depths.get(path)
        sure = before is None or event.place.sure_at(before.blocks) or event.place.scope is not before.scope
        value = self._put_value(path, event.value, event.place, key)
        if not sure and not isinstance(value, Unresolved):
            source = self.code.source(event.value)
            value = Unresolved(source)
            self._entries[path] = self._entries[path]._replace(value=value, text=source)
        if (label,) in self._entries:
            self._entries[(label,)].value[event.target.attr] = value

    def _class(self, site: ClassSite) -> None:
        """Fields with their defaults."""
        for name, bindings in site.scope.bindings.items():
            bound = bindings[-1]
            if bound.kind != "value" or bound.node is None or bound.place.scope is not site.scope:
                continue
            default = field_default(bound.node)
            if not isinstance(self.values.value(default, bound.read or bound.place), Unresolved):
                key = self._key(bound.key) if isinstance(bound.key, ast.Name) else None
                self._put_value((site.node.name, name), default, bound.read or bound.place, key)

    def _option(self, option: Option) -> None:
        if option.default is None:
            return
        value = self._put_value(
            ("argparse", option.name), option.default.node, option.default.place, self._key(option.flag)
        )
        if isinstance(value, str) and option.kind in ("int", "float"):
            path = ("argparse", option.name)
            made = converted(value, option.kind)
            self._entries[path] = self._entries[path]._replace(value=made)


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node
