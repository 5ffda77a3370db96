"""Rings such as only a liar has them, as Hypothesis makes them up: descriptors, tables, heads that come again, jumps.

They are plausible enough to get far. What the device may write lies from WRITTEN on, or outside memory; from READ on it
may only read: whatever it does, that stays as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from tests.support.rings import Hand

MEMORY_SIZE = 0x40000
WRITTEN, READ = 0x8000, 0x20000
TABLES = 0x6000

Descriptor = tuple[int, int, int, int]  # address, length, flags, next


class Lie(NamedTuple):
    """What is written into the rings of a device, and the heads that are offered in turn, each with its queue."""

    chains: list[tuple[int, int, Descriptor]]
    tables: list[tuple[int, Descriptor]]
    offers: list[tuple[int, list[int]]]
    jump: int | None

    def tell(self, hands: list[Hand], serve: Callable[[int], None]) -> None:
        """Write it; after each offer have the device serve that queue, of which comes RingError at most."""
        for queue, at, descriptor in self.chains:
            hands[queue].write_descriptor(at, *descriptor)
        for at, descriptor in self.tables:
            hands[0].write_descriptor(at, *descriptor, table=TABLES)
        for queue, heads in self.offers:
            hands[queue].offer(*heads)
            with contextlib.suppress(RingError):
                serve(queue)
        if self.jump is not None:
            for queue, hand in enumerate(hands):
                hand.set_word(hand.layout.avail_idx, self.jump)
                with contextlib.suppress(RingError):
                    serve(queue)


def descriptors(limit: int, align: int = 1) -> st.SearchStrategy[Descriptor]:
    """Return descriptors, mostly plausible; what is to be read begins at a multiple of `align`."""
    next_ = st.integers(0, limit)
    lengths = st.integers(0, 64) | st.sampled_from([10, 16, 24, 512, 1528, 1529, 0x1000])
    written = st.tuples(
        st.integers(WRITTEN, READ - 0x2000), lengths, st.sampled_from([DESC_F_WRITE, DESC_F_WRITE | DESC_F_NEXT]), next_
    )
    read = st.tuples(
        st.integers(READ // align, MEMORY_SIZE // align).map(lambda at: at * align),
        lengths | st.just(0x10000),
        st.sampled_from([0, DESC_F_NEXT]),
        next_,
    )
    indirect = st.tuples(
        st.sampled_from([TABLES, TABLES + 0x200, MEMORY_SIZE - 8, 1 << 40]),
        st.sampled_from([16, 64, 512, 17]),
        st.sampled_from([DESC_F_INDIRECT, DESC_F_INDIRECT | DESC_F_WRITE, DESC_F_INDIRECT | DESC_F_NEXT]),
        next_,
    )
    wild = st.tuples(
        st.integers(MEMORY_SIZE, (1 << 64) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, 65535), next_
    )
    return written | written | read | read | indirect | wild


def lies(queues: int, num: int, align: int = 1) -> st.SearchStrategy[Lie]:
    """Return lies for a device with so many queues of `num` descriptors."""
    queue = st.integers(0, queues - 1)
    return st.builds(
        Lie,
        st.lists(st.tuples(queue, st.integers(0, num - 1), descriptors(num, align)), max_size=16),
        st.lists(st.tuples(st.integers(0, 63), descriptors(32, align)), max_size=8),
        st.lists(st.tuples(queue, st.lists(st.integers(0, num), max_size=num)), max_size=8),
        st.integers(0, 65535) | st.none(),
    )


def fill_what_is_read(memory: GuestMemory, pattern: bytes) -> Callable[[], None]:
    """Fill what the device may only read; return what asserts that it is as it was."""
    room = memory.size - READ
    wanted = (pattern * (room // len(pattern) + 1))[:room]
    memory.view(READ, room)[:] = wanted

    def check() -> None:
        assert memory.view(READ, room) == wanted

    return check
