"""The devices that checks and benchmarks wake, with the real process at the other end of the ring."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from launcher.devices.peer import VringPeer
from launcher.devices.pulse import KINDS, Pulse
from launcher.devices.vring import VringDevice
from shared.driverqueue import DriverQueue
from shared.errors import MemoryRefused, UsageError, WireError
from shared.memory import GuestMemory
from shared.page import Page
from shared.vring_layout import VringLayout
from tests.support.fds import no_new_fds, open_fds
from tests.support.rings import DATA, layout_of


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


@pytest.fixture(params=KINDS)
def pulse(request: pytest.FixtureRequest) -> Iterator[Pulse]:
    pulse = Pulse(3, request.param)
    yield pulse
    pulse.close()


def test_ringing_makes_one_source_ready_until_it_is_served(pulse: Pulse) -> None:
    pulse.ring(1)
    assert [is_readable(source.fd) for source in pulse.sources] == [False, True, False]
    assert pulse.on_ready(pulse.sources[1])
    assert not is_readable(pulse.sources[1].fd)
    assert pulse.rung == 1


def test_rings_are_counted_and_interrupt_once(pulse: Pulse) -> None:
    for _ in range(5):
        pulse.ring()
    assert pulse.lines() == ()
    pulse.on_ready(pulse.sources[0])
    assert pulse.rung == 5
    assert pulse.lines() == (0,)
    assert pulse.lines() == ()


def test_what_is_not_served_stays_ready_and_interrupts_nobody(pulse: Pulse) -> None:
    pulse.is_serving = False
    pulse.ring()
    assert pulse.on_ready(pulse.sources[0])
    assert is_readable(pulse.sources[0].fd)
    assert pulse.rung == 0
    assert pulse.lines() == ()


def test_a_number_comes_back_as_another_file_though_a_lower_one_is_free(pulse: Pulse) -> None:
    pulse.ring(2)
    old = pulse.sources[2]
    pulse.close_source(pulse.sources[0])
    before = set(open_fds())
    new = pulse.replace(old)
    assert len(open_fds()) == len(before)  # the writer of a pipe may have another number
    assert new is not old
    assert new.fd == old.fd
    assert not os.get_inheritable(new.fd)
    assert old not in pulse.sources
    assert not is_readable(new.fd)
    pulse.ring_source(new)
    assert is_readable(new.fd)
    pulse.on_ready(new)
    assert pulse.rung == 1


def test_another_process_can_ring_by_the_writer(pulse: Pulse) -> None:
    os.write(pulse.writer(2), (1).to_bytes(8, "little") if pulse.writer(2) == pulse.sources[2].fd else b"!")
    assert is_readable(pulse.sources[2].fd)
    pulse.on_ready(pulse.sources[2])
    assert pulse.rung == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_pulse_closes_all_it_opened(kind: str) -> None:
    with no_new_fds():
        pulse = Pulse(2, kind)
        pulse.open()
        pulse.close_source(pulse.sources[0])
        pulse.close()
        pulse.close()


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with no_new_fds(), pytest.raises(UsageError, match=r"^pulse: kind 'bell' is not known; there are eventfd, pipe$"):
        Pulse(1, "bell")


class Ring:
    """A vring device, its other end in a process of its own, and the Guest's half of the ring."""

    def __init__(self, memory: GuestMemory, page: Page, layout: VringLayout) -> None:
        self.memory = memory
        self.device = VringDevice(memory, page, layout.num)
        (self.source,) = self.device.attach([layout])
        self.guest = DriverQueue(memory, layout, "guest queue")
        self.peer = VringPeer(memory, layout, self.device.fd)

    def close(self) -> None:
        self.peer.close()
        self.device.close()


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def ring(memory: GuestMemory, page: Page) -> Iterator[Ring]:
    ring = Ring(memory, page, layout_of())
    yield ring
    ring.close()


