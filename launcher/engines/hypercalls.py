"""What a Guest of machine code and its engine agree on: how it calls, and how it is interrupted.

Engines kvm and unicorn run the same images, so this, and what is said of one that goes wrong, is here. How a Guest
begins is in launcher.api.Boot. launcher/guests/i386/start.S and guest.h are the Guest's side.
"""

from __future__ import annotations

from launcher.api import Died
from launcher.words import shown
from shared.memory import GuestMemory

# Hypercalls: `outl %eax, %dx`.
PORT_NOTIFY = 0x600
PORT_SHUTDOWN = 0x604
PORT_CRASH = 0x608
PORT_RESTART = 0x60C

FIRST_VECTOR = 32  # 0 to 31 are the processor's exceptions
IRQS = 256 - FIRST_VECTOR
REASON_LIMIT = 256


def irq_bit(irq: int) -> int:
    """Return the bit of `irq` among those that are pending; raise `ValueError` for one without a vector."""
    if not 0 <= irq < IRQS:
        raise ValueError(f"irq {irq} is not one of 0 to {IRQS - 1}")
    return 1 << irq


def lowest_irq(pending: int) -> tuple[int, int]:
    """Return the vector that comes first of those pending, and what is pending after it."""
    lowest = pending & -pending
    return FIRST_VECTOR + lowest.bit_length() - 1, pending ^ lowest


def crashed(memory: GuestMemory, addr: int) -> Died:
    """Read the Guest's last words: NUL-terminated, at most REASON_LIMIT bytes, anywhere, anything."""
    if addr >= memory.size:
        return Died(f"crashed with a reason at {addr:#x}, past guest memory ({memory.size:#x})")
    said = bytes(memory.view(addr, min(REASON_LIMIT, memory.size - addr)))
    text = said.partition(b"\0")[0].decode(errors="backslashreplace")
    return Died(shown(text) or "crashed without a reason")


def no_hypercall(port: int, size: int, *, count: int = 1, is_out: bool) -> str:
    """Say what the Guest did to a port that is not one of those above, or not as they ask for."""
    verb = "out to" if is_out else "in from"
    return f"{verb} port {port:#x} ({count} times {size} bytes), which is no hypercall"


def outside(addr: int, length: int, limit: int, *, is_write: bool) -> str:
    """Say what the Guest did past the end of its memory."""
    return f"{'wrote' if is_write else 'read'} {length} bytes at {addr:#x}, past guest memory ({limit:#x})"


def at_eip(what: str, eip: int) -> Died:
    """Return the death of a Guest that said nothing itself: what the engine saw, and where."""
    return Died(f"{what}, at eip {eip:#x}")
