"""Asks for 32 random bytes, says them in hexadecimal on the console, and shuts down."""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import Cpu, GuestCode
from launcher.guests.support import do, find_device
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
        have += yield from do(asked, [], [(_BYTES_ADDR + have, _WANTED - have)])
    text = bytes(cpu.memory.view(_BYTES_ADDR, _WANTED)).hex().encode() + b"\n"
    cpu.memory.view(_TEXT_ADDR, len(text))[:] = text
    yield from do(said, [(_TEXT_ADDR, len(text))], [])
    yield Shutdown()
