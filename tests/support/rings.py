"""A ring with both halves on it, and a hand that writes into it what no honest driver would."""

from __future__ import annotations

from struct import pack_into

from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout

RING = 0x1000  # where `layout_of` puts the ring
DATA = 0x8000  # buffers may lie from here on


def layout_of(num: int = 8) -> VringLayout:
    return VringLayout.contiguous(num, RING)


class Hand:
    """Writes ring memory directly: any descriptor, any head, any index."""

    def __init__(self, memory: GuestMemory, layout: VringLayout) -> None:
        self.memory, self.layout = memory, layout

    def write_descriptor(
        self,
        at: int,
        addr: int = DATA,
        length: int = 64,
        flags: int = 0,
        next_: int = 0,
        table: int | None = None,
    ) -> None:
        table = self.layout.desc if table is None else table
        pack_into("<QIHH", self.memory.view(table + at * 16, 16), 0, addr, length, flags, next_)

    def offer(self, *heads: int) -> None:
        u16, layout = self.memory.u16, self.layout
        idx = u16[layout.avail_idx >> 1]
        for head in heads:
            u16[(layout.avail_ring >> 1) + idx % layout.num] = head
            idx = (idx + 1) & 0xFFFF
        u16[layout.avail_idx >> 1] = idx

    def give_back(self, head: int, written: int) -> None:
        u16, layout = self.memory.u16, self.layout
        idx = u16[layout.used_idx >> 1]
        pack_into("<II", self.memory.view(layout.used_ring + idx % layout.num * 8, 8), 0, head, written)
        u16[layout.used_idx >> 1] = (idx + 1) & 0xFFFF

    def set_indices(self, value: int) -> None:
        """Pretend that the ring has been in use for long; before a half is made on it."""
        self.memory.u16[self.layout.avail_idx >> 1] = value & 0xFFFF
        self.memory.u16[self.layout.used_idx >> 1] = value & 0xFFFF

    def word(self, addr: int) -> int:
        return self.memory.u16[addr >> 1]

    def set_word(self, addr: int, value: int) -> None:
        self.memory.u16[addr >> 1] = value & 0xFFFF


class Pair:
    """The two halves of one ring in the same memory."""

    def __init__(
        self,
        memory: GuestMemory,
        layout: VringLayout | None = None,
        *,
        event_idx: bool = False,
        indirect: bool = True,
        start: int = 0,
    ) -> None:
        self.layout = layout or layout_of()
        self.hand = Hand(memory, self.layout)
        self.hand.set_indices(start)
        self.driver = DriverQueue(memory, self.layout, "test", event_idx=event_idx, indirect=indirect)
        self.device = Virtqueue(memory, self.layout, "test", event_idx=event_idx, indirect=indirect)
