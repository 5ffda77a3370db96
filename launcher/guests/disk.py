"""A disk as a Guest's driver has it: one request after the other, and a pattern to know its sectors by.

Each sector begins with its tag and its own number, so one that is in the wrong place, or of another run, shows. The
twin of i386/disk.h.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct, pack_into

from launcher.api import Notify
from launcher.engines.python import HALT, Cpu, Irqs, Step, panic
from launcher.guests.support import find_device, kick
from shared.driverqueue import DriverQueue
from shared.virtio import BLK_FLUSH, BLK_RO, BLK_S_OK, BLK_T_OUT, BLOCK, RING_FEATURES

SECTOR = 512
CHUNK = 1 << 16
WANTED_ADDR = 0x20000
READ_ADDR = WANTED_ADDR + CHUNK
"""Where there is room for a chunk each: what is written, or is to be found; and what was read."""

_HEADER = Struct("<IIQ")
_HEADER_ADDR = 0x1F000
_STATUS_ADDR = _HEADER_ADDR + _HEADER.size
_MULTIPLIER, _INCREMENT = 1664525, 1013904223

Code = Generator[Notify | Step, Irqs, int]


class Disk:
    """A block device that was found, and its queue from `start` on."""

    queue: DriverQueue[int]

    def __init__(self, cpu: Cpu, guest: str) -> None:
        """Find it; without one, the Guest of this name crashes."""
        self._memory, self._guest = cpu.memory, guest
        self._found = find_device(cpu, BLOCK, f"{guest}: a disk (run with --block FILE)")
        self.sectors = int.from_bytes(self._found.config[:8], "little")
        self.is_read_only = bool(self._found.offered >> BLK_RO & 1)
        self._asked = (0, 0)

    def start(self) -> Generator[Notify, Irqs, None]:
        """Start it."""
        (self.queue,) = yield from self._found.start(RING_FEATURES | 1 << BLK_FLUSH | 1 << BLK_RO)

    def begin(self, kind: int, sector: int, addr: int = 0, length: int = 0) -> None:
        """Offer one request, with a buffer to be written by the device unless it is a write: one at a time."""
        self._asked = (kind, sector)
        self._memory.view(_HEADER_ADDR, _HEADER.size + 1)[:] = _HEADER.pack(kind, 0, sector) + b"\xff"
        data = [(addr, length)] if length else []
        header, status = (_HEADER_ADDR, _HEADER.size), (_STATUS_ADDR, 1)
        if kind == BLK_T_OUT:
            self.queue.add([header, *data], [status], 0)
        else:
            self.queue.add([header], [*data, status], 0)

    def is_done(self) -> bool:
        """Take back the request; False while it is under way, and then an interrupt comes."""
        return self.queue.reap() is not None

    def status(self) -> int:
        """Return the status of the last request."""
        return self._memory.view(_STATUS_ADDR, 1)[0]

    def check_status(self) -> None:
        """Crash unless the last request succeeded."""
        kind, sector = self._asked
        if self.status() != BLK_S_OK:
            panic(f"{self._guest}: request {kind} at sector {sector} failed with status {self.status()}")

    def request(self, kind: int, sector: int, addr: int = 0, length: int = 0) -> Code:
        """Have one request done; return its status."""
        self.begin(kind, sector, addr, length)
        yield from kick(self.queue)
        while not self.is_done():
            yield HALT
        return self.status()

    def must(self, kind: int, sector: int, addr: int = 0, length: int = 0) -> Code:
        """Have one request done that is to succeed."""
        status = yield from self.request(kind, sector, addr, length)
        self.check_status()
        return status

    # ---- The pattern ----

    def want(self, number: int, sector: int, length: int) -> None:
        """Have the pattern of these sectors, after `fill_base`, where it is written from or compared with."""
        tag(self._memory.view(WANTED_ADDR, length), number, sector)

    def check_bytes(self, sector: int, length: int) -> None:
        """Crash unless what was read is what is wanted."""
        if self._memory.view(READ_ADDR, length) != self._memory.view(WANTED_ADDR, length):
            panic(f"{self._guest}: wrong bytes in the {length // SECTOR} sectors from {sector} on")


def fill_base(view: memoryview, seed: int) -> None:
    """Fill the buffer with what every chunk has in common."""
    words, value = view.cast("I"), seed
    for at in range(len(words)):
        value = (value * _MULTIPLIER + _INCREMENT) & 0xFFFFFFFF
        words[at] = value


def tag(view: memoryview, number: int, sector: int) -> None:
    """Begin each sector of the buffer with a number and its place on the disk."""
    for at in range(0, len(view), SECTOR):
        pack_into("<II", view, at, number, sector + at // SECTOR)


def chunks(sectors: int) -> list[tuple[int, int]]:
    """Return first sector and length in bytes of each request."""
    step = CHUNK // SECTOR
    return [(at, min(step, sectors - at) * SECTOR) for at in range(0, sectors, step)]
