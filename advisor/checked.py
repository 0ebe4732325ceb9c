"""Values from outside become facts only through here: pydantic checks them against the types of the facts."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lora_advise.errors import LoraAdviseError

T = TypeVar("T")


class FactError(LoraAdviseError):
    """Values that do not have the types of the facts: ``kind`` of the first problem, its place and what pydantic says."""

    def __init__(self, kind: str, place: tuple[int | str, ...], said: str) -> None:
        self.kind, self.place, self.said = kind, place, said
        super().__init__(f"{'.'.join(map(str, place)) or 'value'} {said}.")


def checked(kind: type[T], values: object) -> T:
    """The values as that type (a section, or any annotation of a field). Raises FactError for the first that is wrong."""
    try:
        made: T = _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"].removeprefix("Input ")
        raise FactError(first["type"], first["loc"], said[:1].lower() + said[1:]) from None
    return made


def json_schema(kind: type[Any], template: str, *, written: bool) -> dict[str, Any]:
    """The JSON Schema of a section, as it is written or as it is read; ``template`` makes references to definitions."""
    mode: Any = "serialization" if written else "validation"
    return _adapter(kind).json_schema(mode=mode, ref_template=template)


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
