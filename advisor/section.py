"""What every group of facts is: a frozen dataclass with keyword arguments, cheap to import and to build.

Values that come from outside are checked by :mod:`lora_advise.checked` before they become facts; inside, types are
checked by mypy alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from dataclasses import field as field  # a field with a factory
from enum import Enum
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        """Tell type checkers that subclasses are dataclasses."""
        return lambda made: made


class Unwritten:
    """The annotation of a field that is left out of written data and of its schema, because something else gives it back."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticOmit

        raise PydanticOmit


class AtLeast:
    """A lower bound, as the annotation of a number: ``Annotated[int, AtLeast(1)]``; pydantic reads it, nothing is imported."""

    def __init__(self, least: float) -> None:
        self.least = least

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        return {**handler(source), "ge": self.least}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Section:
    """A frozen group of facts. Every subclass is a dataclass; unknown keys are refused, so a typo cannot become a fact."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - the name and form that pydantic reads

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def changed(self, values: Mapping[str, Any]) -> "Self":
        """A copy with other values for these fields. Raises TypeError for a field that there is not."""
        return replace(self, **values)  # type: ignore[type-var]


def field_types(section: "Section | type[Section]") -> dict[str, Any]:
    """Field names, in the order of their definition, and the annotation of each."""
    return {f.name: f.type for f in fields(section)}  # type: ignore[arg-type]


def stated(section: Section) -> dict[str, Any]:
    """The fields whose values are not their defaults."""
    found = ((f, getattr(section, f.name)) for f in fields(section))  # type: ignore[arg-type]
    return {f.name: value for f, value in found if value != f.default and (value or f.default_factory is MISSING)}


def to_data(value: object) -> Any:
    """Sections as mappings, tuples as lists, enums as values, NaN and infinities as text: what JSON can hold."""
    if isinstance(value, Section):
        return {name: to_data(getattr(value, name)) for name, kind in field_types(value).items() if _written(kind)}
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_data(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and (isnan(value) or isinf(value)):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _written(kind: Any) -> bool:
    return not any(isinstance(mark, Unwritten) for mark in getattr(kind, "__metadata__", ()))


def to_json(section: Section, indent: int | None = None) -> str:
    """The section as JSON text with a line break at its end."""
    import json

    return json.dumps(to_data(section), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
