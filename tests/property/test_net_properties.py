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
from tests.support.liars import MEMORY_SIZE, Lie, fill_what_is_read, lies
from tests.support.nets import NO_OFFLOADS, NUM, Desk

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALLEST, LARGEST = 14, 1518

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


@SLOW_IS_FINE
@given(lies(queues=2, num=NUM), st.lists(FRAMES, max_size=6), st.booleans())
def test_of_a_liars_rings_comes_ringerror_at_most(lie: Lie, frames: list[bytes], event_idx: bool) -> None:
    with GuestMemory.create(MEMORY_SIZE) as memory, closing(Desk(memory, event_idx=event_idx)) as desk:
        check_the_rest = fill_what_is_read(memory, bytes(10))
        for frame in frames:
            desk.cable.outside.send(frame)

        def serve(queue: int) -> None:
            with contextlib.suppress(RingError):
                desk.net.on_notify(queue)
            with contextlib.suppress(RingError):
                desk.net.on_ready(desk.source)
            desk.net.lines()

        lie.tell(desk.hands, serve)
        check_the_rest()
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
