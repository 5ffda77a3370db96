"""What loading an image comes to: which bytes go where, and how the Guest is then started.

A plan is made, and everything refused that has to be, before the first byte is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.api import Boot
from launcher.config import MAX_MEMORY_MIB
from shared.errors import UsageError
from shared.memory import GuestMemory

_ZEROES = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes to guest-physical `addr`: these bytes, then zeroes up to `size`."""

    addr: int
    size: int
    content: bytes | memoryview

    def put_into(self, memory: GuestMemory) -> None:
        """Copy it; it was checked to fit."""
        filled = self.addr + len(self.content)
        memory.view(self.addr, len(self.content))[:] = self.content
        for addr in range(filled, self.addr + self.size, len(_ZEROES)):
            length = min(len(_ZEROES), self.addr + self.size - addr)
            memory.view(addr, length)[:] = _ZEROES[:length]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order, and what the user should read before it starts."""

    pieces: tuple[Piece, ...]
    boot: Boot
    warning: str | None = None


def check_fit(what: str, addr: int, size: int, device_page: int) -> None:
    """Raise `UsageError` for what would not lie in RAM."""
    end = addr + size
    if end > device_page:
        can_reach = end <= MAX_MEMORY_MIB << 20
        raise UsageError(
            f"does not fit: {what} of {size:#x} bytes at {addr:#x} ends at {end:#x}, past the end of RAM "
            f"({device_page:#x}); "
            + (
                "give more with --memory"
                if can_reach
                else f"RAM has {MAX_MEMORY_MIB} MiB at most, so build it for less"
            )
        )
