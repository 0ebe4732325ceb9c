"""Fields of the facts that nobody knows: to read one is an answer too, so a rule that needs it is skipped, and says why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lora_advise.section import Section, field_types

S = TypeVar("S", bound=Section)


class UnknownFact(Exception):  # noqa: N818 - not an error of the user's, but a gap in what is known
    """A field was read that is not known."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} is not known")
        self.field = field


def without(section: S, names: Iterable[str], owner: str) -> S:
    """The same section, of which reading one of these fields raises :class:`UnknownFact`.

    ``owner`` is the section's name in the facts (``train``). Properties that need such a field raise too.
    """
    hidden = frozenset(names) & frozenset(field_types(section))
    if not hidden:
        return section
    made: S = _made(_gapped(type(section), hidden, owner), {k: v for k, v in vars(section).items() if k not in hidden})
    return made


def unknown_fields(section: Section) -> frozenset[str]:
    """The fields that are not known."""
    found: frozenset[str] = getattr(type(section), "_hidden", frozenset())
    return found


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    section = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(section, name, value)
    return section


_CLASSES: dict[tuple[Any, frozenset[str]], type[Any]] = {}


def _gapped(kind: type[Any], hidden: frozenset[str], owner: str) -> type[Any]:
    """That section's class with a gap for each hidden field."""
    if (kind, hidden) not in _CLASSES:
        _CLASSES[kind, hidden] = _with_gaps(kind, hidden, owner)
    return _CLASSES[kind, hidden]


def _with_gaps(kind: type[Any], hidden: frozenset[str], owner: str) -> type[Any]:
    original = getattr(kind, "_original", kind)
    gaps = {name: property(_raiser(f"{owner}.{name}")) for name in hidden}

    def changed(self: Any, values: Mapping[str, Any]) -> Any:
        left = hidden - frozenset(values)
        known = {**vars(self), **values}
        return original(**known) if not left else _made(_gapped(original, left, owner), known)

    return type(
        original.__name__, (original,),
        {
            **gaps, "_hidden": hidden, "_original": original, "changed": changed, "__module__": original.__module__,
            "__eq__": lambda self, other: type(self) is type(other) and vars(self) == vars(other),
            "__hash__": lambda self: hash((type(self), tuple(map(str, vars(self).items())))),
            "__repr__": lambda self: f"{original.__name__}({vars(self)}, unknown: {sorted(hidden)})",
        },
    )  # fmt: skip


def _raiser(field: str) -> Any:
    def unknown(_: object) -> Any:
        raise UnknownFact(field)

    return unknown
