"""Halts, counts the interrupts that end a halt, and halts again."""

from __future__ import annotations

from launcher.engines.python import HALT, Cpu, GuestCode

COUNTER = 0x1000
"""Where the count is: a 32-bit word, the same address as in i386/idle.c."""


def run(cpu: Cpu) -> GuestCode:
    """Halt for ever."""
    counter = cpu.memory.view(COUNTER, 4).cast("I")
    while True:
        irqs = yield HALT
        counter[0] += len(irqs)
