"""The network device moves frames once, in order and whole; loses what a network may lose; and refuses the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from launcher.devices.net import HEADER_SIZE, Net, make_mac
from launcher.devices.tap import Tap, parse
from shared.errors import LabError, RingError
from shared.memory import GuestMemory
from shared.page import Page
from shared.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from shared.virtqueue import Virtqueue
from tests.support.fds import no_new_fds
from tests.support.nets import FRAMES, MEMORY_SIZE, NO_OFFLOADS, NUM, OUTPUT, Desk
from tests.support.network import delete_link, own_network, set_link

LARGEST = bytes(range(256)) * 5 + bytes(238)  # with a VLAN tag
FRAME = bytes(range(60))


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(MEMORY_SIZE) as memory:
        yield memory


@pytest.fixture(params=[True, False], ids=["event_idx", "flags"])
def desk(memory: GuestMemory, request: pytest.FixtureRequest) -> Iterator[Desk]:
    with closing(Desk(memory, event_idx=request.param)) as desk:
        yield desk


# ---- To the Guest ----


def test_a_frame_reaches_the_guest_behind_a_header_that_asks_for_nothing(desk: Desk) -> None:
    desk.offer(1536)
    desk.memory.view(FRAMES, 64)[:] = b"\xff" * 64
    desk.cable.outside.send(FRAME)
    assert desk.look()
    assert desk.is_watched
    assert desk.net.lines() == [0]
    assert desk.net.lines() == []
    assert desk.frames() == [NO_OFFLOADS + FRAME]
    assert (desk.net.received, desk.net.receive_drops) == (1, 0)


@pytest.mark.parametrize(
    "sizes", [(1528,), (10, 1518), (1, 1527), (9, 1519), (12, 1516), (3, 3, 3, 1519), (700, 700, 128), (5, 5, 1, 1517)]
)
def test_a_buffer_may_lie_in_any_pieces_and_be_just_large_enough(desk: Desk, sizes: tuple[int, ...]) -> None:
    desk.offer(*sizes)
    desk.cable.outside.send(LARGEST)
    assert desk.look()
    assert desk.frames() == [NO_OFFLOADS + LARGEST]


def test_a_buffer_in_more_pieces_than_a_system_call_takes_is_filled_all_the_same(desk: Desk) -> None:
    table, pieces = 0x20000, 1528
    for at in range(pieces):
        flags = DESC_F_WRITE | (DESC_F_NEXT if at < pieces - 1 else 0)
        desk.hands[0].write_descriptor(at, FRAMES + at, 1, flags, at + 1, table=table)
    desk.hands[0].write_descriptor(0, table, pieces * 16, DESC_F_INDIRECT)
    desk.hands[0].offer(0)
    desk.cable.outside.send(LARGEST)
    assert desk.look()
    assert bytes(desk.memory.view(FRAMES, pieces)) == NO_OFFLOADS + LARGEST
    desk.cable.outside.send(FRAME)
    desk.hands[0].offer(0)
    assert desk.look()
    assert bytes(desk.memory.view(FRAMES, pieces)) == NO_OFFLOADS + FRAME + LARGEST[len(FRAME) :]


def test_several_frames_come_with_one_look(desk: Desk) -> None:
    for _ in range(NUM):
        desk.offer(100)
    frames = [bytes([number]) * 20 for number in range(5)]
    for frame in frames:
        desk.cable.outside.send(frame)
    assert desk.look()
    assert desk.frames() == [NO_OFFLOADS + frame for frame in frames]
    assert not desk.look()
    assert desk.changes == 0


def test_as_many_frames_as_buffers_are_no_reason_to_watch_no_longer(desk: Desk) -> None:
    for _ in range(3):
        for _ in range(NUM):
            desk.offer(100)
        for _ in range(NUM):
            desk.cable.outside.send(FRAME)
        assert desk.look()
        assert desk.is_watched
        assert desk.frames() == [NO_OFFLOADS + FRAME] * NUM
    assert desk.changes == 0


def test_without_a_buffer_the_interface_is_watched_no_longer_until_the_guest_gives_one(desk: Desk) -> None:
    desk.cable.outside.send(FRAME)
    assert desk.look()
    assert not desk.is_watched
    assert not desk.look()
    desk.offer(100)
    assert desk.is_watched
    assert desk.look()
    assert desk.frames() == [NO_OFFLOADS + FRAME]
    for number in range(3 * NUM):  # dry each time: the device asks for the next buffer, each time
        desk.cable.outside.send(bytes([number]) * 20)
        assert desk.look()
        assert not desk.is_watched
        desk.offer(100)
        assert desk.is_watched, f"round {number}: the Guest was not asked to notify"
        assert desk.look()
        assert desk.frames() == [NO_OFFLOADS + bytes([number]) * 20]


def test_a_ring_aware_waker_needs_no_change_of_what_is_watched(memory: GuestMemory) -> None:
    for event_idx in (False, True):
        with Page.create() as page, closing(Desk(memory, event_idx=event_idx, page=page)) as desk:
            for number in range(3 * NUM):
                desk.cable.outside.send(bytes([number]) * 20)
                assert not desk.look(), "no buffer was given"
                desk.offer(100)
                assert desk.look()
                assert desk.frames() == [NO_OFFLOADS + bytes([number]) * 20]
            assert desk.changes == 0
            desk.offer(100)
            assert desk.net.on_ready(desk.source), "nothing is there: the buffer is kept"
            desk.cable.outside.send(FRAME)
            assert desk.look(), "a buffer that was taken and not written is room"
            assert desk.frames() == [NO_OFFLOADS + FRAME]


def test_the_guest_is_asked_to_notify_only_while_a_frame_waits_for_a_buffer(desk: Desk) -> None:
    desk.received.add([], [(FRAMES, 100)], 0)
    assert not desk.received.kick_needed()
    for _ in range(2):
        desk.cable.outside.send(FRAME)
        assert desk.look()
    assert desk.received.reap() is not None
    assert not desk.is_watched
    desk.received.add([], [(FRAMES, 100)], 0)
    assert desk.received.kick_needed()
    assert desk.net.on_notify(0) == (desk.source,)
    assert desk.net.on_notify(0) == (), "it is watched already"
    desk.received.add([], [(FRAMES + 100, 100)], 0)
    assert not desk.received.kick_needed()


class Overtaken(Virtqueue):
    """The Guest puts something in at the worst moment: after the last look, before the wish for a kick."""

    late: list[Callable[[], None]]

    def enable_notify(self) -> bool:
        if self.late:
            self.late.pop()()
        return super().enable_notify()


def overtake(desk: Desk, number: int, put: Callable[[], None]) -> None:
    desk.queues[number] = queue = Overtaken(
        desk.memory, desk.layouts[number], f"net0 queue {number}", event_idx=desk.event_idx
    )
    queue.late = [put]
    desk.is_watched = bool(desk.net.start(desk.queues))


def test_a_buffer_that_slips_in_before_the_wish_for_a_kick_is_taken(desk: Desk) -> None:
    def put() -> None:
        desk.received.add([], [(FRAMES, 100)], [(FRAMES, 100)])  # type: ignore[arg-type]
        assert not desk.received.kick_needed()

    overtake(desk, 0, put)
    desk.cable.outside.send(FRAME)
    assert desk.look()
    assert desk.is_watched
    assert desk.frames() == [NO_OFFLOADS + FRAME]


def test_a_frame_that_slips_in_before_the_wish_for_a_kick_is_sent(desk: Desk) -> None:
    def put() -> None:
        desk.memory.view(OUTPUT + 0x1000, 70)[:] = NO_OFFLOADS + FRAME
        desk.sent.add([(OUTPUT + 0x1000, 70)], [], 0)
        assert not desk.sent.kick_needed()

    overtake(desk, 1, put)
    desk.send(NO_OFFLOADS + LARGEST)
    assert desk.cable.arrivals() == [LARGEST, FRAME]


def test_a_frame_that_does_not_fit_is_dropped_and_its_buffer_takes_the_next(desk: Desk) -> None:
    desk.offer(HEADER_SIZE + 59)
    desk.cable.outside.send(FRAME)
    desk.cable.outside.send(FRAME[:59])
    assert desk.look()
    assert desk.frames() == [NO_OFFLOADS + FRAME[:59]]
    assert (desk.net.received, desk.net.receive_drops) == (1, 1)


@pytest.mark.parametrize("sizes", [(1,), (9,), (10,), (5, 5), (10, 13)])
def test_a_buffer_too_small_for_any_frame_loses_them_all(desk: Desk, sizes: tuple[int, ...]) -> None:
    desk.offer(*sizes)
    for _ in range(3):
        desk.cable.outside.send(FRAME)
    assert desk.look()
    assert desk.frames() == []
    assert desk.net.receive_drops == 3
    assert desk.is_watched


def test_what_no_ethernet_carries_is_dropped_however_large_the_buffer(desk: Desk) -> None:
    desk.offer(0x1000)
    desk.cable.outside.send(bytes(1519))
    assert desk.look()
    assert (desk.frames(), desk.net.receive_drops) == ([], 1)


def test_one_look_is_bounded(desk: Desk) -> None:
    desk.offer(HEADER_SIZE)
    for _ in range(33):
        desk.cable.outside.send(FRAME)
    assert desk.look()
    assert desk.net.receive_drops == 32
    assert desk.look()
    assert desk.net.receive_drops == 33


def test_a_buffer_that_holds_something_to_read_is_refused(desk: Desk) -> None:
    desk.received.add([(FRAMES, 10)], [(FRAMES + 64, 1528)], 0)
    desk.cable.outside.send(FRAME)
    with pytest.raises(
        RingError, match=r"^net0 queue 0: descriptor \d is a buffer for a frame that the device cannot write$"
    ):
        desk.look()


# ---- From the Guest ----


@pytest.mark.parametrize("cuts", [(), (10,), (1,), (1, 1, 8), (9,), (12,), (10, 14), (2, 8, 1)])
def test_a_frame_is_sent_without_its_header_in_whatever_pieces_it_lies(desk: Desk, cuts: tuple[int, ...]) -> None:
    desk.send(NO_OFFLOADS + LARGEST, *cuts)
    assert desk.cable.arrivals() == [LARGEST]
    assert (desk.net.sent, desk.net.send_drops) == (1, 0)


def test_frames_are_sent_in_order(desk: Desk) -> None:
    for number in range(4 * NUM):
        desk.send(NO_OFFLOADS + bytes([number]) * 14)
    assert desk.cable.arrivals() == [bytes([number]) * 14 for number in range(4 * NUM)]


def test_a_frame_in_more_pieces_than_a_system_call_takes_is_sent(desk: Desk) -> None:
    table, pieces = 0x20000, 1528
    desk.memory.view(OUTPUT, pieces)[:] = NO_OFFLOADS + LARGEST
    for at in range(pieces):
        desk.hands[1].write_descriptor(at, OUTPUT + at, 1, DESC_F_NEXT if at < pieces - 1 else 0, at + 1, table=table)
    desk.hands[1].write_descriptor(0, table, pieces * 16, DESC_F_INDIRECT)
    desk.hands[1].offer(0)
    desk.net.on_notify(1)
    assert desk.cable.arrivals() == [LARGEST]


@pytest.mark.parametrize("length", [0, 1, 13, 1519, 0x2000, 0x10000])
def test_a_frame_that_no_ethernet_carries_is_dropped(desk: Desk, length: int) -> None:
    desk.send(NO_OFFLOADS + bytes(length))
    assert (desk.cable.arrivals(), desk.net.sent, desk.net.send_drops) == ([], 0, 1)


@pytest.mark.parametrize("cuts", [(), (1,), (10,)])
@pytest.mark.parametrize(("at", "value"), [(0, 1), (0, 0x80), (1, 1), (1, 3), (1, 0x83), (1, 0xFF)])
def test_a_frame_that_asks_for_an_offload_is_dropped(desk: Desk, at: int, value: int, cuts: tuple[int, ...]) -> None:
    header = bytearray(NO_OFFLOADS)
    header[at] = value
    desk.send(bytes(header) + FRAME, *cuts)
    assert (desk.cable.arrivals(), desk.net.sent, desk.net.send_drops) == ([], 0, 1)


def test_what_else_the_header_says_means_nothing_without_offloads(desk: Desk) -> None:
    desk.send(b"\0\0" + b"\xff" * 8 + FRAME)
    assert desk.cable.arrivals() == [FRAME]


@pytest.mark.parametrize(("length", "cuts"), [(1, ()), (9, ()), (9, (4,)), (2, (1,))])
def test_less_than_a_header_is_refused(desk: Desk, length: int, cuts: tuple[int, ...]) -> None:
    with pytest.raises(
        RingError, match=rf"^net0 queue 1: descriptor \d holds {length} bytes, less than the header of 10$"
    ):
        desk.send(bytes(length), *cuts)


def test_a_frame_that_the_device_is_to_write_is_refused(desk: Desk) -> None:
    desk.sent.add([(OUTPUT, 70)], [(OUTPUT + 128, 1)], 0)
    with pytest.raises(
        RingError, match=r"^net0 queue 1: descriptor \d is a frame to send that the device is to write$"
    ):
        desk.net.on_notify(1)


def test_what_the_cable_cannot_take_is_dropped_and_the_guest_gets_its_buffer_back(desk: Desk) -> None:
    for _ in range(1000):
        desk.send(NO_OFFLOADS + LARGEST)
    arrived = len(desk.cable.arrivals())
    assert 0 < arrived < 1000
    assert (desk.net.sent, desk.net.send_drops) == (arrived, 1000 - arrived)


# ---- A life ----


def test_after_a_reset_it_waits_for_the_next_driver(desk: Desk) -> None:
    desk.offer(100)
    assert desk.net.on_ready(desk.source)
    desk.net.reset()
    desk.cable.outside.send(FRAME)
    assert not desk.net.on_ready(desk.source)
    assert desk.net.on_notify(1) == ()
    assert desk.net.lines() == []
    desk.start()
    desk.offer(100)
    assert desk.look()
    assert desk.frames() == [NO_OFFLOADS + FRAME]


def test_after_a_reset_a_ring_aware_waker_begins_anew(memory: GuestMemory) -> None:
    with Page.create() as page, closing(Desk(memory, page=page)) as desk:
        desk.offer(100)
        desk.cable.outside.send(FRAME)
        assert desk.look()
        for layout in desk.layouts:
            layout.zero(memory)
        desk.net.reset()
        desk.cable.outside.send(FRAME)
        assert not desk.look(), "no buffer was given"
        desk.start()
        assert not desk.look(), "no buffer was given"
        desk.offer(100)
        assert desk.look()
        assert desk.frames() == [NO_OFFLOADS + FRAME]


def test_a_cable_that_was_cut_is_one_sentence(desk: Desk) -> None:
    desk.cable.outside.close()
    with pytest.raises(LabError, match=r"^net0: interface cable gives and takes no frames: Broken pipe$"):
        desk.send(NO_OFFLOADS + FRAME)


def test_the_configuration_is_an_address_of_its_own(desk: Desk) -> None:
    assert desk.net.config == bytes.fromhex("0200c0a84d01")
    desk.cable.tunnet = parse("bridge:br0")
    found = {make_mac(desk.cable) for _ in range(50)}  # type: ignore[arg-type]
    assert len(found) == 50
    assert all(len(mac) == 6 and mac[0] & 3 == 2 for mac in found), "locally administered, and no group's"


# ---- On a real interface ----


def test_an_interface_that_is_down_takes_nothing_and_one_that_is_deleted_is_one_sentence(memory: GuestMemory) -> None:
    with own_network(), no_new_fds():
        desk = Desk(memory)
        desk.close()
        tap = Tap(parse("192.168.77.1/24"))
        desk.net = Net(tap, "net0")
        desk.net.attach(desk.layouts)
        desk.start()
        desk.send(NO_OFFLOADS + FRAME)
        assert (desk.net.sent, desk.net.send_drops) == (1, 0)
        set_link(tap.name, "down")
        desk.send(NO_OFFLOADS + FRAME)  # EIO
        assert (desk.net.sent, desk.net.send_drops) == (1, 1)
        delete_link(tap.name)
        with pytest.raises(LabError, match=rf"^net0: interface {tap.name} was deleted under the Guest"):
            desk.send(NO_OFFLOADS + FRAME)
        desk.offer(1528)
        with pytest.raises(LabError, match=rf"^net0: interface {tap.name} was deleted under the Guest"):
            desk.net.on_ready(desk.net._source)
        desk.net.close()
        del desk, tap
