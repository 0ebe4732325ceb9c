"""Model classes that raise in the installed transformers, repaired for a rehearsal, which says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BROKEN = "Llama4ForConditionalGeneration"
"""In transformers 5.24.0 its forward pass reads ``image_outputs`` of its language model's output, which has none, and its
``base_model``, from which TRL 1.16 takes hidden states, is the class itself."""

_CLAMPED = {"gemma3n_text": ["prediction_coefs", "correction_coefs"]}
"""Matrices that a training step clamps, which raises when they are quantised (transformers 5.24: ``Gemma3nTextAltUp``)."""


def left_wide(model_type: str) -> list[str]:
    """Names of the linear layers of that type that must not be quantised for a step to work."""
    return _CLAMPED.get(model_type, [])


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


def repair_notes(class_name: str, model_type: str, *, quantised: bool) -> list[str]:
    """What a run needs that the rehearsal was given."""
    import transformers

    found, release = [], f"transformers {transformers.__version__}"
    if is_broken(class_name):
        found.append(
            f"In {release} every forward pass of {BROKEN} raises; this is the step after two repairs that a run needs as well: "
            "MoeCausalLMOutputWithPast.image_outputs = None, and "
            f"{BROKEN}.base_model = property(lambda model: model.language_model.model)."
        )
    if quantised and left_wide(model_type):
        names = [*left_wide(model_type), "lm_head"]
        found.append(
            f"A training step of this family clamps weights, which raises in {release} when they are quantised; this is the "
            f"step with BitsAndBytesConfig(llm_int8_skip_modules={names}), which a run needs as well."
        )
    return found