def test_another_process_fills_the_guests_buffer_and_the_launcher_only_says_so(ring: Ring) -> None:
    ring.guest.add([], [(DATA, 64)], "first")
    assert not ring.device.fd.poll()
    ring.peer.fill("from afar")
    assert ring.device.fd.poll()
    assert is_readable(ring.source.fd)
    assert ring.device.on_ready(ring.source)
    assert ring.device.taken == 1
    assert ring.device.lines() == (0,)
    assert ring.device.lines() == ()
    assert not ring.device.fd.poll()
    assert ring.guest.reap() == ("first", 9)
    assert bytes(ring.memory.view(DATA, 9)) == b"from afar"


def test_news_is_counted_once_however_often_it_is_looked_at(ring: Ring) -> None:
    for number in range(3):
        ring.guest.add([], [(DATA + number * 64, 64)], number)
        ring.peer.fill("x" * (number + 1))
    ring.device.on_ready(ring.source)
    ring.device.on_ready(ring.source)
    assert ring.device.taken == 3
    assert [ring.guest.reap() for _ in range(4)] == [(0, 1), (1, 2), (2, 3), None]


def test_news_is_counted_right_where_the_index_wraps(ring: Ring, page: Page) -> None:
    layout = ring.device.layout
    for addr in (layout.used_idx, layout.avail_idx):
        ring.memory.u16[addr >> 1] = 0xFFFE
    with no_new_fds():
        wrapped = Ring(ring.memory, page, layout)
        for number in range(4):
            wrapped.guest.add([], [(DATA + number * 64, 64)], number)
            wrapped.peer.fill("wrap")
        wrapped.device.on_ready(wrapped.source)
        assert wrapped.device.taken == 4
        assert not wrapped.device.fd.poll()
        wrapped.close()


def test_a_look_at_no_news_wants_no_interrupt(ring: Ring) -> None:
    os.eventfd_write(ring.source.fd, 1)
    assert ring.device.on_ready(ring.source)
    assert ring.device.lines() == ()


def test_a_notification_rings_at_the_other_end(ring: Ring) -> None:
    assert ring.device.on_notify(0) == ()
    assert is_readable(ring.device.fd.kick)


def test_filling_without_a_buffer_is_refused_in_one_sentence_and_the_peer_lives(ring: Ring) -> None:
    with pytest.raises(WireError, match=r"^vring peer: the Guest offered no buffer$"):
        ring.peer.fill("too early")
    ring.guest.add([], [(DATA, 64)], "now")
    ring.peer.fill("now")
    assert ring.guest.reap() == ("now", 3)


def test_a_text_longer_than_the_buffer_is_cut_to_it(ring: Ring) -> None:
    ring.guest.add([], [(DATA, 4)], "short")
    ring.peer.fill("longer than four")
    assert ring.guest.reap() == ("short", 4)
    assert bytes(ring.memory.view(DATA, 5)) == b"long\0"


def test_a_malformed_ring_is_reported_by_the_peer_in_one_sentence(ring: Ring) -> None:
    ring.guest.add([], [(DATA, 64)], "bad")
    ring.memory.view(ring.device.layout.desc + 8, 4)[:] = (0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(WireError, match=r"^vring peer: vring: descriptor 0 ends at .* past guest memory \(0x20000\)$"):
        ring.peer.fill("x")


def test_a_peer_that_was_killed_is_noticed(ring: Ring) -> None:
    os.kill(ring.peer.pid, signal.SIGKILL)
    ring.guest.add([], [(DATA, 64)], "never")
    with pytest.raises(WireError):
        ring.peer.fill("x")


def test_private_memory_cannot_be_given_to_a_peer(page: Page) -> None:
    with GuestMemory.private(0x20000) as private:
        device = VringDevice(private, page, 8)
        device.attach([layout_of()])
        try:
            with no_new_fds(), pytest.raises(MemoryRefused, match="private"):
                VringPeer(private, layout_of(), device.fd)
        finally:
            device.close()


def test_device_and_peer_give_everything_back(memory: GuestMemory, page: Page) -> None:
    with no_new_fds():
        ring = Ring(memory, page, layout_of())
        ring.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(ring.peer.pid, 0)


def test_a_vring_that_was_never_attached_closes_too(memory: GuestMemory, page: Page) -> None:
    VringDevice(memory, page).close()
