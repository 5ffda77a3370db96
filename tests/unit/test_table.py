"""The device page is lguest's, byte for byte; and whatever a Guest writes or notifies, one sentence comes of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from launcher.api import DEVICE_AREA_PAGES
from launcher.devices.pulse import Pulse
from launcher.devices.table import MAX_IRQ, DeviceTable
from shared.errors import GuestDied, RingError, UsageError
from shared.memory import PAGE_SIZE, GuestMemory
from shared.page import DEVICE_WORDS, DEVICES
from shared.page import Page as ControlPage
from shared.structs import DEVICE_SLOTS
from shared.virtio import ACKNOWLEDGE, CONSOLE, DRIVER, DRIVER_OK, FAILED
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from tests.support.fds import no_new_fds
from waker import Source

RAM = 0x10000
RING_FEATURES = 1 << 28 | 1 << 29
STARTED = ACKNOWLEDGE | DRIVER | DRIVER_OK


class Recorder:
    """A device that keeps the device contract and notes what it is told."""

    def __init__(self, name: str = "recorder", queues: tuple[int, ...] = (8, 8), config: bytes = b"") -> None:
        self.name = name
        self.type_id = CONSOLE
        self.queue_sizes = queues
        self.features = (RING_FEATURES if queues else 0) | 0b101
        self.config = config
        self.source = Source(-1, name)
        self.rings: Sequence[VringLayout] = ()
        self.queues: Sequence[Virtqueue] = ()
        self.wants: list[int] = []
        self.told: list[object] = []

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        self.rings = rings
        return (self.source,)

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        self.queues = queues
        self.told.append("start")
        return (self.source,)

    def on_ready(self, source: Source) -> bool:
        self.told.append(source)
        return False

    def on_notify(self, queue: int) -> Sequence[Source]:
        self.told.append(queue)
        if self.queues[queue].pop() is not None:
            self.wants.append(queue)
        return ()

    def lines(self) -> Sequence[int]:
        wants, self.wants = self.wants, []
        return wants

    def reset(self) -> None:
        self.told.append("reset")

    def close(self) -> None:
        self.told.append("close")


class Page:
    """A table, the irqs it raised, and a Guest's hand on its page."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.irqs: list[int] = []
        self.table = DeviceTable(memory, RAM, self.irqs.append)
        self.device = Recorder()
        self.sources = self.table.add(self.device)
        self.acked_addr = RAM + 5 + 2 * 8 + 4

    def write_status(self, status: int) -> Sequence[Source]:
        self.memory.view(RAM + 4, 1)[0] = status
        return self.table.notify(RAM)

    def acknowledge(self, features: int) -> None:
        self.memory.view(self.acked_addr, 4)[:] = features.to_bytes(4, "little")

    def offer(self, queue: int, head: int = 0) -> None:
        ring = self.device.rings[queue]
        struct.pack_into("<QIHH", self.memory.view(ring.desc, 16), 0, 0x100, 16, 0, 0)
        idx = self.memory.u16[ring.avail_idx >> 1]
        self.memory.u16[(ring.avail_ring >> 1) + idx % ring.num] = head
        self.memory.u16[ring.avail_idx >> 1] = idx + 1


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(RAM + DEVICE_AREA_PAGES * PAGE_SIZE) as memory:
        yield memory


@pytest.fixture
def page(memory: GuestMemory) -> Page:
    return Page(memory)


# ---- The layout ----


def test_the_page_is_that_of_lguest_byte_for_byte(memory: GuestMemory) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    table.add(Recorder("first", (64, 8), b"config"))
    table.add(Recorder("second", ()))
    table.add(Recorder("third", (128,)))
    # struct lguest_device_desc { type, num_vq, feature_len, config_len, status }, lguest_vqconfig { num, irq, pfn }
    first_page = RAM // PAGE_SIZE + 1
    expected = (
        struct.pack("<5B", 3, 2, 4, 6, 0)
        + struct.pack("<HHI", 64, 1, first_page)
        + struct.pack("<HHI", 8, 2, first_page + 2)
        + struct.pack("<II", RING_FEATURES | 0b101, 0)
        + b"config"
        + struct.pack("<5B", 3, 0, 4, 0, 0)
        + struct.pack("<II", 0b101, 0)  # without queues there are no ring features
        + struct.pack("<5B", 3, 1, 4, 0, 0)
        + struct.pack("<HHI", 128, 4, first_page + 4)
        + struct.pack("<II", RING_FEATURES | 0b101, 0)
        + b"\0"
    )
    assert bytes(memory.view(RAM, len(expected))) == expected


def test_an_empty_page_ends_at_once(memory: GuestMemory) -> None:
    DeviceTable(memory, RAM, lambda _: None)
    assert memory.view(RAM, 1)[0] == 0


def test_rings_lie_behind_the_page_and_never_overlap(memory: GuestMemory) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    devices = [Recorder(f"device {n}", sizes) for n, sizes in enumerate([(1, 256), (8,), (64, 64, 2)])]
    for device in devices:
        table.add(device)
    rings = [ring for device in devices for ring in device.rings]
    assert rings[0].desc == RAM + PAGE_SIZE
    for ring, next_ring in pairwise(rings):
        assert ring.desc % PAGE_SIZE == 0
        assert ring.end <= next_ring.desc
    assert rings[-1].end <= memory.size


