"""A flat binary: bytes that go to an address as they are, and start with the first of them.

Nothing in such a file says that it is one, nor what it is for. So none is ever guessed: `flat:FILE` says it, and is
taken at its word. It goes to 1 MiB, where the built-in Guests are linked, or to ADDR of `flat:FILE@ADDR`; what lies
behind it is zero, as all of memory is. It starts like an ELF image (launcher/guests/i386/start.S lists the registers).
"""

from __future__ import annotations

import contextlib

from launcher.api import Boot
from launcher.image import elf
from launcher.image.plan import Piece, Plan, check_fit
from shared.errors import UsageError

PREFIX = "flat:"
DEFAULT_ADDR = 0x100000


def parse(name: str) -> tuple[str, int | None]:
    """Return the path in an image's name and the address it is to be loaded at; None where the name is no flat one's.

    Raises `UsageError` where no file is named. What follows the last `@` is an address if it is a number, so a file's
    own `@7` is named `flat:FILE@7@0x100000`.
    """
    if not name.startswith(PREFIX):
        return name, None
    path, addr = name.removeprefix(PREFIX), DEFAULT_ADDR
    before, at, number = path.rpartition("@")
    if at:
        with contextlib.suppress(ValueError):
            path, addr = before, int(number, 0)
    if not path:
        raise UsageError(f"image '{name}' names no file; give {PREFIX}FILE, or {PREFIX}FILE@ADDR")
    return path, addr


def plan(content: bytes, addr: int, device_page: int) -> Plan:
    """Say where it goes; raise `UsageError` where there is no room for it, or where it is no flat binary after all."""
    if not content:
        raise UsageError("is empty; give it an instruction")
    if elf.is_one(content):
        raise UsageError(f"is an ELF file, which says itself where it goes; leave out '{PREFIX}'")
    if addr < 0:
        raise UsageError(f"cannot be loaded at {addr:#x}; give an address from 0")
    check_fit("a flat binary", addr, len(content), device_page)
    return Plan((Piece(addr, len(content), content),), Boot(device_page, addr))
