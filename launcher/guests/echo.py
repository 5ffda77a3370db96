"""Sends back what it gets on the console; an EOT (0x04) shuts it down."""

from __future__ import annotations

from collections.abc import Generator

from launcher.api import Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode, Irqs, Step
from launcher.guests.support import find_device, kick
from shared.driverqueue import DriverQueue
from shared.virtio import CONSOLE

_EOT = 0x04
_BUFFERS = 8
_BUFFER_SIZE = 256
_INPUT_ADDR = 0x10000
_OUTPUT_ADDR = _INPUT_ADDR + _BUFFERS * _BUFFER_SIZE


def run(cpu: Cpu) -> GuestCode:
    """Echo until EOT: what came before it is still sent back."""
    console = find_device(cpu, CONSOLE, "echo: a console")
    typed, said = yield from console.start()
    free = list(range(_BUFFERS))
    for number in range(_BUFFERS):
        typed.add([], [(_INPUT_ADDR + number * _BUFFER_SIZE, _BUFFER_SIZE)], number)
    yield from kick(typed)
    while True:
        used = typed.reap()
        if used is None:
            yield HALT
            continue
        number, written = used
        addr = _INPUT_ADDR + number * _BUFFER_SIZE
        text, eot, _ = bytes(cpu.memory.view(addr, written)).partition(bytes([_EOT]))
        if text:
            yield from _reclaim(said, free, at_least=1)
            number_out = free.pop()
            out = _OUTPUT_ADDR + number_out * _BUFFER_SIZE
            cpu.memory.view(out, len(text))[:] = text
            said.add([(out, len(text))], [], number_out)
            yield from kick(said)
        if eot:
            yield from _reclaim(said, free, at_least=_BUFFERS)
            yield Shutdown()
        typed.add([], [(addr, _BUFFER_SIZE)], number)
        yield from kick(typed)


def _reclaim(said: DriverQueue[int], free: list[int], at_least: int) -> Generator[Step, Irqs, None]:
    """Take back the buffers that were written out, and wait until enough are free."""
    while True:
        while (used := said.reap()) is not None:
            free.append(used[0])
        if len(free) >= at_least:
            return
        yield HALT
