"""Asks for 32 random bytes, says them in hexadecimal on the console, and shuts down."""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import Cpu, GuestCode
from launcher.guests.support import do, find_device
from launcher.guests.words import Words
from shared.virtio import RNG

_WANTED = 32
_BYTES_ADDR = 0x20000


def run(cpu: Cpu) -> GuestCode:
    """Ask until all are there: an answer may be shorter than what was asked for."""
    rng, words = find_device(cpu, RNG, "rng: entropy (run with --rng)"), Words(cpu, "rng")
    (asked,) = yield from rng.start()
    yield from words.start()
    have = 0
    while have < _WANTED:
        have += yield from do(asked, [], [(_BYTES_ADDR + have, _WANTED - have)])
    yield from words.say(bytes(cpu.memory.view(_BYTES_ADDR, _WANTED)).hex().encode() + b"\n")
    yield Shutdown()
