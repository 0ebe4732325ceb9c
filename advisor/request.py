"""What the user asks."""

from typing import Any, Literal

from pydantic import Field

from lora_advise.facts import Section


class Request(Section):
    """One question to the advisor, as given on the command line or to :func:`lora_advise.advise`."""

    model: str
    task: str
    data: str | None = None
    eval_data: str | None = None
    examples: int | None = Field(default=None, ge=1)
    tokens_per_example: int | None = Field(default=None, ge=1)
    completion_tokens: int | None = Field(default=None, ge=0)
    gpu: str | None = None
    gpus: str | None = None
    """A count (``4``) or count and name (``2xRTX4090``)."""
    framework: str | None = None
    profile: Literal["safe", "balanced"] = "balanced"
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Field path of :class:`lora_advise.facts.Facts` (``lora.r``, ``train.learning_rate``, ``method``) to value."""
    because: str | None = None
    """The reason for the overrides, recorded with them."""
    compare_guides: bool = False
