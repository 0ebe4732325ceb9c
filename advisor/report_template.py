"""The jinja2 environment of the package's own templates."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment(autoescape: bool) -> Environment:
    """An environment that reads ``lora_advise.templates``; an unknown name in a template is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(resource),
        autoescape=autoescape,  # noqa: S701 - Markdown and YAML have escapes of their own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def resource(name: str) -> str:
    """The text of one template or stylesheet."""
    return (files("lora_advise.templates") / name).read_text("utf-8")
