"""The driver's half of a split ring: offer buffers to the device, take them back used.

It is the mirror of shared.virtqueue, for Guests written in Python and for tests; the essay there holds here
too. The device is not believed either: what it gives back must be in flight, and no longer than the room it
was given. So all that the driver knows of a chain is kept here, not in the ring, where the device could
change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, NoReturn, TypeVar

from shared.chain import DESCRIPTOR
from shared.errors import RingError
from shared.linux import IS_WEAKLY_ORDERED, fence
from shared.memory import GuestMemory
from shared.virtio import AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, USED_F_NO_NOTIFY
from shared.virtqueue import USED_ELEMENT
from shared.vring_layout import DESC_SIZE, VringLayout

Token = TypeVar("Token")
Buffer = tuple[int, int]  # guest-physical address, length in bytes
_U16 = 0xFFFF


class RingFull(RingError):  # noqa: N818 - a refusal, named as one
    """Say that too few descriptors are free; reap, and add again. The queue is not broken."""


class _Offer(NamedTuple, Generic[Token]):
    token: Token
    descriptors: list[int]
    room: int  # bytes that the device may write


class DriverQueue(Generic[Token]):
    """The driver's half of one ring. One thread at a time; never two of them on one ring."""

    __slots__ = (
        "_added",
        "_avail_event",
        "_avail_flags",
        "_avail_idx",
        "_avail_ring",
        "_bytes",
        "_event_idx",
        "_free",
        "_in_flight",
        "_indirect",
        "_kicked",
        "_mask",
        "_memory",
        "_pack",
        "_reaped",
        "_u16",
        "_unpack_used",
        "_used_event",
        "_used_flags",
        "_used_idx",
        "_used_ring",
        "_wants_interrupt",
        "is_broken",
        "layout",
        "name",
    )  # fmt: skip

    def __init__(
        self,
        memory: GuestMemory,
        layout: VringLayout,
        name: str,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        """Drive the ring at `layout`, with what was negotiated; every error begins with `name`.

        Raises `RingError` when the layout is not that of a ring within `memory`, or something is in flight.
        """
        layout.check(name, memory.size)
        self.layout = layout
        self.name = name
        self._event_idx = event_idx
        self._indirect = indirect
        self._memory = memory
        self._bytes = memory.view(0, memory.size)
        self._u16 = memory.u16
        self._pack = DESCRIPTOR.pack_into
        self._unpack_used = USED_ELEMENT.unpack_from
        # Indices into memory.u16 (words), except for the used ring, whose elements are unpacked (bytes).
        self._mask = layout.num - 1
        self._avail_flags = layout.avail_flags >> 1
        self._avail_idx = layout.avail_idx >> 1
        self._avail_ring = layout.avail_ring >> 1
        self._used_event = layout.used_event >> 1
        self._used_flags = layout.used_flags >> 1
        self._used_idx = layout.used_idx >> 1
        self._used_ring = layout.used_ring
        self._avail_event = layout.avail_event >> 1
        self._free = list(range(layout.num - 1, -1, -1))
        self._in_flight: dict[int, _Offer[Token]] = {}
        self._added = self._kicked = self._u16[self._avail_idx]
        self._reaped = self._u16[self._used_idx]
        if self._added != self._reaped:
            raise RingError(name, None, f"{self._added - self._reaped & _U16} chains of another driver are in flight")
        self.is_broken = False
        self._wants_interrupt = True
        self._ask_for_interrupt()

    @property
    def free(self) -> int:
        """How many descriptors are free."""
        return len(self._free)

    @property
    def in_flight(self) -> int:
        """How many chains are the device's."""
        return len(self._in_flight)

    def add(
        self,
        readable: Sequence[Buffer],
        writable: Sequence[Buffer],
        token: Token,
        *,
        indirect_at: int | None = None,
    ) -> None:
        """Offer one chain: buffers for the device to read, then some for it to write; `reap` returns `token`.

        With `indirect_at` the chain takes one descriptor, and a table of 16 bytes per buffer at that
        guest-physical address, which is the device's until the chain is reaped. The device sees the chain at
        once; whether to kick it, `kick_needed` says. Raises `RingFull` when too few descriptors are free,
        `ValueError` for no buffer at all or for a table that was not negotiated, `BadAddress` for a table
        outside memory.
        """
        if self.is_broken:
            self._refuse_broken()
        count = len(readable) + len(writable)
        if not count:
            raise ValueError(f"{self.name}: a chain of no buffers")
        needed = count
        if indirect_at is not None:
            needed = 1
            if not self._indirect:
                raise ValueError(f"{self.name}: indirect tables were not negotiated")
            self._memory.view(indirect_at, count * DESC_SIZE)
        free = self._free
        if needed > len(free):
            raise RingFull(
                self.name, None, f"{needed} descriptors are needed, {len(free)} of {self.layout.num} are free"
            )
        mine = free[: -needed - 1 : -1]
        head = mine[0]
        if indirect_at is None:
            self._write_chain(self.layout.desc, mine, readable, writable)
        else:
            self._write_chain(indirect_at, range(count), readable, writable)
            # VirtIO 1.3, 2.7.5.3.1: INDIRECT never goes with NEXT.
            at = self.layout.desc + head * DESC_SIZE
            self._pack(self._bytes, at, indirect_at, count * DESC_SIZE, DESC_F_INDIRECT, 0)
        del free[-needed:]
        self._in_flight[head] = _Offer(token, mine, sum(length for _, length in writable))
        self._u16[self._avail_ring + (self._added & self._mask)] = head
        if IS_WEAKLY_ORDERED:
            fence()
        self._added += 1
        # Last, and in one piece. VirtIO 1.3, 2.7.13.3.1.
        self._u16[self._avail_idx] = self._added & _U16

    def kick_needed(self) -> bool:
        """Whether anything was added, since this was last asked, that the device wants to be kicked for."""
        added = self._added
        since = added - self._kicked
        if not since:
            return False
        self._kicked = added
        # The available index before the device's wish. VirtIO 1.3, 2.7.13.4.1; see Virtqueue.needs_interrupt.
        fence()
        if self._event_idx:
            # VirtIO 1.3, 2.7.10.1: is avail_event among those added?
            return (added - self._u16[self._avail_event] - 1) & _U16 < since
        return not self._u16[self._used_flags] & USED_F_NO_NOTIFY

    def reap(self) -> tuple[Token, int] | None:
        """Take back the next used chain: its token, and how many bytes the device wrote; or None.

        After None the device interrupts for the next one, unless that is disabled. Raises `RingError`, and
        the queue is broken, when the device gives back what is not in flight, or claims to have written more
        than fits.
        """
        if self.is_broken:
            self._refuse_broken()
        if not self._count_used():
            if not (self._event_idx and self._wants_interrupt):
                return None
            self._ask_for_interrupt()
            fence()  # as in enable_interrupts
            if not self._count_used():
                return None
        at = self._used_ring + ((self._reaped & self._mask) << 3)
        head, written = self._unpack_used(self._bytes, at)
        offer = self._in_flight.pop(head, None)
        if offer is None:
            self._break(f"the device gave back head {head}, which is not in flight")
        if written > offer.room:
            # VirtIO 1.3, 2.7.8.2
            self._break(f"the device claims {written} bytes in chain {head}, which has room for {offer.room}")
        self._free += reversed(offer.descriptors)
        self._reaped += 1
        return offer.token, written

    def disable_interrupts(self) -> None:
        """Tell the device that interrupts are not needed; some may come all the same."""
        self._wants_interrupt = False
        if self._event_idx:
            # VirtIO 1.3, 2.7.7.1: `flags` stays 0. An index that was passed already is not reached soon.
            self._u16[self._used_event] = (self._reaped - 1) & _U16
        else:
            self._u16[self._avail_flags] = AVAIL_F_NO_INTERRUPT

    def enable_interrupts(self) -> bool:
        """Tell the device to interrupt for the next used chain; True if one slipped in: none comes for it."""
        if self.is_broken:
            self._refuse_broken()
        self._wants_interrupt = True
        self._ask_for_interrupt()
        # The wish before the look: the other half of the device's publish-then-read. VirtIO 1.3, 2.7.14.
        fence()
        return self._count_used()

    def _ask_for_interrupt(self) -> None:
        if self._event_idx:
            self._u16[self._used_event] = self._reaped & _U16
        else:
            self._u16[self._avail_flags] = 0

    def _count_used(self) -> bool:
        idx = self._u16[self._used_idx]
        waiting = (idx - self._reaped) & _U16
        if waiting > len(self._in_flight):
            self._break(f"the used index jumps to {idx}: {waiting} chains used, {len(self._in_flight)} in flight")
        if IS_WEAKLY_ORDERED and waiting:
            fence()
        return waiting > 0

    def _write_chain(
        self, table: int, slots: Sequence[int], readable: Sequence[Buffer], writable: Sequence[Buffer]
    ) -> None:
        buffers = [(*buffer, 0) for buffer in readable] + [(*buffer, DESC_F_WRITE) for buffer in writable]
        last = len(buffers) - 1
        for i, (addr, length, flags) in enumerate(buffers):
            at = table + slots[i] * DESC_SIZE
            if i == last:
                self._pack(self._bytes, at, addr, length, flags, 0)
            else:
                self._pack(self._bytes, at, addr, length, flags | DESC_F_NEXT, slots[i + 1])

    def _break(self, reason: str) -> NoReturn:
        self.is_broken = True
        raise RingError(self.name, None, reason)

    def _refuse_broken(self) -> NoReturn:
        raise RingError(self.name, None, "the queue is broken: reset the device and make a new one")
