"""Loads a Guest image: a 32-bit i386 ELF executable, copied into Guest memory by physical address.

An image is a stranger's file. All of it is checked before the first byte goes into memory, and whatever is
wrong with it is said in one sentence. It is copied, never mapped over Guest memory: that stays the memfd
which others see.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.api import Boot
from shared.errors import UsageError
from shared.memory import GuestMemory

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import Segment

MAX_IMAGE_BYTES = 64 << 20
MAX_SEGMENTS = 64

_ADDRESS_SPACE = 1 << 32
_MAGIC = b"\x7fELF"
_ZEROES = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class _Segment:
    """What goes to guest-physical `addr`: the bytes of the file, then zeroes up to `size`."""

    addr: int
    size: int
    content: memoryview


def load(path: str | Path, memory: GuestMemory, device_page: int) -> Boot:
    """Copy the image at `path` into RAM, guest-physical 0 to `device_page`, and return how it is started.

    Raises `UsageError` for whatever is not a loadable image; memory is then untouched. Before the Guest runs.
    """
    entry, segments = _open(path, device_page)
    for segment in segments:
        filled = segment.addr + len(segment.content)
        memory.view(segment.addr, len(segment.content))[:] = segment.content
        _zero(memory, filled, segment.addr + segment.size)
    return Boot(device_page, entry)


def check(path: str | Path) -> None:
    """Raise `UsageError` for whatever is not a loadable image, however large the memory."""
    _open(path, _ADDRESS_SPACE)


def _open(path: str | Path, limit: int) -> tuple[int, list[_Segment]]:
    content = _read(Path(path))
    try:
        return _parse(content, limit)
    except UsageError as refusal:
        raise UsageError(f"image {path}: {refusal}") from refusal.__cause__


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"image {path}: is not a regular file; give the file of an image")
            content = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"image {path}: no such file; `launcher list guests` names the built-in ones") from error
    except IsADirectoryError as error:
        raise UsageError(f"image {path}: is a directory; give the file of an image") from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"image {str(path)!r}: {error}; give the file of an image") from error
    except OSError as error:
        raise UsageError(f"image {path}: not readable ({error.strerror}); give a file that you may read") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise UsageError(f"image {path}: over {MAX_IMAGE_BYTES >> 20} MiB, the most that is read; strip it")
    return content


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO would wait for its writer, before we could see that it is no file.
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(content: bytes, limit: int) -> tuple[int, list[_Segment]]:
    if not content:
        raise UsageError("is empty; an image is an ELF file")
    if not content.startswith(_MAGIC):
        raise UsageError(f"is not an image: it begins with {_shown(content[:4])}; an image is an ELF file")
    from elftools.elf.elffile import ELFFile  # late: most commands load no image

    try:
        elf = ELFFile(io.BytesIO(content))
        _check_kind(elf)
        found = [elf.get_segment(n) for n in range(elf["e_phnum"])]
        loaded = [_checked(segment, content, limit) for segment in found if segment["p_type"] == "PT_LOAD"]
        segments = [segment for segment in loaded if segment.size]
    except UsageError:
        raise
    except Exception as error:
        # pyelftools raises ELFError for most of what can be wrong, and else whatever its parser stumbled over
        # (errors of construct, AttributeError, UnicodeDecodeError): each means a corrupt file.
        raise UsageError(f"is a corrupt ELF file ({error or type(error).__name__}); build it again") from error
    entry: int = elf["e_entry"]
    if not segments:
        raise UsageError("has no segment to load; link it as an executable")
    if not any(segment.addr <= entry < segment.addr + segment.size for segment in segments):
        raise UsageError(f"its entry {entry:#x} lies in no loaded segment; entry addresses are physical")
    return entry, segments


def _check_kind(elf: ELFFile) -> None:
    ident = elf["e_ident"]
    if ident["EI_CLASS"] != "ELFCLASS32" or ident["EI_DATA"] != "ELFDATA2LSB" or elf["e_machine"] != "EM_386":
        raise UsageError(
            f"is for another machine ({elf['e_machine']}, {ident['EI_CLASS']}, {ident['EI_DATA']}); "
            "compile it with -m32 for i386"
        )
    if elf["e_type"] != "ET_EXEC":
        raise UsageError(f"is no executable ({elf['e_type']}); link it with -static -no-pie")
    if elf["e_phnum"] > MAX_SEGMENTS:
        raise UsageError(f"has {elf['e_phnum']} program headers, over {MAX_SEGMENTS}; build it again")


def _checked(segment: Segment, content: bytes, limit: int) -> _Segment:
    addr, size, offset, filled = (segment[name] for name in ("p_paddr", "p_memsz", "p_offset", "p_filesz"))
    if filled > size:
        raise UsageError(f"is a corrupt ELF file (a segment of {size:#x} bytes holds {filled:#x}); build it again")
    if offset + filled > len(content):
        raise UsageError(
            f"is truncated: a segment ends at byte {offset + filled:#x}, the file at {len(content):#x}; copy it again"
        )
    if addr + size > limit:
        raise UsageError(
            f"does not fit: its segment of {size:#x} bytes at {addr:#x} ends at {addr + size:#x}, past the "
            f"end of RAM ({limit:#x}); give more with --memory"
        )
    return _Segment(addr, size, memoryview(content)[offset : offset + filled])


def _zero(memory: GuestMemory, start: int, end: int) -> None:
    for addr in range(start, end, len(_ZEROES)):
        length = min(len(_ZEROES), end - addr)
        memory.view(addr, length)[:] = _ZEROES[:length]


def _shown(beginning: bytes) -> str:
    return " ".join(f"{byte:02x}" for byte in beginning)