def test_each_queue_has_an_irq_of_its_own_and_so_has_a_device_without_any(memory: GuestMemory) -> None:
    irqs: list[int] = []
    table = DeviceTable(memory, RAM, irqs.append)
    pulses = [Pulse(), Pulse()]
    try:
        for device in (Recorder("first", (8, 8)), *pulses):
            table.add(device)
        for pulse in pulses:
            pulse.ring()
            assert table.serve(pulse.sources[0])
        assert irqs == [3, 4]
    finally:
        table.close()


def test_the_page_says_no_when_it_is_full_and_still_ends_with_a_zero(memory: GuestMemory) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    added = (PAGE_SIZE - 1) // (5 + 8 + 200)
    for number in range(added):
        table.add(Recorder(f"device {number}", (), bytes(200)))
    with pytest.raises(UsageError, match=r"^one more: the device page is full; leave a device out$"):
        table.add(Recorder("one more", (), bytes(200)))
    end = added * (5 + 8 + 200)
    assert not any(memory.view(RAM + end, PAGE_SIZE - end))


@pytest.mark.parametrize("is_one_too_many", [False, True])
def test_the_last_byte_of_the_page_stays_a_zero(memory: GuestMemory, is_one_too_many: bool) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    for _ in range(15):  # 15 * (5 + 8 + 255) = 4020 bytes
        table.add(Recorder("device", (), bytes([0xAA]) * 255))
    last = Recorder("last", (), bytes([0xAA]) * (62 + is_one_too_many))
    if is_one_too_many:
        with pytest.raises(UsageError, match="full"):
            table.add(last)
    else:
        table.add(last)
        assert memory.view(RAM + PAGE_SIZE - 2, 1)[0] == 0xAA
    assert memory.view(RAM + PAGE_SIZE - 1, 1)[0] == 0


