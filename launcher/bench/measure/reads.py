"""The disk of case `block`, and the Guest's half of its ring: so many random reads in flight, each followed by another.

It is a closed loop: a read begins when another one is done, and waits for nobody's clock. The Guest's half is played
here, in Guest memory and at the place in the loop at which the Guest would do it: so the same is measured on every
engine, without what a Guest's code takes there. All else is the Launcher's own: device, back-end, Waker, interrupt.

It stands apart from props.py because a tree that is measured may be older than its disk.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile
from time import monotonic_ns
from typing import NamedTuple

from launcher.bench.measure.ledger import HEADER_WORDS, INTENDED, PUBLISHED, ROW_WORDS, SENT, Ledger
from launcher.bench.measure.props import BUFFERS_ADDR, Served, Wrong
from launcher.devices.block import HEADER, Block
from launcher.devices.disk import SECTOR
from shared.driverqueue import DriverQueue
from shared.errors import UsageError
from shared.memory import GuestMemory
from shared.virtio import BLK_S_OK, BLK_T_IN
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

_STACK_SIZE = 1 << 14
_UNTOUCHED = 0xFF
_WORD = struct.Struct("<Q")


class _Read(NamedTuple):
    """One read in flight: its row, the place on the disk, and which buffers it has to itself."""

    number: int
    unit: int
    place: int


class Reads(Block):
    """A disk that is read at random. The vCPU's thread calls it."""

    def __init__(
        self,
        memory: GuestMemory,
        limit: int,
        ledger: Ledger,
        served: Served,
        seed: int,
        wanted: Mapping[str, int | str],
    ) -> None:
        """Make the file, which has no name and goes with this process, and open the disk.

        `wanted` are the case's parameters, `limit` is where the Guest's memory ends, `seed` that of what is read.
        Raises `UsageError` for buffers that do not fit into the memory, and what `Block` raises.
        """
        depth, size = int(wanted["depth"]), int(wanted["bytes"])
        self._depth, self._size, self._units = depth, size, (int(wanted["size_mib"]) << 20) // size
        self._stride = size + SECTOR  # header and status lie behind the data
        if self._addr(2 * depth) > limit - _STACK_SIZE:  # each has two: what one brought is looked at during the next
            raise UsageError(f"block: {depth} reads of {size} bytes end past Guest memory; set memory_mib higher")
        self._guest_memory, self._ledger, self._served = memory, ledger, served
        self._choose = random.Random(seed).randrange
        self._next = 0
        with TemporaryFile() as file:
            for unit in range(self._units):
                file.write(content(unit, size))
            file.flush()
            super().__init__(f"ro:/proc/self/fd/{file.fileno()}", str(wanted["io"]))

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Learn where the ring is."""
        (self._ring,) = rings
        return super().attach(rings)

    def begin(self) -> None:
        """Be the Guest whose driver is ready: begin as many reads as there are to be in flight."""
        # Without EVENT_IDX each completion asks for an interrupt, though its buffer is taken back by then.
        self.start([Virtqueue(self._guest_memory, self._ring, "disk")])
        self._driver: DriverQueue[_Read] = DriverQueue(self._guest_memory, self._ring, "disk of the Guest")
        now_ns = monotonic_ns()
        for slot in range(self._depth):
            self._ask(2 * slot, now_ns)
        self.on_notify(0)

    def on_ready(self, source: Source) -> bool:
        """Give back what is done; then be the Guest: look at it, and ask for as many more."""
        super().on_ready(source)
        now_ns = monotonic_ns()
        self._served.see()
        done = []
        while (used := self._driver.reap()) is not None:
            self._served.note_row(used[0].number, now_ns)
            done.append(used)
        if done:
            now_ns = monotonic_ns()
            for read, _ in done:
                self._ask(read.place ^ 1, now_ns)
            self.on_notify(0)
        for read, written in done:  # while the next ones are under way: to look at it is no disk's doing
            self._check(read, written)
        return True

    def _addr(self, place: int) -> int:
        return BUFFERS_ADDR + place * self._stride

    def _ask(self, place: int, now_ns: int) -> None:
        number = self._next
        if number == self._ledger.rings:
            return
        self._next += 1
        size, memory = self._size, self._guest_memory
        unit = self._choose(self._units)
        addr = self._addr(place)
        header = addr + size
        status = header + HEADER.size
        memory.view(header, HEADER.size)[:] = HEADER.pack(BLK_T_IN, unit * size // SECTOR)
        memory.view(status, 1)[0] = _UNTOUCHED
        words, at = self._ledger.words, HEADER_WORDS + number * ROW_WORDS
        words[at + INTENDED] = words[at + SENT] = now_ns
        words[PUBLISHED] = number + 1
        self._driver.add([(header, HEADER.size)], [(addr, size), (status, 1)], _Read(number, unit, place))

    def _check(self, read: _Read, written: int) -> None:
        memory, size, addr = self._guest_memory, self._size, self._addr(read.place)
        status = memory.view(addr + size + HEADER.size, 1)[0]
        if status != BLK_S_OK or written != size + 1:
            raise Wrong(f"block: read {read.number} ended with status {status}, and {written} bytes")
        if bytes(memory.view(addr, size)) != content(read.unit, size):
            raise Wrong(f"block: read {read.number} did not bring what is at byte {read.unit * size} of the disk")


def content(unit: int, size: int) -> bytes:
    """Return what is in one unit of the disk: its number, over and over."""
    return _WORD.pack(unit) * (size // _WORD.size)
