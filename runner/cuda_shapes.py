"""What a CUDA device would allocate, for tensors on the meta device: attention kernels, dropout, autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

FLASH_WIDTH = 256
"""Widest head that flash attention takes (torch ``sdp_utils.cpp``: check_head_dim_size_flash)."""
TILE = 128
"""Rows to which the flash kernels round their fp32 buffers."""
HALF = (torch.bfloat16, torch.float16)
FLASH = "rehearsed_attention"
"""Name (without the word flash, at which transformers looks for a kernel) under which the shapes of FlashAttention 2 are known to transformers during a rehearsal."""


class CudaShapes(TorchFunctionMode):  # type: ignore[misc]
    """Replaces functions whose meta version allocates differently from the CUDA one, and applies autocast.

    The flag of CPU autocast stands for the device's, because accelerate sets it on a machine without a GPU. Operators
    are cast as torch's autocast lists for CUDA say.
    """

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or what stands for it."""
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            # Handling a function switches the mode off; the recomputation of checkpoints needs it on.
            with self:
                return _backward(args[0])
        if func in _LOWERED or func in _RAISED:
            if torch.is_autocast_enabled("cpu"):
                wanted = torch.get_autocast_dtype("cpu") if func in _LOWERED else torch.float32
                args = tuple(self._cast(value, wanted) for value in args)
                kwargs = {name: self._cast(value, wanted) for name, value in kwargs.items()}
        elif func in _SUMS and torch.is_autocast_enabled("cpu") and _half(args[0]):
            kwargs.setdefault("dtype", torch.float32)
        stand_in = _STAND_INS.get(func)
        if stand_in is not None and args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return stand_in(*args, **kwargs)
        return func(*args, **kwargs)

    def forget_casts(self) -> None:
        """Drop the copies that autocast keeps to the end of its region."""
        self._casts.clear()

    def _cast(self, value: Any, wanted: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(item, wanted) for item in value)
        if not isinstance(value, torch.Tensor) or not value.is_meta:
            return value
        if not value.is_floating_point() or value.dtype in (wanted, torch.float64):
            return value
        keep = value.dtype is torch.float32 and wanted in HALF and value.is_leaf and value.requires_grad
        if not keep:
            return value.to(wanted)
        found = self._casts.get(id(value))
        if found is None:
            found = self._casts[id(value)] = (value, value.to(wanted))
        return found[1]


def _backward(loss: torch.Tensor) -> None:
    """The engine itself: its Python fronts would ask the mode again."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    *_: Any, enable_gqa: bool = False, **__: Any,
) -> torch.Tensor:  # fmt: skip
    """scaled_dot_product_attention by the backend that CUDA would choose: flash, memory-efficient or math."""
    narrow = query.shape[-1] <= FLASH_WIDTH
    if attn_mask is None and query.dtype in HALF and narrow and query.shape[-1] == value.shape[-1]:
        return _fused(query, key, value, None)
    if enable_gqa and key.shape[1] != query.shape[1]:
        return _math(query, key, value, attn_mask)
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, query)
    return _fused(query, key, value, attn_mask)


def _bias(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The mask as the memory-efficient kernel takes it: the query's dtype, rows padded to a multiple of 8."""
    if mask.dtype is torch.bool:
        mask = mask.logical_not().to(query.dtype)
    if mask.shape[-1] % 8:
        mask = F.pad(mask, (0, 8 - mask.shape[-1] % 8))
    return mask