def test_too_many_rings_are_refused(memory: GuestMemory) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    for number in range((DEVICE_AREA_PAGES - 1) // 2):
        table.add(Recorder(f"device {number}", (64,)))
    with pytest.raises(UsageError, match=r"^one more: no room for another ring of 64; leave a device out$"):
        table.add(Recorder("one more", (64,)))


def test_too_many_irqs_are_refused(memory: GuestMemory) -> None:
    table = DeviceTable(memory, RAM, lambda _: None)
    for number in range(MAX_IRQ):
        table.add(Recorder(f"device {number}", ()))
    with pytest.raises(UsageError, match=r"^one more: all 223 interrupts are taken; leave a device out$"):
        table.add(Recorder("one more", ()))


# ---- The status ----


def test_driver_ok_starts_the_device_once(page: Page) -> None:
    assert page.write_status(ACKNOWLEDGE) == ()
    assert page.write_status(ACKNOWLEDGE | DRIVER) == ()
    assert page.device.told == []
    assert page.write_status(STARTED) == (page.device.source,)
    assert page.write_status(STARTED) == ()
    assert page.device.told == ["start"]


@pytest.mark.parametrize("acked", [0, RING_FEATURES, 0b100, RING_FEATURES | 0b101])
def test_features_that_are_offered_may_be_acknowledged(page: Page, acked: int) -> None:
    page.acknowledge(acked)
    page.write_status(STARTED)
    assert page.device.told == ["start"]


@pytest.mark.parametrize("acked", [0b10, 1 << 31, 0xFFFFFFFF])
def test_features_that_are_not_offered_end_the_guest(page: Page, acked: int) -> None:
    page.acknowledge(acked)
    with pytest.raises(GuestDied) as caught:
        page.write_status(STARTED)
    offered = RING_FEATURES | 0b101
    assert str(caught.value) == f"guest: acknowledged features {acked:#x} of recorder, which offers {offered:#x}"
    assert page.device.told == []


def test_features_are_read_once_at_driver_ok(page: Page) -> None:
    page.write_status(STARTED)
    page.acknowledge(0xFFFFFFFF)
    page.write_status(STARTED)
    assert page.device.told == ["start"]


def test_offered_features_are_the_hosts_whatever_the_guest_writes_there(page: Page) -> None:
    page.memory.view(page.acked_addr - 4, 8)[:] = b"\xff" * 8
    with pytest.raises(GuestDied, match="acknowledged features"):
        page.write_status(STARTED)


@pytest.mark.parametrize("status", [FAILED, FAILED | STARTED, 0xFF])
def test_a_driver_that_gave_up_ends_the_guest(page: Page, status: int) -> None:
    with pytest.raises(GuestDied, match=rf"^guest: gave recorder up \(status {status:#x}\)$"):
        page.write_status(status)


def test_a_status_of_0_resets_the_device_its_rings_and_what_was_acknowledged(page: Page) -> None:
    page.acknowledge(RING_FEATURES)
    page.write_status(STARTED)
    page.offer(0)
    assert page.write_status(0) == ()
    assert page.device.told == ["start", "reset"]
    ring = page.device.rings[0]
    assert not any(page.memory.view(ring.desc, ring.size))
    assert not any(page.memory.view(page.acked_addr, 4))
    with pytest.raises(GuestDied, match="before DRIVER_OK"):
        page.table.notify(ring.desc)


def test_after_a_reset_the_device_starts_again_even_with_a_queue_that_was_broken(page: Page) -> None:
    page.write_status(STARTED)
    page.offer(0, head=99)
    with pytest.raises(RingError, match=r"^recorder queue 0: descriptor 99 was offered, but the table has 8$"):
        page.table.notify(page.device.rings[0].desc)
    page.write_status(0)
    page.write_status(STARTED)
    page.offer(0)
    page.table.notify(page.device.rings[0].desc)
    assert page.irqs == [1]


def test_resetting_what_never_started_does_no_harm(page: Page) -> None:
    page.write_status(0)
    page.write_status(STARTED)
    assert page.device.told == ["reset", "start"]


# ---- Notifications ----


def test_a_notification_reaches_the_queue_whose_ring_it_names(page: Page) -> None:
    page.write_status(STARTED)
    for number, ring in enumerate(page.device.rings):
        page.offer(number)
        page.table.notify(ring.desc)
    assert page.device.told == ["start", 0, 1]
    assert page.irqs == [1, 2]


def test_a_queue_that_is_notified_before_driver_ok_ends_the_guest(page: Page) -> None:
    page.write_status(ACKNOWLEDGE | DRIVER)
    with pytest.raises(GuestDied, match=r"^guest: notified queue 1 of recorder before DRIVER_OK$"):
        page.table.notify(page.device.rings[1].desc)


@pytest.mark.parametrize("addr", [0, 1, RAM - 1, RAM + 1, RAM + 4, RAM + PAGE_SIZE + 1, 0xFFFFFFFF, 1 << 70, -1])
def test_a_notification_of_nonsense_ends_the_guest(page: Page, addr: int) -> None:
    page.write_status(STARTED)
    with pytest.raises(GuestDied) as caught:
        page.table.notify(addr)
    assert str(caught.value) == f"guest: notified {addr:#x}, where neither a device nor a ring is"


def test_a_guest_that_overwrites_the_page_changes_nothing_but_what_it_sees(page: Page) -> None:
    page.write_status(STARTED)
    page.memory.view(RAM, PAGE_SIZE)[:] = b"\xee" * PAGE_SIZE
    page.offer(1)
    page.table.notify(page.device.rings[1].desc)
    assert page.irqs == [2]


def test_serving_a_source_asks_its_device_whether_to_go_on(page: Page) -> None:
    assert page.table.serve(page.device.source) is False
    assert page.device.told == [page.device.source]


def test_closing_closes_every_device_even_when_one_fails(memory: GuestMemory) -> None:
    class Failing(Recorder):
        def close(self) -> None:
            raise OSError("cannot close")

    first, last = Recorder("first"), Recorder("last")
    table = DeviceTable(memory, RAM, lambda _: None)
    for device in (first, Failing(), last):
        table.add(device)
    with pytest.raises(OSError, match="cannot close"):
        table.close()
    assert first.told == last.told == ["close"]


def test_a_real_device_gives_its_files_back(memory: GuestMemory) -> None:
    with no_new_fds():
        table = DeviceTable(memory, RAM, lambda _: None)
        table.add(Pulse(3, "pipe"))
        table.close()


# ---- Counts ----


def counted(page: ControlPage, slot: int) -> tuple[str, list[int]]:
    words = page.words[DEVICES + slot * DEVICE_WORDS :][:DEVICE_WORDS]
    return bytes(words[:2]).rstrip(b"\0").decode(), list(words[2:])


def test_what_each_device_does_is_counted_in_its_slot_of_the_control_page(memory: GuestMemory) -> None:
    with ControlPage.create() as page:
        table = DeviceTable(memory, RAM, lambda _: None, page)
        devices = [Recorder("first"), Recorder("a name that is too long")]
        (source,), _ = [table.add(device) for device in devices]
        table.serve(source)
        devices[0].wants = [0, 1]
        table.serve(source)
        memory.view(RAM + 4, 1)[0] = STARTED
        table.notify(RAM)
        table.notify(devices[0].rings[1].desc)
        assert counted(page, 0) == ("first", [2, 2, 2])
        assert counted(page, 1) == ("a name that is t", [0, 0, 0])
        assert counted(page, 2) == ("", [0, 0, 0])


def test_devices_past_the_last_slot_share_it(memory: GuestMemory) -> None:
    with ControlPage.create() as page:
        table = DeviceTable(memory, RAM, lambda _: None, page)
        sources = [table.add(Recorder(f"device {n}", queues=())) for n in range(DEVICE_SLOTS + 2)]
        for (source,) in sources:
            table.serve(source)
        assert counted(page, DEVICE_SLOTS - 2) == (f"device {DEVICE_SLOTS - 2}", [1, 0, 0])
        assert counted(page, DEVICE_SLOTS - 1) == ("others", [3, 0, 0])
