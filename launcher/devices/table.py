"""The device page: what tells the Guest its devices, and whose notification is whose.

As in lguest of 2.6.26 (struct lguest_device_desc): one page behind RAM lists the devices, each with its queues,
features and configuration; the rings, laid out by the host, follow on the pages behind it. The Guest notifies either
an address on the page (it wrote a device's status) or that of a ring (it put something in).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ctypes import sizeof
from dataclasses import dataclass, field

from launcher.api import DEVICE_AREA_PAGES, Device
from shared.errors import GuestDied, UsageError
from shared.memory import PAGE_SIZE, GuestMemory
from shared.page import DEVICE_INTERRUPTS, DEVICE_NOTIFIES, DEVICE_SERVICED, DEVICE_WORDS, DEVICES, SIZE, Page
from shared.structs import DEVICE_SLOTS, ControlPage, DeviceCounts, DeviceDesc, VqConfig
from shared.virtio import DRIVER_OK, FAILED, RING_EVENT_IDX, RING_INDIRECT_DESC
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

MAX_IRQ = 223  # vectors 32 to 255

_FEATURE_LEN = 4


@dataclass(slots=True)
class _Slot:
    """One device on the page."""

    device: Device
    desc_addr: int
    acked_addr: int
    features: int
    rings: list[VringLayout]
    irqs: list[int]
    # Where its counters are among the words of the control page.
    serviced: int
    notifies: int
    interrupts: int
    queues: list[Virtqueue] = field(default_factory=list)


class DeviceTable:
    """The page and its devices. The vCPU's thread calls it."""

    def __init__(
        self, memory: GuestMemory, page_addr: int, interrupt: Callable[[int], None], page: Page | None = None
    ) -> None:
        """Begin an empty page at guest-physical `page_addr`; `interrupt` gives the Guest an irq.

        What each device does is counted in the control page `page`; without one, where nobody looks.
        """
        self._page = page
        self._counts = page.words if page is not None else memoryview(bytearray(SIZE)).cast("Q")
        self._memory = memory
        self._interrupt = interrupt
        self._page_addr = page_addr
        self._next_desc = page_addr
        self._next_page = page_addr // PAGE_SIZE + 1
        self._next_irq = 1
        self._by_desc: dict[int, _Slot] = {}
        self._by_ring: dict[int, tuple[_Slot, int]] = {}
        self._by_device: dict[Device, _Slot] = {}
        self._owners: dict[Source, Device] = {}

    @property
    def devices(self) -> Sequence[Device]:
        """The devices, in the order in which they stand on the page."""
        return tuple(self._by_device)

    def add(self, device: Device) -> Sequence[Source]:
        """Put a device on the page, lay out its rings, and return the sources to be watched from the beginning.

        Raises `UsageError` when the page or the pages behind it are full.
        """
        rings = [self._place_ring(device, num) for num in device.queue_sizes]
        irqs = [self._take_irq(device) for _ in range(max(1, len(rings)))]
        features = device.features
        desc = DeviceDesc(device.type_id, len(rings), _FEATURE_LEN, len(device.config), 0)
        configs = [VqConfig(ring.num, irq, ring.desc // PAGE_SIZE) for ring, irq in zip(rings, irqs, strict=False)]
        entry = b"".join(
            [
                bytes(desc),
                *map(bytes, configs),
                features.to_bytes(_FEATURE_LEN, "little"),
                bytes(_FEATURE_LEN),
                device.config,
            ]
        )
        addr = self._next_desc
        if addr + len(entry) >= self._page_addr + PAGE_SIZE:  # one byte stays for the type 0 that ends the page
            raise UsageError(f"{device.name}: the device page is full; leave a device out")
        self._memory.view(addr, len(entry))[:] = entry
        self._next_desc += len(entry)

        acked = addr + sizeof(DeviceDesc) + len(configs) * sizeof(VqConfig) + _FEATURE_LEN
        at = self._take_counters(device)
        slot = _Slot(
            device,
            addr,
            acked,
            features,
            rings,
            irqs,
            at + DEVICE_SERVICED,
            at + DEVICE_NOTIFIES,
            at + DEVICE_INTERRUPTS,
        )
        self._by_device[device] = self._by_desc[addr] = slot
        for number, ring in enumerate(rings):
            self._by_ring[ring.desc] = slot, number
        sources = device.attach(rings)
        self.adopt(device, sources)
        return sources

    def adopt(self, device: Device, sources: Sequence[Source]) -> None:
        """Note that these sources are the device's, for one that opens them later."""
        self._owners.update((source, device) for source in sources)

    def serve(self, source: Source) -> bool:
        """Have the device serve its source, and interrupt the Guest for it; False says: watch it no longer."""
        device = self._owners[source]
        slot = self._by_device[device]
        self._counts[slot.serviced] += 1
        keep = device.on_ready(source)
        self._raise_lines(slot)
        return keep

    def notify(self, addr: int) -> Sequence[Source]:
        """Serve what the Guest notified; return the sources that are to be watched again.

        Raises `GuestDied` for an address that means nothing, `RingError` for a malformed ring.
        """
        if addr in self._by_ring:
            slot, number = self._by_ring[addr]
            if not slot.queues:
                # VirtIO 1.3, 3.1.1: no notification before DRIVER_OK.
                raise GuestDied(f"guest: notified queue {number} of {slot.device.name} before DRIVER_OK")
            self._counts[slot.notifies] += 1
            sources = slot.device.on_notify(number)
        elif addr in self._by_desc:
            slot = self._by_desc[addr]
            self._counts[slot.notifies] += 1
            sources = self._take_status(slot)
        else:
            raise GuestDied(f"guest: notified {addr:#x}, where neither a device nor a ring is")
        self._raise_lines(slot)
        self.adopt(slot.device, sources)
        return sources

    def close(self) -> None:
        """Close every device, the last one first."""
        with ExitStack() as closing:  # one that fails keeps no other open
            for device in self._by_device:
                closing.callback(device.close)

    def _raise_lines(self, slot: _Slot) -> None:
        for line in slot.device.lines():
            self._counts[slot.interrupts] += 1
            self._interrupt(slot.irqs[line])

    def _take_status(self, slot: _Slot) -> Sequence[Source]:
        device = slot.device
        status = self._memory.at(DeviceDesc, slot.desc_addr).status
        if status == 0:
            slot.queues = []
            for ring in slot.rings:
                ring.zero(self._memory)
            device.reset()  # after: what it reads of its rings is how they begin
            self._memory.view(slot.acked_addr, _FEATURE_LEN)[:] = bytes(_FEATURE_LEN)
            return ()
        if status & FAILED:
            raise GuestDied(f"guest: gave {device.name} up (status {status:#x})")
        if not status & DRIVER_OK or slot.queues:
            return ()
        acked = int.from_bytes(self._memory.view(slot.acked_addr, _FEATURE_LEN), "little")
        if acked & ~slot.features:
            raise GuestDied(
                f"guest: acknowledged features {acked:#x} of {device.name}, which offers {slot.features:#x}"
            )
        slot.queues = [
            Virtqueue(
                self._memory,
                ring,
                f"{device.name} queue {number}",
                event_idx=bool(acked >> RING_EVENT_IDX & 1),
                indirect=bool(acked >> RING_INDIRECT_DESC & 1),
                features=acked,
            )
            for number, ring in enumerate(slot.rings)
        ]
        return device.start(slot.queues)

    def _take_counters(self, device: Device) -> int:
        """Return where the counters of the next device are; those past the last slot share it."""
        number = len(self._by_device)
        slot = min(number, DEVICE_SLOTS - 1)
        if self._page is not None:
            name = device.name if slot == number else "others"
            size = DeviceCounts.name.size
            offset = ControlPage.devices.offset + slot * sizeof(DeviceCounts) + DeviceCounts.name.offset
            self._page.put(offset, name.encode()[:size].ljust(size, b"\0"))
        return DEVICES + slot * DEVICE_WORDS

    def _place_ring(self, device: Device, num: int) -> VringLayout:
        ring = VringLayout.contiguous(num, self._next_page * PAGE_SIZE)
        end = -(-ring.end // PAGE_SIZE)
        if end > self._page_addr // PAGE_SIZE + DEVICE_AREA_PAGES - 1:  # the last is the command line's
            raise UsageError(f"{device.name}: no room for another ring of {num}; leave a device out")
        self._next_page = end
        return ring

    def _take_irq(self, device: Device) -> int:
        if self._next_irq > MAX_IRQ:
            raise UsageError(f"{device.name}: all {MAX_IRQ} interrupts are taken; leave a device out")
        irq = self._next_irq
        self._next_irq += 1
        return irq
