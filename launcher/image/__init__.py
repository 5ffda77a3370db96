"""Loads a Guest image: a 32-bit ELF executable, a Linux kernel (bzImage) or, where it is said so, a flat binary.

An image is a stranger's file, and so is an initrd. Each is read once; all of it is checked before the first byte goes
into memory, and whatever is wrong with it is said in one sentence. It is copied, never mapped over Guest memory: that
stays the memfd which others see.

    FILE                ELF or bzImage: each has its magic
    flat:FILE[@ADDR]    a flat binary: it has none, so anything might be one, and the user has to say it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.api import Boot
from launcher.config import MAX_MEMORY_MIB
from launcher.image import bzimage, elf, flat
from launcher.image.file import read
from launcher.image.plan import Plan
from shared.errors import UsageError
from shared.memory import GuestMemory

MAX_IMAGE_BYTES = 64 << 20


def is_python(name: str) -> bool:
    """Whether this names a Guest written in Python, which is no image."""
    return name.endswith(".py") and not name.startswith(flat.PREFIX)


def load(
    name: str | Path,
    memory: GuestMemory,
    device_page: int,
    args: Sequence[str] = (),
    initrd: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Boot:
    """Copy an image into RAM, guest-physical 0 to `device_page`, and return how it is started.

    `args` and `initrd` are for a Linux kernel: others find their arguments at `Boot.command_line`, and have no initrd.
    `warn` takes a sentence that the user should read before the Guest starts. Raises `UsageError` for whatever cannot
    be loaded or run; memory is then untouched. Before the Guest runs.
    """
    plan = _plan(str(name), device_page, args, initrd)
    if plan.warning is not None:
        warn(f"image {name}: {plan.warning}")
    for piece in plan.pieces:
        piece.put_into(memory)
    return plan.boot


def check(name: str | Path) -> None:
    """Raise `UsageError` for whatever is not a loadable image, however large the memory."""
    _plan(str(name), MAX_MEMORY_MIB << 20, (), None)


def _plan(name: str, device_page: int, args: Sequence[str], initrd: str | None) -> Plan:
    path, flat_addr = flat.parse(name)
    content = read("image", path, MAX_IMAGE_BYTES)
    is_linux = flat_addr is None and bzimage.is_one(content)
    if initrd is not None and not is_linux:
        raise UsageError(f"image {name}: is no Linux kernel and takes no initrd; leave out --initrd")
    disk = None if initrd is None else read("initrd", initrd, device_page)
    try:
        if flat_addr is not None:
            return flat.plan(content, flat_addr, device_page)
        if is_linux:
            return bzimage.plan(content, device_page, args, disk)
        if elf.is_one(content):
            return elf.plan(content, device_page)
        raise UsageError(
            f"{_what(content)}; an image is an ELF file or a bzImage, and a flat binary is given as {flat.PREFIX}FILE"
        )
    except UsageError as refusal:
        raise UsageError(f"image {name}: {refusal}") from refusal.__cause__


def _what(content: bytes) -> str:
    if not content:
        return "is empty"
    return f"is not an image: it begins with {' '.join(f'{byte:02x}' for byte in content[:4])}"
