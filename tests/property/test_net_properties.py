"""Whatever pieces an honest Guest cuts its buffers into, frames stay whole; of what a liar offers comes RingError."""

from __future__ import annotations

import contextlib
from contextlib import closing

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.devices.net import HEADER_SIZE
from shared.errors import RingError
from shared.memory import GuestMemory
from shared.page import Page
from shared.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from tests.support.nets import MEMORY_SIZE, NO_OFFLOADS, NUM, Desk

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALLEST, LARGEST = 14, 1518
# What a liar has written lies here, and what only is read from here on.
WRITTEN, READ = 0x8000, 0x20000
TABLES = 0x6000

FRAMES = (
    st.binary(min_size=1, max_size=15)
    | st.binary(min_size=14, max_size=64)
    | st.integers(LARGEST - 2, LARGEST + 2).map(bytes)
)
PIECES = st.lists(st.integers(1, 40) | st.integers(1, 1600), min_size=1, max_size=5)


@SLOW_IS_FINE
@given(st.lists(st.tuples(FRAMES, PIECES), max_size=12), st.booleans(), st.booleans())
def test_each_frame_comes_whole_and_in_order_or_is_counted(
    turns: list[tuple[bytes, list[int]]], event_idx: bool, is_ring_aware: bool
) -> None:
    with contextlib.ExitStack() as closing_all:
        memory = closing_all.enter_context(GuestMemory.create(MEMORY_SIZE))
        page = closing_all.enter_context(Page.create())
        desk = closing_all.enter_context(
            closing(Desk(memory, event_idx=event_idx, page=page if is_ring_aware else None))
        )
        waiting: list[bytes] = []
        given_: list[int] = []
        expected: list[bytes] = []
        came: list[bytes] = []
        for frame, pieces in turns:
            desk.cable.outside.send(frame)
            waiting.append(frame)
            if desk.received.free >= len(pieces):
                desk.offer(*pieces)
                given_.append(sum(pieces))
            while desk.look():
                pass
            came += desk.frames()
            while waiting and given_:  # the model: a buffer stays until a frame fits it
                first = waiting.pop(0)
                if len(first) <= LARGEST and HEADER_SIZE + len(first) <= given_[0]:
                    expected.append(NO_OFFLOADS + first)
                    given_.pop(0)
            assert came == expected
            assert desk.net.received == len(expected)
        assert desk.net.received + desk.net.receive_drops == len(turns) - len(waiting)


@SLOW_IS_FINE
@given(st.lists(st.tuples(FRAMES, st.lists(st.integers(1, 30), max_size=4)), max_size=12), st.booleans())
def test_each_frame_is_sent_whole_and_in_order_or_is_counted(
    frames: list[tuple[bytes, list[int]]], event_idx: bool
) -> None:
    with GuestMemory.create(MEMORY_SIZE) as memory, closing(Desk(memory, event_idx=event_idx)) as desk:
        for frame, cuts in frames:
            data = NO_OFFLOADS + frame
            fitting = [cut for at, cut in enumerate(cuts) if sum(cuts[: at + 1]) < len(data)]
            desk.send(data, *fitting)
        assert desk.cable.arrivals() == [frame for frame, _ in frames if SMALLEST <= len(frame) <= LARGEST]
        assert desk.net.sent + desk.net.send_drops == len(frames)


def descriptors(limit: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    """Address, length, flags and next, mostly plausible: what is to be written lies below READ, or outside memory."""
    next_ = st.integers(0, limit)
    lengths = st.integers(0, 64) | st.sampled_from([10, 24, 1528, 1529, 0x1000])
    written = st.tuples(
        st.integers(WRITTEN, READ - 0x2000), lengths, st.sampled_from([DESC_F_WRITE, DESC_F_WRITE | DESC_F_NEXT]), next_
    )
    read = st.tuples(st.integers(0, MEMORY_SIZE), lengths | st.just(0x10000), st.sampled_from([0, DESC_F_NEXT]), next_)
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


@SLOW_IS_FINE
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, NUM - 1), descriptors(NUM)), max_size=16),
    st.lists(st.tuples(st.integers(0, 63), descriptors(32)), max_size=8),
    st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, NUM), max_size=NUM)), max_size=8),
    st.lists(FRAMES, max_size=6),
    st.integers(0, 65535) | st.none(),
    st.booleans(),
)
def test_of_a_liars_rings_comes_ringerror_at_most(
    chains: list[tuple[int, int, tuple[int, int, int, int]]],
    tables: list[tuple[int, tuple[int, int, int, int]]],
    offers: list[tuple[int, list[int]]],
    frames: list[bytes],
    jump: int | None,
    event_idx: bool,
) -> None:
    with GuestMemory.create(MEMORY_SIZE) as memory, closing(Desk(memory, event_idx=event_idx)) as desk:
        for queue, at, (addr, length, flags, next_) in chains:
            desk.hands[queue].write_descriptor(at, addr, length, flags, next_)
        for at, (addr, length, flags, next_) in tables:
            desk.hands[0].write_descriptor(at, addr, length, flags, next_, table=TABLES)
        memory.view(READ, MEMORY_SIZE - READ)[:] = bytes(10) * ((MEMORY_SIZE - READ) // 10) + bytes(
            (MEMORY_SIZE - READ) % 10
        )
        before = bytes(memory.view(READ, MEMORY_SIZE - READ))
        for frame in frames:
            desk.cable.outside.send(frame)
        for queue, heads in offers:
            desk.hands[queue].offer(*heads)
            _endure(desk, queue)
        if jump is not None:
            for queue in (0, 1):
                desk.hands[queue].set_word(desk.layouts[queue].avail_idx, jump)
                _endure(desk, queue)
        assert bytes(memory.view(READ, MEMORY_SIZE - READ)) == before
        assert all(SMALLEST <= len(frame) <= LARGEST for frame in desk.cable.arrivals())
        # And the next driver finds a device that works.
        desk.net.reset()
        desk.start()
        desk.offer(1528)
        while desk.look():
            pass
        desk.frames()
        desk.cable.arrivals()
        desk.send(NO_OFFLOADS + b"it is still alive")
        assert desk.cable.arrivals() == [b"it is still alive"]


def _endure(desk: Desk, queue: int) -> None:
    with contextlib.suppress(RingError):
        desk.net.on_notify(queue)
    with contextlib.suppress(RingError):
        desk.net.on_ready(desk.source)
    desk.net.lines()