def _math(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The unfused path: scores, softmax and expanded keys and values are materialised and kept."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q * 0.5, (k * 0.5).transpose(-2, -1))
    if mask is not None:
        scores = scores + (_bias(mask, q)[..., : scores.shape[-1]] if mask.dtype is torch.bool else mask)
    return torch.matmul(torch.softmax(scores, -1), v)


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = _Fused.apply(q, k, v, mask)
    return out


class _Fused(torch.autograd.Function):  # type: ignore[misc]
    """Shapes of the flash and memory-efficient kernels: (batch, heads, length, width) in and out."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, heads, length, _ = q.shape
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, q.new_empty(batch, heads, length, dtype=torch.float32), mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, _, _, _ = ctx.saved_tensors
        batch, heads, length, width = q.shape
        grad = grads[0]
        if not grad.transpose(1, 2).is_contiguous():
            grad = grad.transpose(1, 2).contiguous()
        rows = -(-length // TILE) * TILE
        # fp32 accumulator of the query's gradient, and the row sums of gradient times output.
        held = [
            q.new_empty(batch, rows, heads, -(-width // 32) * 32, dtype=torch.float32),
            q.new_empty(batch, heads, rows, dtype=torch.float32),
        ]
        made = tuple(x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))
        if k.shape[1] != heads:
            held += [k.new_empty(batch, k.shape[2], heads, x.shape[3]) for x in (k, v)]
        del held
        return *made, None


def _half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta and value.dtype in HALF


def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> torch.Tensor:
    """CUDA's dropout: a copy, and a mask of one byte an element."""
    if not training or p == 0:
        return x
    out: torch.Tensor = _Dropout.apply(x)
    return out


class _Dropout(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x.new_empty(x.shape, dtype=torch.bool))
        return torch.empty_like(x)

    @staticmethod
    def backward(_: Any, *grads: torch.Tensor) -> Any:
        return torch.empty_like(grads[0])


def grouped(rows: torch.Tensor, experts: torch.Tensor, *how: Any, **named: Any) -> torch.Tensor:
    """grouped_mm in fp32, which CUDA computes expert by expert into one result and torch's meta kernel refuses."""
    if rows.dtype in HALF:
        kernel: torch.Tensor = torch._grouped_mm(rows, experts, *how, **named)
        return kernel
    out: torch.Tensor = _Grouped.apply(rows, experts)
    return out


class _Grouped(torch.autograd.Function):  # type: ignore[misc]
    """Shapes of torch ``GroupedMMUtils.h``: (rows, in) by (experts, in, out); frozen experts keep no rows for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, experts)
        ctx.width = rows.shape[-1]
        return rows.new_empty(rows.shape[0], experts.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        _, experts = ctx.saved_tensors
        made = grads[0].new_empty(grads[0].shape[0], ctx.width) if ctx.needs_input_grad[0] else None
        return made, torch.empty_like(experts) if ctx.needs_input_grad[1] else None


def flash(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """FlashAttention 2 behind transformers' interface; a mask means padded rows, which are gathered and put back."""
    if query.dtype is torch.float32:
        wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else module.config.dtype
        query, key, value = query.to(wanted), key.to(wanted), value.to(wanted)
    wide = value.shape[-1]
    if wide != query.shape[-1]:
        value = F.pad(value, [0, query.shape[-1] - wide])
    if attention_mask is not None:
        query, key, value = (x.transpose(1, 2).clone().transpose(1, 2) for x in (query, key, value))
    out = _fused(query, key, value, None).transpose(1, 2)
    if attention_mask is not None:
        out = out.clone()
    return out[..., :wide], None


def _named(owner: Any, names: str) -> frozenset[Any]:
    return frozenset(getattr(owner, name) for name in names.split() if hasattr(owner, name))


_LOWERED = (
    _named(F, "linear conv1d conv2d conv3d conv_transpose1d scaled_dot_product_attention prelu")
    | _named(torch, "matmul mm mv bmm addmm addmv addr baddbmm addbmm chain_matmul einsum conv1d conv2d conv3d prelu")
    | _named(torch.Tensor, "matmul __matmul__ __rmatmul__ mm mv bmm addmm addmv baddbmm addbmm")
)
"""Operators that autocast runs in 16 bits (torch ``autocast_mode.h``, AT_FORALL_LOWER_PRECISION_FP)."""
_RAISED = (
    _named(F, "layer_norm rms_norm group_norm softmax log_softmax cross_entropy nll_loss softplus mse_loss l1_loss smooth_l1_loss "
              "kl_div cosine_similarity normalize binary_cross_entropy_with_logits")
    | _named(torch, "softmax log_softmax cumsum cumprod prod exp expm1 log log10 log2 log1p pow rsqrt reciprocal norm "
                    "logsumexp tan cosh sinh acos asin erfinv layer_norm rms_norm group_norm")
    | _named(torch.Tensor, "softmax log_softmax cumsum cumprod prod exp expm1 log log10 log2 log1p pow __pow__ __rpow__ rsqrt "
                           "reciprocal norm logsumexp")
)  # fmt: skip
"""Operators that autocast runs in fp32 (the same file, AT_FORALL_FP32 and its relatives)."""
_SUMS = _named(torch, "sum") | _named(torch.Tensor, "sum")
"""Sums, which autocast gives an fp32 result without a copy of the input."""
_STAND_INS: dict[Any, Any] = {
    F.scaled_dot_product_attention: attention, F.dropout: dropout, torch.dropout: dropout,
    **dict.fromkeys(_named(torch, "_grouped_mm"), grouped),
}  # fmt: skip
