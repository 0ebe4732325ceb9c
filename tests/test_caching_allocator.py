"""The allocator model: segments as c10's CUDACachingAllocator makes them, and what must always hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_advise.runner.caching_allocator import CachingAllocator, reserved_by

MIB = 2**20


@st.composite
def sequences(draw) -> list[tuple[int, int]]:
    """Allocations and frees in some order, everything rounded to 512 bytes."""
    events: list[tuple[int, int]] = []
    alive: dict[int, int] = {}
    for name in range(draw(st.integers(1, 60))):
        size = 512 * draw(st.one_of(st.integers(1, 4096), st.integers(1, 200_000)))
        events.append((name, size))
        alive[name] = size
        for old in draw(st.lists(st.sampled_from(sorted(alive)), max_size=3, unique=True)):
            events.append((old, -alive.pop(old)))
    return events


def highest(events: list[tuple[int, int]]) -> int:
    now = top = 0
    for _, size in events:
        now += size
        top = max(top, now)
    return top


def test_small_blocks_share_segments_of_two_mib() -> None:
    assert reserved_by([(1, 512)]) == 2 * MIB
    assert reserved_by([(n, MIB) for n in range(2)]) == 2 * MIB
    assert reserved_by([(n, MIB) for n in range(3)]) == 4 * MIB


def test_middle_blocks_share_segments_of_twenty_mib_and_large_ones_are_rounded_to_two() -> None:
    assert reserved_by([(1, MIB + 512)]) == 20 * MIB
    assert reserved_by([(1, 10 * MIB - 512), (2, 9 * MIB)]) == 20 * MIB
    assert reserved_by([(1, 10 * MIB)]) == 10 * MIB
    assert reserved_by([(1, 11 * MIB)]) == 12 * MIB


def test_a_freed_block_is_used_again_when_it_is_large_enough() -> None:
    assert reserved_by([(1, 30 * MIB), (1, -30 * MIB), (2, 30 * MIB)]) == 30 * MIB
    assert reserved_by([(1, 30 * MIB), (1, -30 * MIB), (2, 40 * MIB)]) == 70 * MIB


def test_neighbours_are_merged_when_they_are_free() -> None:
    events = [
        (1, 40 * MIB),
        (1, -40 * MIB),
        (2, 20 * MIB),
        (3, 20 * MIB),
        (2, -20 * MIB),
        (3, -20 * MIB),
        (4, 40 * MIB),
    ]
    assert reserved_by(events) == 40 * MIB


@given(sequences())
def test_never_less_than_what_is_alive_and_no_growth_the_second_time(events) -> None:
    assert reserved_by(events) >= highest(events)
    alive: dict[int, int] = {}
    for name, size in events:
        alive[name] = alive.get(name, 0) + size
    closing = [(name, -size) for name, size in alive.items() if size]
    again = [(name + 10_000, size) for name, size in (*events, *closing)]
    assert reserved_by([*events, *closing]) == reserved_by(events)
    assert reserved_by([*events, *closing, *again]) <= 2 * reserved_by(events)


@given(sequences())
def test_every_byte_of_a_segment_belongs_to_one_block(events) -> None:
    allocator = CachingAllocator()
    for name, size in events:
        allocator.follow(name, size)
        assert sum(block.size for block in allocator._blocks.values()) == allocator.reserved
        assert sum(len(keys) for keys in allocator._free.values()) == sum(b.free for b in allocator._blocks.values())
