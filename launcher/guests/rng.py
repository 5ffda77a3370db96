"""Asks for 32 random bytes, says them in hexadecimal on the console, and shuts down."""

from __future__ import annotations

from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode
from launcher.guests.support import find_device
from shared.virtio import CONSOLE, RNG

_WANTED = 32
_BYTES_ADDR = 0x10000
_TEXT_ADDR = _BYTES_ADDR + _WANTED


def run(cpu: Cpu) -> GuestCode:
    """Ask until all are there: an answer may be shorter than what was asked for."""
    rng = find_device(cpu, RNG, "rng: entropy (run with --rng)")
    console = find_device(cpu, CONSOLE, "rng: a console")
    (asked,) = yield from rng.start()
    _, said = yield from console.start()
    have = 0
    while have < _WANTED:
        asked.add([], [(_BYTES_ADDR + have, _WANTED - have)], 0)
        if asked.kick_needed():
            yield Notify(asked.layout.desc)
        while (used := asked.reap()) is None:
            yield HALT
        have += used[1]
    text = bytes(cpu.memory.view(_BYTES_ADDR, _WANTED)).hex().encode() + b"\n"
    cpu.memory.view(_TEXT_ADDR, len(text))[:] = text
    said.add([(_TEXT_ADDR, len(text))], [], 0)
    if said.kick_needed():
        yield Notify(said.layout.desc)
    while said.reap() is None:
        yield HALT
    yield Shutdown()
