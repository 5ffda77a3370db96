"""Fills a disk with a pattern, flushes, reads it back and compares every byte (blk [MIB|all|log|read] [NUMBER…]).

A disk that cannot be written is only read and compared. Then it asks for the disk's id, and for what lies past its end.

`blk log COUNT` is for whoever kills the Launcher: it writes 16 KiB blocks in turn over the first MiB, tagged with a
number that grows, and says on the console how many the disk has acknowledged.

`blk read DEPTH COUNT SEED` is for whoever measures: it reads 4 KiB at random places, so many at a time and in all, of a
disk on which each sector has its number in its second 32 bits. The twin of i386/blk.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import pack

from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode, Irqs, Step, panic
from launcher.guests.disk import CHUNK, READ_ADDR, SECTOR, WANTED_ADDR, Disk, chunks, fill_base
from launcher.guests.support import kick
from launcher.guests.words import Words
from shared.virtio import BLK_ID_BYTES, BLK_T_FLUSH, BLK_T_GET_ID, BLK_T_IN, BLK_T_OUT

LOG_BLOCK = 1 << 14
LOG_SECTORS = (1 << 20) // SECTOR
"""The part of the disk that `blk log` writes over and over."""

_MOST_READS = 32
_PAGE, _PAGE_SECTORS = 4096, 8
_HEADERS_ADDR, _PAGES_ADDR = 0x40000, 0x50000


def run(cpu: Cpu) -> GuestCode:
    """Do what the arguments say; report on the console."""
    disk, words = Disk(cpu, "blk"), Words(cpu, "blk")
    yield from disk.start()
    yield from words.start()
    args, sectors = cpu.args(), disk.sectors
    number, reads, seed = [*[_number(arg) for arg in args[1:4]], 1, 1, 1][:3]
    if args and args[0] == b"log":
        fill_base(cpu.memory.view(WANTED_ADDR, LOG_BLOCK), 1)
        for count in range(1, number + 1):
            sector = (count - 1) * (LOG_BLOCK // SECTOR) % min(sectors, LOG_SECTORS)
            disk.want(count, sector, LOG_BLOCK)
            yield from disk.must(BLK_T_OUT, sector, WANTED_ADDR, LOG_BLOCK)
            yield from words.say(b"%d\n" % count)
        yield Shutdown()
    if args and args[0] == b"read":
        yield from words.say(b"blk: reads\n")
        yield from _read_pages(cpu, disk, number, reads, seed)
        yield from words.say(b"blk: read %d pages, every one is right\n" % reads)
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


def _read_pages(cpu: Cpu, disk: Disk, depth: int, count: int, seed: int) -> Generator[Notify | Step, Irqs, None]:
    if not 1 <= depth <= _MOST_READS:
        panic(f"blk: it reads 1 to {_MOST_READS} pages at a time")
    sector_of, free, begun, done = [0] * depth, list(range(depth)), 0, 0
    while done < count:
        while free and begun < count:
            slot = free.pop()
            seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
            sector_of[slot] = (seed * (disk.sectors // _PAGE_SECTORS) >> 32) * _PAGE_SECTORS
            header, page = _HEADERS_ADDR + 32 * slot, _PAGES_ADDR + _PAGE * slot
            cpu.memory.view(header, 17)[:] = pack("<IIQB", BLK_T_IN, 0, sector_of[slot], 0xFF)
            disk.queue.add([(header, 16)], [(page, _PAGE), (header + 16, 1)], slot)
            begun += 1
        yield from kick(disk.queue)
        while (used := disk.queue.reap()) is not None:
            slot = used[0]
            if status := cpu.memory.view(_HEADERS_ADDR + 32 * slot + 16, 1)[0]:
                panic(f"blk: request {BLK_T_IN} at sector {sector_of[slot]} failed with status {status}")
            if int.from_bytes(cpu.memory.view(_PAGES_ADDR + _PAGE * slot + 4, 4), "little") != sector_of[slot]:
                panic(f"blk: another page came at sector {sector_of[slot]}")
            free.append(slot)
            done += 1
        if done < count and not (free and begun < count):
            yield HALT


def _number(text: bytes) -> int:
    if not text.isdigit():
        panic(f"blk: '{text.decode(errors='replace')}' is not a number")
    return int(text)
