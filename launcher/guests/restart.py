"""Says "up", then restarts, shuts down or crashes at the letter r, s or c; with an argument it restarts for ever."""

from __future__ import annotations

from launcher.api import Restart, Shutdown
from launcher.engines.python import Cpu, GuestCode, panic
from launcher.guests.support import do, find_device
from shared.virtio import CONSOLE

_EOT = 0x04
_TEXT = b"up\n"
_TEXT_ADDR = 0x10000
_LETTER_ADDR = 0x10100


def run(cpu: Cpu) -> GuestCode:
    """Take one letter at a time: what comes after an r is for the next life."""
    console = find_device(cpu, CONSOLE, "restart: a console")
    typed, said = yield from console.start()
    cpu.memory.view(_TEXT_ADDR, len(_TEXT))[:] = _TEXT
    yield from do(said, [(_TEXT_ADDR, len(_TEXT))], [])
    if cpu.args():
        yield Restart()
    while True:
        yield from do(typed, [], [(_LETTER_ADDR, 1)])
        letter = cpu.memory.view(_LETTER_ADDR, 1)[0]
        if letter == ord("r"):
            yield Restart()
        elif letter == ord("c"):
            panic("restart: was told to crash")
        elif letter in (ord("s"), _EOT):
            yield Shutdown()
