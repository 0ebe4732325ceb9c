"""torch's CUDA caching allocator as a model: from a sequence of allocations to the bytes that it reserves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

SMALL = 1 << 20
"""Blocks up to 1 MiB come from segments of 2 MiB (c10 ``CUDACachingAllocator``: kSmallSize, kSmallBuffer)."""
SMALL_SEGMENT = 2 << 20
LARGE = 10 << 20
"""Blocks below 10 MiB come from segments of 20 MiB, larger ones get their own, rounded to 2 MiB."""
LARGE_SEGMENT = 20 << 20
ROUND_LARGE = 2 << 20
MIN_REST = 512
"""Smallest rest of a small block that is split off; of a large one it is more than 1 MiB."""

Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class _Block:
    number: int
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None

    @property
    def key(self) -> Key:
        """Best fit: the smallest that is large enough, the oldest of these."""
        return (self.size, self.number)


@dataclass(slots=True)
class CachingAllocator:
    """Default policy: best fit within a pool, split, merge with free neighbours; segments are never given back."""

    reserved: int = 0
    peak: int = 0
    _made: int = 0
    _held: dict[int, _Block] = field(default_factory=dict)
    _free: dict[bool, list[Key]] = field(default_factory=lambda: {True: [], False: []})
    _blocks: dict[int, _Block] = field(default_factory=dict)

    def allocate(self, name: int, size: int) -> None:
        """Give a block of at least ``size`` bytes to ``name``."""
        small = size <= SMALL
        block = self._best(small, size) or self._segment(small, size)
        rest = block.size - size
        if rest >= MIN_REST if small else rest > SMALL:
            self._split(block, size)
        block.free = False
        self._held[name] = block

    def release(self, name: int) -> None:
        """Take the block of ``name`` back and merge it with free neighbours."""
        block = self._held.pop(name)
        for other in (block.before, block.after):
            if other is not None and other.free:
                self._take(other)
                block = self._merge(block, other)
        self._put(block)

    def follow(self, name: int, size: int) -> None:
        """One event of a trace: that many bytes for ``name``, or, where they are negative, its end."""
        if size > 0:
            self.allocate(name, size)
        else:
            self.release(name)

    def _best(self, small: bool, size: int) -> _Block | None:
        keys = self._free[small]
        at = bisect_left(keys, (size, -1))
        if at == len(keys):
            return None
        return self._blocks[keys.pop(at)[1]]

    def _segment(self, small: bool, size: int) -> _Block:
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE
        self.reserved += whole
        self.peak = max(self.peak, self.reserved)
        return self._new(whole, small)

    def _new(self, size: int, small: bool) -> _Block:
        self._made += 1
        block = _Block(self._made, size, small)
        self._blocks[block.number] = block
        return block

    def _split(self, block: _Block, size: int) -> None:
        rest = self._new(block.size - size, block.small)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        self._put(rest)

    def _merge(self, block: _Block, other: _Block) -> _Block:
        first, second = (other, block) if other is block.before else (block, other)
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        del self._blocks[second.number]
        return first

    def _put(self, block: _Block) -> None:
        block.free = True
        insort(self._free[block.small], block.key)

    def _take(self, block: _Block) -> None:
        keys = self._free[block.small]
        del keys[bisect_left(keys, block.key)]
        block.free = False


def reserved_by(events: Iterable[tuple[int, int]]) -> int:
    """Peak of reserved bytes over a sequence of (storage, bytes), negative bytes for a free."""
    allocator = CachingAllocator()
    for name, size in events:
        allocator.follow(name, size)
    return allocator.peak
