"""A Guest that reads 4 KiB at random places, so many at a time, and says on the console how fast that went.

    launcher run --engine python --block FILE reader.py DEPTH COUNT SEED

Each read is timed from the moment it is offered to the moment it is taken back, and what it brought is looked at: of
FILE, sector n has n in its second 32 bits.
"""

from __future__ import annotations

import json
import random
from struct import Struct
from time import monotonic_ns

from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode, panic
from launcher.guests.support import do, find_device
from shared.virtio import BLK_T_IN, BLOCK, CONSOLE

PAGE = 4096
_HEADER = Struct("<IIQ")
_STATUS = _HEADER.size
_SLOT = 32  # header and status of one request
_SLOTS_ADDR = 0x10000
_TEXT_ADDR = 0x20000
_DATA_ADDR = 0x100000


def run(cpu: Cpu) -> GuestCode:
    """Keep `depth` reads in flight until `count` have come back."""
    depth, count, seed = map(int, cpu.args())
    found = find_device(cpu, BLOCK, "reader: a disk")
    (queue,) = yield from found.start()
    _, said = yield from find_device(cpu, CONSOLE, "reader: a console").start()
    pages = int.from_bytes(found.config[:8], "little") * 512 // PAGE
    places = random.Random(seed).choices(range(pages), k=count)
    memory = cpu.memory.view(0, cpu.memory.size)
    words = memory[: len(memory) & ~7].cast("Q")
    offered_ns, place_of, took_ns = [0] * depth, [0] * depth, []
    free, begun = list(range(depth)), 0
    begin_ns = monotonic_ns()
    while len(took_ns) < count:
        while free and begun < count:
            slot = free.pop()
            header, data = _SLOTS_ADDR + slot * _SLOT, _DATA_ADDR + slot * PAGE
            page = place_of[slot] = places[begun]
            _HEADER.pack_into(memory, header, BLK_T_IN, 0, page * (PAGE // 512))
            memory[header + _STATUS] = 0xFF
            offered_ns[slot] = monotonic_ns()
            queue.add([(header, _HEADER.size)], [(data, PAGE), (header + _STATUS, 1)], slot)
            begun += 1
        if queue.kick_needed():
            yield Notify(queue.layout.desc)
        while (used := queue.reap()) is not None:
            slot, _ = used
            took_ns.append(monotonic_ns() - offered_ns[slot])
            status = memory[_SLOTS_ADDR + slot * _SLOT + _STATUS]
            if status or words[(_DATA_ADDR + slot * PAGE) >> 3] >> 32 != place_of[slot] * (PAGE // 512):
                panic(f"page {place_of[slot]} came with status {status} and the bytes of another")
            free.append(slot)
        if not free or begun == count > len(took_ns):
            yield HALT
    seconds = (monotonic_ns() - begin_ns) / 1e9
    took_ns.sort()
    report = {
        "n": count,
        "reads_per_s": round(count / seconds),
        "p50_us": round(took_ns[count // 2] / 1e3, 1),
        "p99_us": round(took_ns[count * 99 // 100] / 1e3, 1),
        "max_us": round(took_ns[-1] / 1e3, 1),
    }
    text = json.dumps(report).encode() + b"\n"
    memory[_TEXT_ADDR : _TEXT_ADDR + len(text)] = text
    yield from do(said, [(_TEXT_ADDR, len(text))], [])
    yield Shutdown()
