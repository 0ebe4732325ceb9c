"""A model class that raises in the installed transformers, repaired for a rehearsal, which says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BROKEN = "Llama4ForConditionalGeneration"
"""In transformers 5.24.0 its forward pass reads ``image_outputs`` of its language model's output, which has none, and its
``base_model``, from which TRL 1.16 takes hidden states, is the class itself."""


def is_broken(class_name: str) -> bool:
    """Whether the installed transformers cannot run that class as it is."""
    if class_name != BROKEN:
        return False
    import transformers
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    code: Any = getattr(transformers, BROKEN).forward
    while hasattr(code, "__wrapped__"):
        code = code.__wrapped__
    return "image_outputs" in code.__code__.co_names and not hasattr(MoeCausalLMOutputWithPast, "image_outputs")


def repaired(made: Any) -> Any:
    """The class, or one of its name whose ``base_model`` is the body of its language model."""
    if made.__name__ != BROKEN:
        return made
    body = property(lambda model: model.language_model.model)
    return type(made.__name__, (made,), {"base_model": body, "__module__": made.__module__})


@contextmanager
def repairs(class_name: str) -> Iterator[None]:
    """An output of a language model that saw no image says so, as long as this lasts."""
    if not is_broken(class_name):
        yield
        return
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    with patch.object(MoeCausalLMOutputWithPast, "image_outputs", None, create=True):
        yield


def repair_note(class_name: str) -> str | None:
    """What a run needs that the rehearsal was given, or None."""
    if not is_broken(class_name):
        return None
    import transformers

    return (
        f"In transformers {transformers.__version__} every forward pass of {BROKEN} raises; this is the step after two "
        "repairs that a run needs as well: MoeCausalLMOutputWithPast.image_outputs = None, and "
        f"{BROKEN}.base_model = property(lambda model: model.language_model.model)."
    )
