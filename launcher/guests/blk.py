"""Fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log] [SEED|COUNT]).

A disk that cannot be written is only read and compared. Then it asks for the disk's id, and for what lies past its end.

`blk log COUNT` is for whoever kills the Launcher: it writes 16 KiB blocks in turn over the first MiB, tagged with a
number that grows, and says on the console how many the disk has acknowledged. The twin of i386/blk.c.
"""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import Cpu, GuestCode, panic
from launcher.guests.disk import CHUNK, READ_ADDR, SECTOR, WANTED_ADDR, Disk, chunks, fill_base
from launcher.guests.words import Words
from shared.virtio import BLK_ID_BYTES, BLK_T_FLUSH, BLK_T_GET_ID, BLK_T_IN, BLK_T_OUT

LOG_BLOCK = 1 << 14
LOG_SECTORS = (1 << 20) // SECTOR
"""The part of the disk that `blk log` writes over and over."""


def run(cpu: Cpu) -> GuestCode:
    """Do what the arguments say; report on the console."""
    disk, words = Disk(cpu, "blk"), Words(cpu, "blk")
    yield from disk.start()
    yield from words.start()
    args, sectors = cpu.args(), disk.sectors
    number = _number(args[1]) if len(args) > 1 else 1
    if args and args[0] == b"log":
        fill_base(cpu.memory.view(WANTED_ADDR, LOG_BLOCK), 1)
        for count in range(1, number + 1):
            sector = (count - 1) * (LOG_BLOCK // SECTOR) % min(sectors, LOG_SECTORS)
            disk.want(count, sector, LOG_BLOCK)
            yield from disk.must(BLK_T_OUT, sector, WANTED_ADDR, LOG_BLOCK)
            yield from words.say(b"%d\n" % count)
        yield Shutdown()

    asked = sectors if not args or args[0] == b"all" else _number(args[0]) * (1 << 20) // SECTOR
    yield from disk.must(BLK_T_GET_ID, 0, READ_ADDR, BLK_ID_BYTES)
    name = bytes(cpu.memory.view(READ_ADDR, BLK_ID_BYTES)).split(b"\0", 1)[0]
    yield from words.say(b"blk: %s has %d sectors\n" % (name, sectors))
    if asked > sectors:
        panic(f"blk: {asked} sectors are more than the disk has")
    fill_base(cpu.memory.view(WANTED_ADDR, CHUNK), number)
    if disk.is_read_only:
        yield from words.say(b"blk: it cannot be written\n")
    else:
        for sector, length in chunks(asked):
            disk.want(number, sector, length)
            yield from disk.must(BLK_T_OUT, sector, WANTED_ADDR, length)
        yield from disk.must(BLK_T_FLUSH, 0)
        yield from words.say(b"blk: wrote and flushed %d sectors\n" % asked)
    for sector, length in chunks(asked):
        disk.want(number, sector, length)
        yield from disk.must(BLK_T_IN, sector, READ_ADDR, length)
        disk.check_bytes(sector, length)
    yield from words.say(b"blk: read %d sectors, every byte is right\n" % asked)
    status = yield from disk.request(BLK_T_IN, sectors, READ_ADDR, SECTOR)
    yield from words.say(b"blk: past the end: status %d\n" % status)
    yield Shutdown()


def _number(text: bytes) -> int:
    if not text.isdigit():
        panic(f"blk: '{text.decode(errors='replace')}' is not a number")
    return int(text)
