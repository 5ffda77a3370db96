"""An ELF executable of 32-bit code: in its own kind of file, or wrapped into one for 64 bits.

Segments go to their physical addresses. The entry is one, too; one that lies in no segment's physical but in its
virtual addresses is translated, as that is how kernels are linked that turn paging on themselves.

Boot loaders that want 64-bit files are fed 32-bit kernels by `objcopy -O elf64-x86-64`. Such a file is told from one of
64-bit code by nothing that must be there: it is the same header, around other instructions. What can be told is this:

    a virtual address past 4 GiB                        64-bit code, since objcopy fills up with zeroes
    an interpreter, a dynamic section, thread storage   a program for an operating system, of either width

Both are refused. What is left is taken for 32-bit code, and the user is told so before it starts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launcher.api import Boot
from launcher.image.plan import Piece, Plan, check_fit
from shared.errors import UsageError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MAX_SEGMENTS = 64

Header = Mapping[str, Any]
"""A program header: its fields by their names in the ABI."""

_MAGIC = b"\x7fELF"
_ADDRESS_SPACE = 1 << 32
_MACHINES = {"ELFCLASS32": ("EM_386",), "ELFCLASS64": ("EM_X86_64", "EM_386")}
_FOR_A_SYSTEM = {
    "PT_INTERP": "an interpreter",
    "PT_DYNAMIC": "a dynamic linker",
    "PT_TLS": "thread-local storage",
}


def is_one(content: bytes) -> bool:
    """Whether this is an ELF file, of whatever kind."""
    return content.startswith(_MAGIC)


def plan(content: bytes, device_page: int) -> Plan:
    """Say where its segments go; raise `UsageError` for whatever is no executable of 32-bit x86 code that fits."""
    from elftools.elf.elffile import ELFFile  # late: most commands load no image

    try:
        elf = ELFFile(io.BytesIO(content))
        _check_kind(elf)
        found = [_program_header(elf, n) for n in range(elf["e_phnum"])]
        _check_purpose(found)
        loaded = [segment for segment in found if segment["p_type"] == "PT_LOAD"]
        pieces = [_checked(segment, content, device_page) for segment in loaded]
        entry = _physical(elf["e_entry"], loaded)
    except UsageError:
        raise
    except Exception as error:
        # pyelftools raises ELFError for most of what can be wrong, and else whatever its parser stumbled over
        # (errors of construct, AttributeError, UnicodeDecodeError): each means a corrupt file.
        raise UsageError(f"is a corrupt ELF file ({error or type(error).__name__}); build it again") from error
    warning = None
    if elf["e_ident"]["EI_CLASS"] == "ELFCLASS64":
        warning = "a 64-bit ELF file is taken for 32-bit code in a wrapper; 64-bit code will crash at once"
    return Plan(tuple(piece for piece in pieces if piece.size), Boot(device_page, entry), warning)


def _check_kind(elf: ELFFile) -> None:
    ident = elf["e_ident"]
    kind, order, machine = ident["EI_CLASS"], ident["EI_DATA"], elf["e_machine"]
    if order != "ELFDATA2LSB" or machine not in _MACHINES[kind]:
        raise UsageError(f"is for another machine ({machine}, {kind}, {order}); compile it with -m32 for i386")
    if elf["e_type"] != "ET_EXEC":
        raise UsageError(f"is no executable ({elf['e_type']}); link it with -static -no-pie")
    if elf["e_phnum"] > MAX_SEGMENTS:
        raise UsageError(f"has {elf['e_phnum']} program headers, over {MAX_SEGMENTS}; build it again")


def _program_header(elf: ELFFile, number: int) -> Header:
    # Not get_segment(): for a dynamic segment that looks through all sections, of which a file may claim millions.
    from elftools.common.utils import struct_parse

    at = elf["e_phoff"] + number * elf["e_phentsize"]
    header: Header = struct_parse(elf.structs.Elf_Phdr, elf.stream, stream_pos=at)
    return header


def _check_purpose(found: list[Header]) -> None:
    for segment in found:
        if needed := _FOR_A_SYSTEM.get(segment["p_type"]):
            raise UsageError(f"is a program for an operating system: it needs {needed}; build it freestanding")
        if segment["p_type"] == "PT_LOAD" and segment["p_vaddr"] >= _ADDRESS_SPACE:
            raise UsageError(
                f"is 64-bit code: it is linked to run at {segment['p_vaddr']:#x}, past 4 GiB; compile it with -m32"
            )


def _checked(segment: Header, content: bytes, device_page: int) -> Piece:
    addr, size, offset, filled = (segment[name] for name in ("p_paddr", "p_memsz", "p_offset", "p_filesz"))
    if filled > size:
        raise UsageError(f"is a corrupt ELF file (a segment of {size:#x} bytes holds {filled:#x}); build it again")
    if offset + filled > len(content):
        raise UsageError(
            f"is truncated: a segment ends at byte {offset + filled:#x}, the file at {len(content):#x}; copy it again"
        )
    check_fit("its segment", addr, size, device_page)
    return Piece(addr, size, memoryview(content)[offset : offset + filled])


def _physical(entry: int, loaded: list[Header]) -> int:
    """Return the entry's physical address; raise `UsageError` where nothing is loaded at it."""
    if not any(segment["p_memsz"] for segment in loaded):
        raise UsageError("has no segment to load; link it as an executable")
    for kind in ("p_paddr", "p_vaddr"):
        for segment in loaded:
            into = entry - int(segment[kind])
            if 0 <= into < segment["p_memsz"]:
                return int(segment["p_paddr"]) + into
    raise UsageError(f"its entry {entry:#x} lies in no loaded segment; link it with its entry in one")
