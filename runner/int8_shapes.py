"""What the 8-bit kernels of bitsandbytes allocate on CUDA (release 0.50: ``backends/cuda/ops.py``, ``backends/default/ops.py``).

Their meta versions raise, because the number of columns with outliers depends on the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lora_advise.runner.storage_trace import StorageTrace

OUTLIERS = 7
"""Columns with outliers in each product. LLM.int8() (arXiv 2208.07339, section 3.2) found no more in models of up to 13B; 16 bits
a token and column are kept, so a dozen more change little. That there are any costs a second copy of the product."""
INT8 = ("int8_vectorwise_quant", "int8_mixed_scaled_mm", "int8_scaled_mm")


def int8_answer(trace: StorageTrace, name: str, args: Any, kwargs: Any) -> Any:
    """What the operator of that name gives, with its buffers alive while it runs."""
    if name == "int8_vectorwise_quant":
        return _quantised(trace, *args, **kwargs)
    if name == "int8_mixed_scaled_mm":
        return _mixed(trace, *args)
    return _product(trace, args[0], args[1], kwargs.get("dtype") or torch.float16)


def _new(trace: StorageTrace, like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return trace.made(like.new_empty(shape, dtype=dtype))


def _quantised(trace: StorageTrace, rows: torch.Tensor, threshold: float = 0.0) -> tuple[Any, ...]:
    """Rows in 8 bits, a scale for each, and the columns of outliers, for which it makes absolute values and a mask."""
    scales = _new(trace, rows, (rows.numel() // rows.shape[-1],), torch.float32)
    out = _new(trace, rows, tuple(rows.shape), torch.int8)
    if not threshold:
        return out, scales, None
    absolute = _new(trace, rows, tuple(rows.shape), rows.dtype)
    _new(trace, rows, tuple(rows.shape), torch.bool)
    del absolute
    return out, scales, _new(trace, rows, (OUTLIERS,), torch.int64)


def _mixed(
    trace: StorageTrace, rows: torch.Tensor, small: torch.Tensor, matrix: torch.Tensor, *_: Any
) -> tuple[Any, Any]:
    """The 8-bit product, and on top of it that of the columns with outliers, which are kept in 16 bits."""
    kept = _new(trace, rows, (rows.shape[0], OUTLIERS), rows.dtype)
    columns = _new(trace, rows, (OUTLIERS, matrix.shape[0]), rows.dtype)
    product = _product(trace, small, matrix, rows.dtype)
    whole = _new(trace, product, tuple(product.shape), product.dtype)
    del columns
    return whole, kept


def _product(trace: StorageTrace, small: torch.Tensor, matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An int32 product, scaled in fp16, then in the dtype that was asked for."""
    shape = (*small.shape[:-1], matrix.shape[0])
    whole = _new(trace, small, shape, torch.int32)
    scaled = _new(trace, small, shape, torch.float16)
    out = scaled if dtype is torch.float16 else _new(trace, small, shape, dtype)
    del whole
    return out
