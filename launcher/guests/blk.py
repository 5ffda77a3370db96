"""Fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log] [SEED|COUNT]).

Each sector begins with its tag and its own number, so one that is in the wrong place, or of another run, shows. A disk
that cannot be written is only read and compared. Then it asks for the disk's id, and for what lies past its end.

`blk log COUNT` is for whoever kills the Launcher: it writes 16 KiB blocks in turn over the first MiB, tagged with a
number that grows, and says on the console how many the disk has acknowledged. The twin of i386/blk.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct, pack_into
from typing import NamedTuple

from launcher.api import Notify, Shutdown
from launcher.engines.python import Cpu, GuestCode, Irqs, Step, panic
from launcher.guests.support import do, find_device
from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.virtio import (
    BLK_FLUSH,
    BLK_ID_BYTES,
    BLK_RO,
    BLK_S_OK,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
    BLOCK,
    CONSOLE,
    RING_FEATURES,
)

SECTOR = 512
CHUNK = 1 << 16
LOG_BLOCK = 1 << 14
LOG_SECTORS = (1 << 20) // SECTOR
"""The part of the disk that `blk log` writes over and over."""

_HEADER = Struct("<IIQ")
_HEADER_ADDR = 0x10000
_STATUS_ADDR = _HEADER_ADDR + _HEADER.size
_TEXT_ADDR = _HEADER_ADDR + 0x100
_WANTED_ADDR = 0x20000
_READ_ADDR = _WANTED_ADDR + CHUNK
_MULTIPLIER, _INCREMENT = 1664525, 1013904223

Code = Generator[Notify | Step, Irqs, int]


class _Disk(NamedTuple):
    """The disk as its driver sees it."""

    queue: DriverQueue[int]
    memory: GuestMemory

    def request(self, kind: int, sector: int, addr: int = 0, length: int = 0) -> Code:
        """Have one request done, with a buffer to be written by the device unless it is a write; return its status."""
        self.memory.view(_HEADER_ADDR, _HEADER.size + 1)[:] = _HEADER.pack(kind, 0, sector) + b"\xff"
        data = [(addr, length)] if length else []
        header, status = (_HEADER_ADDR, _HEADER.size), (_STATUS_ADDR, 1)
        if kind == BLK_T_OUT:
            yield from do(self.queue, [header, *data], [status])
        else:
            yield from do(self.queue, [header], [*data, status])
        return self.memory.view(_STATUS_ADDR, 1)[0]

    def must(self, kind: int, sector: int, addr: int = 0, length: int = 0) -> Code:
        """Have one request done that is to succeed."""
        status = yield from self.request(kind, sector, addr, length)
        if status != BLK_S_OK:
            panic(f"blk: request {kind} at sector {sector} failed with status {status}")
        return status


def run(cpu: Cpu) -> GuestCode:
    """Do what the arguments say; report on the console."""
    found = find_device(cpu, BLOCK, "blk: a disk (run with --block FILE)")
    console = find_device(cpu, CONSOLE, "blk: a console")
    (queue,) = yield from found.start(RING_FEATURES | 1 << BLK_FLUSH | 1 << BLK_RO)
    _, said = yield from console.start()
    disk = _Disk(queue, cpu.memory)
    sectors = int.from_bytes(found.config[:8], "little")

    def say(text: bytes) -> Code:
        cpu.memory.view(_TEXT_ADDR, len(text))[:] = text
        return (yield from do(said, [(_TEXT_ADDR, len(text))], []))

    args = cpu.args()
    number = _number(args[1]) if len(args) > 1 else 1
    if args and args[0] == b"log":
        fill_base(cpu.memory.view(_WANTED_ADDR, LOG_BLOCK), 1)
        for count in range(1, number + 1):
            sector = (count - 1) * (LOG_BLOCK // SECTOR) % min(sectors, LOG_SECTORS)
            tag(cpu.memory.view(_WANTED_ADDR, LOG_BLOCK), count, sector)
            yield from disk.must(BLK_T_OUT, sector, _WANTED_ADDR, LOG_BLOCK)
            yield from say(b"%d\n" % count)
        yield Shutdown()

    asked = sectors if not args or args[0] == b"all" else _number(args[0]) * (1 << 20) // SECTOR
    yield from disk.must(BLK_T_GET_ID, 0, _READ_ADDR, BLK_ID_BYTES)
    name = bytes(cpu.memory.view(_READ_ADDR, BLK_ID_BYTES)).split(b"\0", 1)[0]
    yield from say(b"blk: %s has %d sectors\n" % (name, sectors))
    if asked > sectors:
        panic(f"blk: {asked} sectors are more than the disk has")
    fill_base(cpu.memory.view(_WANTED_ADDR, CHUNK), number)
    if found.offered >> BLK_RO & 1:
        yield from say(b"blk: it cannot be written\n")
    else:
        for sector, length in _chunks(asked):
            tag(cpu.memory.view(_WANTED_ADDR, length), number, sector)
            yield from disk.must(BLK_T_OUT, sector, _WANTED_ADDR, length)
        yield from disk.must(BLK_T_FLUSH, 0)
        yield from say(b"blk: wrote and flushed %d sectors\n" % asked)
    for sector, length in _chunks(asked):
        wanted = cpu.memory.view(_WANTED_ADDR, length)
        tag(wanted, number, sector)
        yield from disk.must(BLK_T_IN, sector, _READ_ADDR, length)
        if cpu.memory.view(_READ_ADDR, length) != wanted:
            panic(f"blk: wrong bytes in the {length // SECTOR} sectors from {sector} on")
    yield from say(b"blk: read %d sectors, every byte is right\n" % asked)
    status = yield from disk.request(BLK_T_IN, sectors, _READ_ADDR, SECTOR)
    yield from say(b"blk: past the end: status %d\n" % status)
    yield Shutdown()


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


def _chunks(sectors: int) -> list[tuple[int, int]]:
    """Return first sector and length in bytes of each request."""
    step = CHUNK // SECTOR
    return [(at, min(step, sectors - at) * SECTOR) for at in range(0, sectors, step)]


def _number(text: bytes) -> int:
    if not text.isdigit():
        panic(f"blk: '{text.decode(errors='replace')}' is not a number")
    return int(text)
