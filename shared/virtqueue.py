"""The device's half of a split ring: take chains that the Guest offered, give them back used.

Two free-running 16-bit indices, each with one writer, are all that the two sides share: the driver advances
`avail->idx`, the device `used->idx`. What lies between them is in flight.

The facts. A torn index once hung a production block device, so an index is read and published as one aligned
16-bit word, and last. And "I publish my index, then read whether the other side wants to hear of it" is a
store followed by a load, which every CPU may swap: both sides could then decide to sleep. `fence()` stands in
each of those places. Counts are Python numbers that never wrap here, cut to 16 bits where they meet memory.

The danger is the Guest: whatever it wrote, only `RingError` may come of it. The queue is broken from then on
(one sentence tells why), and works again after `reset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, NoReturn

from shared.chain import Chain, ChainReader
from shared.errors import RingError
from shared.linux import IS_WEAKLY_ORDERED, fence
from shared.memory import GuestMemory
from shared.virtio import AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY
from shared.vring_layout import VringLayout

if TYPE_CHECKING:
    from shared.batch import RingArrays

__all__ = ["Chain", "Virtqueue"]

USED_ELEMENT = Struct("<II")  # structs.VringUsedElem as numbers: head, bytes written
_U16 = 0xFFFF


class Virtqueue:
    """The device's half of one ring. One thread at a time; never two of them on one ring."""

    __slots__ = (
        "_arrays", "_avail_event", "_avail_flags", "_avail_idx", "_avail_ring", "_bytes", "_event_idx",
        "_mask", "_offered", "_pack_used", "_popped", "_reader", "_signalled", "_u16", "_used", "_used_event",
        "_used_flags", "_used_idx", "_used_ring", "_wants_kick", "features", "is_broken", "layout", "memory", "name",
    )  # fmt: skip

    is_broken: bool
    _used: int  # chains given back
    _popped: int  # chains taken; what lies between it and `_used` is in flight
    _offered: int  # `avail->idx` as far as it was read, and checked
    _signalled: int  # `_used` when `needs_interrupt` was last asked
    _wants_kick: bool

    def __init__(
        self,
        memory: GuestMemory,
        layout: VringLayout,
        name: str,
        *,
        event_idx: bool = False,
        indirect: bool = True,
        features: int = 0,
    ) -> None:
        """Serve the ring at `layout`, with what was negotiated; every error begins with `name`.

        `features` is all that the driver acknowledged, for the device to look at; a mask.
        A ring that somebody else served before is taken up where its used index stands: what was in flight
        then is served again. Raises `RingError` when the layout is not that of a ring within `memory`.
        """
        layout.check(name, memory.size)
        self.memory = memory
        self.layout = layout
        self.name = name
        self.features = features
        self._event_idx = event_idx
        self._reader = ChainReader(memory, layout, name, indirect=indirect)
        self._arrays: RingArrays | None = None
        self._bytes = memory.view(0, memory.size)
        self._u16 = memory.u16
        self._pack_used = USED_ELEMENT.pack_into
        # Indices into memory.u16 (words), except for the used ring, whose elements are packed (bytes).
        self._mask = layout.num - 1
        self._avail_flags = layout.avail_flags >> 1
        self._avail_idx = layout.avail_idx >> 1
        self._avail_ring = layout.avail_ring >> 1
        self._used_event = layout.used_event >> 1
        self._used_flags = layout.used_flags >> 1
        self._used_idx = layout.used_idx >> 1
        self._used_ring = layout.used_ring
        self._avail_event = layout.avail_event >> 1
        self._start()

    @property
    def used_idx(self) -> int:
        """The used index as last published: 16 bits."""
        return self._used & _U16

    @property
    def popped_idx(self) -> int:
        """The available index up to which chains were popped: 16 bits."""
        return self._popped & _U16

    def pop(self) -> Chain | None:
        """Take the next chain, or None: then, unless that is disabled, the driver kicks for the next one.

        Raises `RingError`, and the queue is broken, when what the Guest wrote is malformed.
        """
        if self.is_broken:
            self._refuse_broken()
        popped = self._popped
        if popped == self._offered and not self._look():
            return None
        try:
            chain = self._reader.read(self._u16[self._avail_ring + (popped & self._mask)])
        except RingError:
            self.is_broken = True
            raise
        self._popped = popped + 1
        return chain

    def push(self, chain: Chain | int, written: int) -> None:
        """Give a chain (or its head) back, with `written` bytes written into it; in any order, each one once.

        The Guest sees it at once; whether to interrupt it, `needs_interrupt` says. Raises `ValueError` when
        nothing is in flight, `RingError` when the queue is broken.
        """
        if self.is_broken:
            self._refuse_broken()
        used = self._used
        if used == self._popped:
            raise ValueError(f"{self.name}: more chains pushed than popped")
        head = chain if isinstance(chain, int) else chain.head
        self._pack_used(self._bytes, self._used_ring + ((used & self._mask) << 3), head, written)
        if IS_WEAKLY_ORDERED:
            fence()
        self._used = used = used + 1
        # Last, and in one piece. VirtIO 1.3, 2.7.8.2.
        self._u16[self._used_idx] = used & _U16

    def pop_many(self, limit: int) -> list[Chain]:
        """Take up to `limit` chains with one look at the index; an empty list is `pop`'s None.

        Each call costs about 6 us (numpy), so it pays from about 16 chains on; at 64, one look and one index
        for all of them halve the cost of a chain. Raises like `pop`; then none of them was taken.
        """
        if self.is_broken:
            self._refuse_broken()
        if not self._look():
            return []
        popped = self._popped
        count = min(limit, self._offered - popped)
        try:
            chains = self._open_arrays().read_chains(self._reader, popped, count)
        except RingError:
            self.is_broken = True
            raise
        self._popped = popped + count
        return chains

    def push_many(self, pairs: Sequence[tuple[Chain | int, int]]) -> None:
        """Give chains back, each with its bytes written, and publish the index once. Raises like `push`."""
        if self.is_broken:
            self._refuse_broken()
        used = self._used
        if used + len(pairs) > self._popped:
            raise ValueError(f"{self.name}: more chains pushed than popped")
        elements = [(chain if isinstance(chain, int) else chain.head, written) for chain, written in pairs]
        self._open_arrays().write_used(used, elements)
        if IS_WEAKLY_ORDERED:
            fence()
        self._used = used = used + len(pairs)
        self._u16[self._used_idx] = used & _U16

    def needs_interrupt(self) -> bool:
        """Whether something was pushed, since this was last asked, that the driver wants to hear of."""
        used = self._used
        since = used - self._signalled
        if not since:
            return False
        self._signalled = used
        # The used index before the driver's wish: else the driver, which wishes and then looks at the index,
        # could see nothing while we see no wish.
        fence()
        if self._event_idx:
            # VirtIO 1.3, 2.7.7.2: is used_event among those pushed?
            return (used - self._u16[self._used_event] - 1) & _U16 < since
        return not self._u16[self._avail_flags] & AVAIL_F_NO_INTERRUPT

    def disable_notify(self) -> None:
        """Tell the driver that kicks are not needed; some may come all the same."""
        self._wants_kick = False
        if self._event_idx:
            # VirtIO 1.3, 2.7.10.2: `flags` stays 0. An index that was passed already is not reached soon.
            self._u16[self._avail_event] = (self._popped - 1) & _U16
        else:
            self._u16[self._used_flags] = USED_F_NO_NOTIFY

    def enable_notify(self) -> bool:
        """Tell the driver to kick for the next chain; True if one slipped in: no kick comes for it."""
        if self.is_broken:
            self._refuse_broken()
        self._wants_kick = True
        self._ask_for_kick()
        # The wish before the look: the other half of the driver's publish-then-read. VirtIO 1.3, 2.7.13.4.1.
        fence()
        return self._count_offered()

    def is_empty(self) -> bool:
        """Whether no chain waits to be popped. It asks for no kick: before sleeping, `pop` until None."""
        return self._u16[self._avail_idx] == self._popped & _U16

    def reset(self) -> None:
        """Zero the ring, as lguest's Launcher did, and begin anew. A broken queue works again.

        Chains that were popped before are to be forgotten, not pushed.
        """
        self.layout.zero(self.memory)
        self._start()

    def _start(self) -> None:
        self.is_broken = False
        self._used = self._u16[self._used_idx]
        self._popped = self._offered = self._signalled = self._used
        self._wants_kick = True
        self._u16[self._used_flags] = 0
        self._ask_for_kick()

    def _ask_for_kick(self) -> None:
        if self._event_idx:
            self._u16[self._avail_event] = self._popped & _U16
        else:
            self._u16[self._used_flags] = 0

    def _look(self) -> bool:
        """Look at the driver's index; if nothing is there, ask for a kick (if wanted) and look again."""
        if self._count_offered():
            return True
        if not (self._event_idx and self._wants_kick):
            return False
        self._ask_for_kick()
        fence()  # as in enable_notify
        return self._count_offered()

    def _count_offered(self) -> bool:
        popped = self._popped
        idx = self._u16[self._avail_idx]
        waiting = (idx - popped) & _U16
        in_flight = popped - self._used
        # Each chain takes at least one descriptor, so at most `num` are offered and not given back. Counting
        # those in flight keeps a Guest from offering one descriptor over and over to a device that queues its
        # chains.
        if waiting + in_flight > self.layout.num:
            self._break(
                f"the available index jumps to {idx}: {waiting} chains wait and {in_flight} are in flight, "
                f"but the ring has {self.layout.num}"
            )
        self._offered = popped + waiting
        if IS_WEAKLY_ORDERED and waiting:
            fence()
        return waiting > 0

    def _open_arrays(self) -> RingArrays:
        if self._arrays is None:
            # Here and not above: this imports numpy, which a Waker process must never load.
            from shared.batch import RingArrays

            self._arrays = RingArrays(self.memory, self.layout)
        return self._arrays

    def _break(self, reason: str) -> NoReturn:
        self.is_broken = True
        raise RingError(self.name, None, reason)

    def _refuse_broken(self) -> NoReturn:
        raise RingError(self.name, None, "the queue is broken until the Guest resets the device")
