"""Where the parts of a split ring lie in Guest memory.

A ring is three areas: the descriptor table and the available ring, which the driver writes, and the used
ring, which the device writes. Each side leaves the other a word at the end of its own ring (with EVENT_IDX).
They may lie anywhere (VirtIO 1.3, 2.7), or in one piece as the kernel's vring_init() puts them (lguest).
"""

from __future__ import annotations

from ctypes import sizeof
from dataclasses import dataclass

from shared.errors import RingError
from shared.memory import GuestMemory
from shared.structs import VringAvailHead, VringDesc, VringUsedElem, VringUsedHead
from shared.virtio import MAX_QUEUE_SIZE

DESC_SIZE = sizeof(VringDesc)
USED_ELEM_SIZE = sizeof(VringUsedElem)
_WORD = 2


@dataclass(frozen=True, slots=True)
class VringLayout:
    """A ring of `num` entries and the guest-physical addresses of its areas. Any thread.

    A layout is only numbers, perhaps a Guest's: nothing is believed before `check`.
    """

    num: int
    desc: int
    avail: int
    used: int

    @classmethod
    def contiguous(cls, num: int, addr: int, align: int = 4096) -> VringLayout:
        """Lay a ring out at `addr` byte for byte as vring_init() does; `align` is a power of two."""
        avail = addr + num * DESC_SIZE
        avail_end = avail + sizeof(VringAvailHead) + num * _WORD + _WORD
        return cls(num, addr, avail, (avail_end + align - 1) & ~(align - 1))

    def check(self, queue: str, memory_size: int) -> None:
        """Raise `RingError` unless a ring of this shape can lie in memory of `memory_size` bytes.

        Checked once, when a queue is made, so that no later access to the ring's own areas needs a check.
        """
        # VirtIO 1.3, 2.7: the queue size is a power of two, at most 32768.
        if not 1 <= self.num <= MAX_QUEUE_SIZE or self.num & (self.num - 1):
            takes = f"it takes a power of two, at most {MAX_QUEUE_SIZE}"
            raise RingError(queue, None, f"a ring of {self.num} entries; {takes}")
        for area, addr, end, align in self._areas():
            # VirtIO 1.3, 2.7.1. An unaligned index could not be read in one piece.
            if addr % align:
                raise RingError(queue, None, f"the {area} at {addr:#x} is not aligned to {align} bytes")
            if addr < 0 or end > memory_size:
                raise RingError(
                    queue,
                    None,
                    f"the {area} at {addr:#x} ends at {end:#x}, past guest memory ({memory_size:#x})",
                )

    def zero(self, memory: GuestMemory) -> None:
        """Zero the three areas, as before a first use; raise `BadAddress` when one is not within `memory`."""
        for _, addr, end, _ in self._areas():
            memory.view(addr, end - addr)[:] = bytes(end - addr)

    @property
    def avail_flags(self) -> int:
        """The driver's hint whether to interrupt it."""
        return self.avail

    @property
    def avail_idx(self) -> int:
        """How many chains the driver offered, modulo 65536."""
        return self.avail + VringAvailHead.idx.offset

    @property
    def avail_ring(self) -> int:
        """The heads offered: `num` 16-bit words."""
        return self.avail + sizeof(VringAvailHead)

    @property
    def used_event(self) -> int:
        """The driver's word to the device (EVENT_IDX): interrupt me when you use this one."""
        return self.avail_ring + self.num * _WORD

    @property
    def used_flags(self) -> int:
        """The device's hint whether to kick it."""
        return self.used

    @property
    def used_idx(self) -> int:
        """How many chains the device gave back, modulo 65536."""
        return self.used + VringUsedHead.idx.offset

    @property
    def used_ring(self) -> int:
        """The chains given back: `num` elements of USED_ELEM_SIZE bytes."""
        return self.used + sizeof(VringUsedHead)

    @property
    def avail_event(self) -> int:
        """The device's word to the driver (EVENT_IDX): kick me when you offer this one."""
        return self.used_ring + self.num * USED_ELEM_SIZE

    @property
    def end(self) -> int:
        """The first address after the used ring: after the whole ring, when it is contiguous."""
        return self.avail_event + _WORD

    @property
    def size(self) -> int:
        """The bytes a contiguous ring takes: vring_size(), when it starts at a multiple of the alignment."""
        return self.end - self.desc

    def _areas(self) -> tuple[tuple[str, int, int, int], ...]:
        # Name, first address, end, alignment. VirtIO 1.3, 2.7.
        return (
            ("descriptor table", self.desc, self.desc + self.num * DESC_SIZE, 16),
            ("available ring", self.avail, self.used_event + _WORD, 2),
            ("used ring", self.used, self.end, 4),
        )
