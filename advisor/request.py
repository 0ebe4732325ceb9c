"""What the user asks."""

from typing import Annotated, Any, Literal

from lora_advise.section import AtLeast, Section, field


class Request(Section):
    """One question to the advisor, as given on the command line or to :func:`lora_advise.advise`."""

    model: str
    task: str
    data: str | None = None
    eval_data: str | None = None
    examples: Annotated[int, AtLeast(1)] | None = None
    tokens_per_example: Annotated[int, AtLeast(1)] | None = None
    completion_tokens: Annotated[int, AtLeast(0)] | None = None
    gpu: str | None = None
    gpus: str | None = None
    """A count (``4``) or count and name (``2xRTX4090``)."""
    framework: str | None = None
    profile: Literal["safe", "balanced"] = "balanced"
    overrides: dict[str, Any] = field(default_factory=dict)
    """Field path of :class:`lora_advise.facts.Facts` (``lora.r``, ``train.learning_rate``, ``method``) to value."""
    because: str | None = None
    """The reason for the overrides, recorded with them."""
    compare_guides: bool = False
    price: float | None = None
    """What one GPU costs in an hour, in any currency."""
