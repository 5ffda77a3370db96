"""Sends back what it gets on the console; an EOT (0x04) shuts it down."""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode
from launcher.guests.words import Echo, Words


def run(cpu: Cpu) -> GuestCode:
    """Echo until EOT: what came before it is still sent back."""
    words = Words(cpu, "echo")
    yield from words.start()
    echo = Echo(words)
    while True:
        yield from echo.go_on()
        if echo.is_over:
            yield Shutdown()
        if echo.may_sleep():
            yield HALT
