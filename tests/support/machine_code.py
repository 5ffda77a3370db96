"""Guests of a few instructions, written as bytes: for what the built-in ones never do. No compiler is needed."""

from __future__ import annotations

from shared.memory import GuestMemory

CODE = 0x2000
"""Where `place` puts a Guest, and where it starts."""

HLT = b"\xf4"
CLI = b"\xfa"
STI = b"\xfb"
UD2 = b"\x0f\x0b"
SPIN = b"\xeb\xfe"
LEAVE_INTERRUPT = b"\x58\x83\xc4\x04\x9d\xff\xe0"  # pop eax; skip cs; popf; jmp eax

_GDT, _IDT, _POINTERS, _HANDLERS = 0x3000, 0x4000, 0x3100, 0x5000
_HANDLER_SIZE = 32


def mov_eax(value: int) -> bytes:
    return b"\xb8" + value.to_bytes(4, "little")


def out(port: int, eax: int) -> bytes:
    """`outl %eax, %dx`: a hypercall."""
    return mov_eax(eax) + b"\xba" + port.to_bytes(4, "little") + b"\xef"


def jmp_back_over(code: bytes) -> bytes:
    """Jump to where `code`, which stands before this, begins."""
    return b"\xe9" + (-len(code) - 5).to_bytes(4, "little", signed=True)


def place(memory: GuestMemory, code: bytes) -> None:
    memory.view(CODE, len(code))[:] = code


def take_interrupts(memory: GuestMemory, notify_port: int) -> bytes:
    """Set up handlers of which each one notifies its vector's number; return the code that installs them."""
    memory.view(_GDT, 24)[:] = b"".join(
        entry.to_bytes(8, "little") for entry in (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    )
    for vector in range(256):
        handler = _HANDLERS + vector * _HANDLER_SIZE
        code = out(notify_port, vector) + LEAVE_INTERRUPT
        memory.view(handler, len(code))[:] = code
        gate = handler & 0xFFFF | 8 << 16 | 0x8E00 << 32 | handler >> 16 << 48
        memory.view(_IDT + 8 * vector, 8)[:] = gate.to_bytes(8, "little")
    pointers = (23).to_bytes(2, "little") + _GDT.to_bytes(4, "little")
    pointers += (2047).to_bytes(2, "little") + _IDT.to_bytes(4, "little")
    memory.view(_POINTERS, len(pointers))[:] = pointers
    lgdt, lidt = b"\x0f\x01\x15", b"\x0f\x01\x1d"
    return lgdt + _POINTERS.to_bytes(4, "little") + lidt + (_POINTERS + 6).to_bytes(4, "little")
