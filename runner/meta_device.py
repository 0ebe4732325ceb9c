"""Makes the libraries of a run believe that the meta device is a CUDA one, for as long as a rehearsal lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from lora_advise.runner.cuda_shapes import FLASH, CudaShapes, flash


@contextmanager
def cuda_like(shapes: CudaShapes, *, padded: bool) -> Iterator[None]:
    """Patch what asks for the device: autocast, adapters on the meta device, kernels in Triton, attention by name.

    ``padded`` answers whether every position of a mask is taken.
    """
    with ExitStack() as stack:
        for owner, name, stand_in in (*_autocast(shapes), *_libraries(), *_masks(padded)):
            stack.enter_context(patch.object(owner, name, stand_in))
        yield


def _autocast(shapes: CudaShapes) -> Iterator[tuple[Any, str, Any]]:
    """The flag of the CPU stands for every device, and the copies live as long as the region."""
    enabled, dtype_of, clear, real = (
        torch.is_autocast_enabled, torch.get_autocast_dtype, torch.clear_autocast_cache, torch.autocast,
    )  # fmt: skip

    class Autocast(real):  # type: ignore[misc, valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type in _DEVICES else device_type, *args, **kwargs)

    def is_enabled(device_type: str | None = None) -> bool:
        return bool(enabled("cpu" if device_type in (None, *_DEVICES) else device_type))

    def dtype(device_type: str) -> torch.dtype:
        return dtype_of("cpu" if device_type in _DEVICES else device_type)

    def forget() -> None:
        clear()
        shapes.forget_casts()

    yield torch, "autocast", Autocast
    yield torch.amp, "autocast", Autocast
    yield torch, "is_autocast_enabled", is_enabled
    yield torch, "get_autocast_dtype", dtype
    yield torch, "clear_autocast_cache", forget


_DEVICES = ("cuda", "meta")


def _libraries() -> Iterator[tuple[Any, str, Any]]:
    from trl.kernels import chunked_logprob
    from trl.trainer import dpo_trainer, reward_trainer, sft_trainer, utils

    for module in (sft_trainer, dpo_trainer, reward_trainer):
        yield module, "get_peft_model", adapted
    # The Triton kernels fold a tile in place and score only positions with a label.
    yield chunked_logprob, "_forward_tile", _nothing
    yield chunked_logprob, "_backward_tile", _nothing
    yield chunked_logprob, "_addmm_fp32", _nothing
    yield utils, "_use_triton", _yes


def adapted(*args: Any, **kwargs: Any) -> Any:
    """PEFT's ``get_peft_model`` with the adapter on the meta device. (Its ``low_cpu_mem_usage`` loses ties of full copies.)"""
    import peft

    with torch.device("meta"):
        return peft.get_peft_model(*args, **kwargs)


def _masks(padded: bool) -> Iterator[tuple[Any, str, Any]]:
    from transformers import masking_utils

    if hasattr(masking_utils, "fast_all"):
        yield masking_utils, "fast_all", lambda *_, **__: not padded


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _yes(*_: Any) -> bool:
    return True


@contextmanager
def flash_by_name() -> Iterator[None]:
    """Make the shapes of FlashAttention 2 known by name, with its way of masking."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(FLASH, flash)
    AttentionMaskInterface.register(FLASH, flash_attention_mask)
    try:
        yield
    finally:
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(FLASH, None)
