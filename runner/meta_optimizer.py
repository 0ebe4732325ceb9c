"""Optimizers on the meta device: torch's own where they run there, the state layout of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lora_advise.errors import LoraAdviseError

BLOCK = 256
"""Elements of a state that share one scale in bitsandbytes' 8-bit optimizers."""
MIN_8BIT = 4096
"""Parameters with fewer elements keep 32-bit states there (``min_8bit_size``)."""


def optimizer_for(name: str, trainer: Any) -> Any:
    """The optimizer of that name over the trained parameters. Raises LoraAdviseError for one without a shape model."""
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    plain = name.lower()
    if plain in ("adamw_torch", "adamw_hf", "adamw", "adam"):
        # The default on CUDA: foreach, over lists of tensors.
        return torch.optim.AdamW(trained, lr=1e-4, foreach=True)
    if plain == "sgd":
        return torch.optim.SGD(trained, lr=1e-4, foreach=True)
    if plain == "adamw_torch_fused":
        return _Layout(trained, _two_moments)
    if "paged" in plain and "adam" in plain:
        # Managed memory, which torch does not count.
        return _Layout(trained, _nothing)
    if plain in ("adamw_8bit", "adamw_bnb_8bit"):
        return _Layout(trained, _eight_bits)
    if plain == "adafactor":
        from transformers import Adafactor

        return Adafactor(trained, lr=1e-4, scale_parameter=False, relative_step=False)
    raise LoraAdviseError(
        f"--exact: the optimizer {name[:40]!r} has no shape model; leave --exact out, or use adamw_torch, "
        "adamw_torch_fused, adamw_8bit, paged_adamw_8bit, adafactor or sgd."
    )


def _two_moments(p: torch.Tensor) -> list[torch.Tensor]:
    return [torch.empty_like(p), torch.empty_like(p)]


def _nothing(_: torch.Tensor) -> list[torch.Tensor]:
    return []


def _eight_bits(p: torch.Tensor) -> list[torch.Tensor]:
    if p.numel() < MIN_8BIT:
        return [p.new_empty(p.shape, dtype=torch.float32) for _ in range(2)]
    blocks = -(-p.numel() // BLOCK)
    return [
        tensor
        for _ in range(2)
        for tensor in (p.new_empty(p.shape, dtype=torch.uint8), p.new_empty(blocks, dtype=torch.float32))
    ]


class _Layout(torch.optim.Optimizer):  # type: ignore[misc]
    """An optimizer whose step only makes its states, as its kernels need no memory beside them."""

    def __init__(self, trained: list[Any], states: Callable[[torch.Tensor], list[torch.Tensor]]) -> None:
        super().__init__(trained, {"lr": 1e-4})
        self._states = states

    def step(self, _: Any = None) -> Any:
        """Make the states of every parameter that has a gradient, once."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p not in self.state:
                    self.state[p] = dict(enumerate(self._states(p)))
        return None
