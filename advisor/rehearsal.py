"""What a rehearsal of the installed libraries found: the peak of every stage of a step, without a device."""

from __future__ import annotations

from lora_advise.plan import MemoryPart
from lora_advise.section import Section

STAGES = {
    "forward": "forward pass", "loss": "loss", "backward, last layers": "backward pass, last layer",
    "backward, first layers": "backward pass, first layer", "backward": "backward pass", "clipping": "clipping",
    "optimizer step": "optimizer step", "evaluation": "evaluation", "evaluation, loss": "evaluation, loss",
}  # fmt: skip
"""Stages in the order of a step, and their names in reports."""
PARTS = {
    "weights": "Base weights", "adapters": "Adapters", "gradients": "Gradients", "optimizer": "Optimizer states",
    "activations": "Kept by the forward pass", "loss": "Logits and loss", "backward": "The layer at work",
    "step": "Temporaries of the optimizer step", "workspaces": "cuBLAS workspaces",
}  # fmt: skip
"""What a byte is for, and the label of it."""


class StagePeak(Section):
    """The highest point of one stage, bytes on one device."""

    stage: str
    bytes: int


class Rehearsal(Section):
    """A traced step. All sizes in bytes on one device."""

    versions: dict[str, str]
    """The libraries that were run."""
    allocated: int
    reserved: int
    """Peak of the caching allocator's segments over the traced steps, every batch of the longest length."""
    parts: tuple[MemoryPart, ...]
    peak_stage: str
    stages: tuple[StagePeak, ...]
    trainable_params: int
    layers: int
    traced: tuple[int, ...]
    """Depths that were traced; the rest is a straight line through them, stage by stage."""
    notes: tuple[str, ...] = ()
    """What the trace does not know, a sentence each."""
    sources: tuple[str, ...] = ("rehearsal-trace", "memory-model")
