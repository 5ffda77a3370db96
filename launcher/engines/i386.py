"""What an i386 looks up in memory when it takes an interrupt: the gate in the IDT, and its segment in the GDT.

KVM leaves that to the processor. An engine that runs a Guest without one does it by itself, and both tables are the
Guest's: anywhere, overwritten, or not there at all. Whatever is wrong with them is no error of ours but one more
exception of the Guest's. Intel's manual, volume 3, 6.10 to 6.15 (the IDT, gates, double fault).
"""

from __future__ import annotations

from typing import NamedTuple

from shared.errors import BadAddress
from shared.memory import GuestMemory

INVALID_OPCODE = 6
DOUBLE_FAULT = 8
GENERAL_PROTECTION = 13

WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})
"""The exceptions that push an error code."""

EFLAGS_IF = 1 << 9
CLEARED_AT_ENTRY = 1 << 8 | 1 << 14 | 1 << 16 | 1 << 17
"""TF, NT, RF and VM: what every gate clears; an interrupt gate clears IF, too."""

CR0_PG = 1 << 31

_ENTRY_SIZE = 8
_CONTRIBUTORY = frozenset({0, 10, 11, 12, 13})
_INTERRUPT_GATE, _TRAP_GATE = 0x8E, 0x8F  # present, for ring 0, 32 bits
_PRIVILEGE = 0x60
_IS_CODE = 0x18  # of a descriptor's access byte: no system segment, and executable
_PRESENT = 0x80


class Table(NamedTuple):
    """Where the GDT or the IDT is: its first byte, and the offset of its last."""

    base: int
    limit: int


class Gate(NamedTuple):
    """Where an interrupt goes, and whether further ones are kept out there."""

    selector: int
    offset: int
    closes: bool


def find_gate(memory: GuestMemory, idt: Table, gdt: Table, vector: int) -> Gate | None:
    """Return the gate of this vector; None where the processor raises an exception instead of going through it."""
    entry = _entry(memory, idt, vector)
    if entry is None:
        return None
    kind = entry[5] & ~_PRIVILEGE  # who may `int` through it is of no concern to the processor itself
    if kind not in (_INTERRUPT_GATE, _TRAP_GATE):
        return None
    selector = int.from_bytes(entry[2:4], "little")
    if not _is_code(memory, gdt, selector):
        return None
    return Gate(selector, int.from_bytes(entry[:2] + entry[6:], "little"), kind == _INTERRUPT_GATE)


def next_exception(vector: int) -> int | None:
    """Return what is raised when `vector` could not be taken; None when that was the last (a triple fault)."""
    if vector == DOUBLE_FAULT:
        return None
    return DOUBLE_FAULT if vector in _CONTRIBUTORY else GENERAL_PROTECTION


def may_be_in_shadow(memory: GuestMemory, eip: int) -> bool:
    """Whether the instruction before `eip` may keep interrupts out for one more: STI, POP SS, MOV SS (6.8.3).

    Two bytes tell, so it may also be the tail of another one: then the answer is a wrong yes, never a wrong no.
    """
    try:
        second, last = memory.view(eip - 2, 2)
    except BadAddress:
        return False
    return last in (0xFB, 0x17) or (second == 0x8E and last >> 3 == 0xD0 >> 3)


def _is_code(memory: GuestMemory, gdt: Table, selector: int) -> bool:
    # Selectors of ring 0 in the GDT; the null one names nothing.
    if not selector or selector & 7:
        return False
    entry = _entry(memory, gdt, selector >> 3)
    return entry is not None and entry[5] & (_PRESENT | _PRIVILEGE | _IS_CODE) == _PRESENT | _IS_CODE


def _entry(memory: GuestMemory, table: Table, index: int) -> bytes | None:
    at = index * _ENTRY_SIZE
    if at + _ENTRY_SIZE - 1 > table.limit:
        return None
    try:
        return bytes(memory.view(table.base + at, _ENTRY_SIZE))
    except BadAddress:
        return None
