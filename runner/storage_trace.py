"""Follows every storage of a step that is run on the meta device: what is alive when, and what for."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_advise.runner.int8_shapes import INT8, int8_answer

ROUND = 512
"""Bytes to which torch's CUDA allocator rounds every block (c10 ``CUDACachingAllocator``)."""

FEW_ROWS = 4
"""Rows up to which bitsandbytes' 4-bit product always reads the packed matrix (``_GEMM_4BIT_CUSTOM_FLOOR_M``); between 5
and 1,536 it depends on the card, and unpacking is assumed."""
_FOUR_BIT = "gemm_4bit"


class Peak(NamedTuple):
    """The highest point of a stage: bytes in all, and by what they are for."""

    bytes: int
    parts: dict[str, int]


class StorageTrace(TorchDispatchMode):  # type: ignore[misc]
    """Registers every new storage on the meta device and notes when it is freed.

    ``events`` is the sequence of (storage, bytes) with negative bytes for a free, which the allocator model replays;
    ``peaks`` holds the highest point of each stage. Values that a step asks a tensor for are answered as a healthy step
    would: ``padded`` says whether the batch has padding.
    """

    def __init__(self, *, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.events: list[tuple[int, int]] = []
        self.peaks: dict[str, Peak] = {}
        self.current = 0
        self._parts: Counter[str] = Counter()
        self._live: dict[int, tuple[weakref.ref[Any], int, int, str]] = {}
        self._names = 0
        self._stage = ""
        self._part = ""

    def enter(self, stage: str, part: str) -> None:
        """Begin a stage: what is allocated from here on belongs to ``part`` until it is known better."""
        self._stage, self._part = stage, part
        self._look()

    def hold(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Register tensors that exist already, or say what those registered are for."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._live:
                self._add(storage, part)
                continue
            reference, size, name, old = self._live[key]
            self._parts[old] -= size
            self._parts[part] += size
            self._live[key] = (reference, size, name, part)

    def touch(self, size: int) -> None:
        """A kernel's own buffer: allocated and freed within it."""
        size = _rounded(size)
        if not size:
            return
        self._names += 1
        self.events += [(self._names, size), (self._names, -size)]
        self.current += size
        self._parts[self._part] += size
        self._look()
        self.current -= size
        self._parts[self._part] -= size

    def _add(self, storage: Any, part: str) -> None:
        size = _rounded(storage.nbytes())
        if not size:
            return
        self._names += 1
        key, name = storage._cdata, self._names

        def freed(_: Any) -> None:
            _, known, named, owner = self._live.pop(key)
            self.current -= known
            self._parts[owner] -= known
            self.events.append((named, -known))

        self._live[key] = (weakref.ref(storage, freed), size, name, part)
        self.current += size
        self._parts[part] += size
        self.events.append((name, size))
        self._look()

    def _look(self) -> None:
        peak = self.peaks.get(self._stage)
        if self._stage and (peak is None or self.current > peak.bytes):
            self.peaks[self._stage] = Peak(self.current, dict(self._parts))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator on the meta device and register what it made."""
        kwargs = kwargs or {}
        if func in _ANSWERED and _on_meta(args[0]):
            return _ANSWERED[func](self, args, kwargs)
        name = func.__name__.partition(".")[0]
        if name in INT8 and _on_meta(args[0]):
            return int8_answer(self, name, args, kwargs)
        unpacked = self._unpacked(args) if func.__name__.startswith(_FOUR_BIT) else ()
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta:
                storage = leaf.untyped_storage()
                if storage._cdata not in self._live:
                    self._add(storage, self._part)
                if leaf.dim() == 0:
                    leaf._asked = func
        del unpacked
        return out

    def _unpacked(self, args: Any) -> tuple[torch.Tensor, ...]:
        """What the 4-bit product makes on CUDA but for a few rows: the scales twice in fp32, and the matrix in 16 bits."""
        rows, shape = args[0], args[2]
        if rows.numel() // rows.shape[-1] <= FEW_ROWS:
            return ()
        scales = [self.made(rows.new_empty(shape[0] * shape[1] // args[4], dtype=torch.float32)) for _ in range(2)]
        return (*scales, self.made(rows.new_empty(tuple(shape))))

    def made(self, tensor: torch.Tensor) -> torch.Tensor:
        """Register a tensor that an answer made."""
        self._add(tensor.untyped_storage(), self._part)
        return tensor


def _rounded(size: int) -> int:
    return -(-size // ROUND) * ROUND


def _on_meta(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def _scalar(trace: StorageTrace, args: Any, _: Any) -> Any:
    """The value of a single number: masks are full unless the batch is padded, counts are positive, nothing is NaN."""
    tensor, asked = args[0], getattr(args[0], "_asked", None)
    if asked in _FULL:
        return not trace.padded
    if asked in _POSITIVE:
        return True
    if tensor.dtype is torch.bool:
        return False
    return 1.0 if tensor.is_floating_point() else 1


def _indexed(trace: StorageTrace, args: Any, kwargs: Any) -> Any:
    """Indexing by a boolean mask: every position is taken, as with a loss on all tokens."""
    tensor, indices = args[0], args[1]
    masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
    if not masks:
        out = torch.ops.aten.index.Tensor(tensor, indices, **kwargs)
        return trace.made(out)
    dims = sum(mask.dim() for mask in masks)
    count = masks[0].numel()
    # The kernel turns the mask into one int64 index per dimension first.
    trace.touch(8 * count * dims)
    return trace.made(tensor.new_empty((count, *tensor.shape[dims:])))


def _selected(trace: StorageTrace, args: Any, _: Any) -> Any:
    return trace.made(args[0].new_empty((max(args[0].numel(), args[1].numel()),)))


def _nonzero(trace: StorageTrace, args: Any, _: Any) -> Any:
    return trace.made(args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64))


_ops = torch.ops.aten
_FULL = (_ops.all.default,)
_POSITIVE = (_ops.gt.Scalar, _ops.ge.Scalar, _ops.gt.Tensor, _ops.ge.Tensor)
_ANSWERED = {
    _ops._local_scalar_dense.default: _scalar,
    _ops.index.Tensor: _indexed,
    _ops.masked_select.default: _selected,
    _ops.nonzero.default: _nonzero,
}
