"""What is known of a base model: its dimensions and its weight matrices, with names and shapes."""

from enum import Enum
from typing import Annotated, Literal

from lora_advise.section import Section, Unwritten

GIB = 2**30
"""Bytes in a GiB; every memory figure of lora-advise is in GiB, never in GB."""

Role = Literal[
    "attention",
    "mlp",
    "mixer",
    "expert",
    "shared_expert",
    "router",
    "embedding",
    "lm_head",
    "head",
    "vision",
    "audio",
    "projector",
    "other",
]
ModelKind = Literal["dense", "moe", "hybrid", "ssm", "vlm", "encoder", "encoder-decoder"]


class Origin(str, Enum):
    """Where a fact came from."""

    SET = "set"
    """Given by the user, on the command line or in the file."""
    INHERITED = "inherited"
    """A framework's default or silent fix-up."""
    PROBED = "probed"
    """Measured or read: a config.json, a dataset, the local GPU, the catalogue."""
    ASSUMED = "assumed"
    """Our assumption; a report says so and names the flag that would replace it."""
    DECIDED = "decided"
    """Chosen by the advisor."""


class LinearModule(Section):
    """One family of weight matrices of a model: the same name in ``count`` layers.

    ``path`` has ``*`` for layer indices. Shapes are (``d_in``, ``d_out``) features. A fused expert parameter has
    ``kind="parameter"`` and ``experts`` matrices of this shape per occurrence.
    """

    path: str
    d_in: int
    d_out: int
    count: int = 1
    role: Role
    kind: Literal["linear", "parameter", "embedding", "conv"] = "linear"
    experts: int = 1
    bias: bool = False

    @property
    def name(self) -> str:
        """The last part of the path, which is what ``target_modules`` matches."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def weights(self) -> int:
        """Number of weights (biases excluded) over all occurrences."""
        return self.d_in * self.d_out * self.count * self.experts

    def lora_params(self, r: int) -> int:
        """Adapter parameters of rank ``r`` over all occurrences: r (d_in + d_out) each (arXiv 2106.09685, section 4.1)."""
        return r * (self.d_in + self.d_out) * self.count * self.experts


class ModelFacts(Section):
    """What is known of the base model. Parameters are counts, not billions."""

    name: str
    """Hub id, or the path that the user gave."""
    asked: str | None = None
    """What the user typed, when that was a size or an alias."""
    path: str | None = None
    """Local folder or config.json, when the model is not from the catalogue."""
    model_type: str
    kind: ModelKind
    total_params: int
    active_params: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    has_vision: bool = False
    has_audio: bool = False
    recurrent_layers: int = 0
    """Layers whose mixer is linear attention or a state-space model instead of softmax attention."""
    variant: Literal["base", "instruct", "reasoning"] | None = None
    license: str | None = None
    template: str | None = None
    family: str | None = None
    checkpoint_quantization: str | None = None
    """How the published weights are stored where that is below 16 bits: transformers' ``quant_method`` (mxfp4, fp8, ...)."""
    modules: Annotated[tuple[LinearModule, ...], Unwritten()]
    """Not written: the catalogue or the config.json gives them back."""

    @property
    def billions(self) -> float:
        """Total parameters in units of 1e9."""
        return self.total_params / 1e9

    def with_role(self, *roles: str) -> tuple[LinearModule, ...]:
        """The module families that play one of the given roles."""
        return tuple(m for m in self.modules if m.role in roles)
