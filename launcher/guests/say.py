"""Says its arguments on the console, one a line, and shuts down."""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import Cpu, GuestCode
from launcher.guests.support import do, find_device
from shared.virtio import CONSOLE

_TEXT_ADDR = 0x10000


def run(cpu: Cpu) -> GuestCode:
    """Say them in one buffer: nothing to say is nothing said."""
    console = find_device(cpu, CONSOLE, "say: a console")
    _, said = yield from console.start()
    text = b"".join(arg + b"\n" for arg in cpu.args())
    if text:
        cpu.memory.view(_TEXT_ADDR, len(text))[:] = text
        yield from do(said, [(_TEXT_ADDR, len(text))], [])
    yield Shutdown()
