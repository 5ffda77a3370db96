"""A Linux kernel for x86 (bzImage), started by the 32-bit boot protocol (Documentation/arch/x86/boot.rst).

The real-mode code at the beginning of the file never runs: it would ask a BIOS what we know. Its header is copied into
the zero page, where the kernel also finds its command line, its initrd and a map of memory:

    0x10000         zero page, then a GDT; a stack that grows down from the command line
    0x1e000         command line
    1 MiB or above  the kernel, and what it needs besides before it can look at the map (init_size)
    top of RAM      initrd, page-aligned, below what the header allows
    behind RAM      the device area: in the map, but reserved

The command line is ARGS, and before them `lguest.device_page=0x...`, which is how a kernel learns of its devices.

What cannot run is refused: another protocol, a 64-bit kernel, too little memory. What may run or not is a kernel that
names its version, for Linux itself does so: it is told apart from a payload of one's own, and the user is warned that
this machine has nothing that a stock kernel would look for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from launcher.api import DEVICE_AREA_PAGES, Boot, LinuxBoot, Segments
from launcher.image import bootparams
from launcher.image.bootparams import HEADER_LIMIT, HEADER_OFFSET, BootParams, E820Entry, SetupHeader
from launcher.image.plan import Piece, Plan, check_fit
from shared.errors import UsageError
from shared.memory import PAGE_SIZE

SECTOR = 512
HIGH_MEMORY = 0x100000
LOW_MEMORY_END = 0xA0000

# One 64 KiB segment of real mode, as boot.rst lays it out in its sample, so that heap_end_ptr tells the truth.
ZERO_PAGE = 0x10000
GDT = ZERO_PAGE + PAGE_SIZE
COMMAND_LINE = ZERO_PAGE + 0xE000
COMMAND_LINE_ROOM = 0x2000

_OLDEST = 0x204  # the first that says how large the kernel is
_NO_CMDLINE_SIZE = 255  # before 2.06
_VERSION_LIMIT = 80

_CODE_SELECTOR, _DATA_SELECTOR = 0x10, 0x18
_FLAT_CODE, _FLAT_DATA = 0x00CF9B000000FFFF, 0x00CF93000000FFFF
_GDT_BYTES = b"".join(entry.to_bytes(8, "little") for entry in (0, 0, _FLAT_CODE, _FLAT_DATA))


def is_one(content: bytes) -> bool:
    """Whether this is a Linux kernel with a setup header, of whatever kind."""
    at = HEADER_OFFSET + SetupHeader.header.offset
    return content[at : at + len(bootparams.MAGIC)] == bootparams.MAGIC


def plan(content: bytes, device_page: int, args: Sequence[str], initrd: bytes | None) -> Plan:
    """Say where kernel, initrd and zero page go; raise `UsageError` for a kernel that cannot be run here."""
    header = _read_header(content)
    setup_size = (1 + (header.setup_sects or 4)) * SECTOR
    version = _version(content[:setup_size], header)
    _check_kind(header, version)
    kernel = _protected_mode(content, header, setup_size)
    load_address = _load_address(header, len(kernel), device_page)
    end = _check_room(header, load_address, len(kernel), device_page)
    line = _command_line(header, device_page, args)
    disk = None if initrd is None else _place_initrd(header, initrd, end, device_page)
    zero_page = _fill_zero_page(_header_bytes(content, header), load_address, disk, device_page)
    pieces = [
        Piece(load_address, len(kernel), kernel),
        Piece(ZERO_PAGE, len(zero_page), zero_page),
        Piece(GDT, len(_GDT_BYTES), _GDT_BYTES),
        Piece(COMMAND_LINE, len(line), line),
    ]
    if disk is not None:
        pieces.append(disk)
    segments = Segments(_CODE_SELECTOR, _DATA_SELECTOR, GDT, len(_GDT_BYTES))
    boot = Boot(device_page, load_address, LinuxBoot(ZERO_PAGE, COMMAND_LINE, segments))
    warning = version and (
        f"is Linux ({version}), and this machine has no interrupt controller, timer, serial port or disk of a PC: "
        "a kernel that was not made for it soon stops, or dies"
    )
    return Plan(tuple(pieces), boot, warning)


def _header_bytes(content: bytes, header: SetupHeader) -> bytes:
    end = HEADER_OFFSET + SetupHeader.header.offset + header.jump_offset
    return content[HEADER_OFFSET : min(end, HEADER_LIMIT)]


def _read_header(content: bytes) -> SetupHeader:
    """Return the header with zeroes for all that this version of the protocol, or this file, does not have."""
    if len(content) < HEADER_OFFSET + SetupHeader.realmode_swtch.offset:
        raise UsageError(f"is truncated: {len(content):#x} bytes end within the header of a kernel; copy it again")
    whole = SetupHeader.from_buffer_copy(content[HEADER_OFFSET:].ljust(ctypes.sizeof(SetupHeader), b"\0"))
    if whole.boot_flag != bootparams.BOOT_FLAG:
        raise UsageError(
            f"is a corrupt kernel (boot flag {whole.boot_flag:#x}, not {bootparams.BOOT_FLAG:#x}); build it again"
        )
    if whole.version < _OLDEST:
        raise UsageError(
            f"is a kernel of boot protocol {_dotted(whole.version)}; the oldest that says how large a kernel is, and "
            f"can be loaded, is {_dotted(_OLDEST)} (Linux 2.6.14)"
        )
    known_end = max(end for version, end in bootparams.HEADER_ENDS if version <= whole.version)
    known = _header_bytes(content, whole)[: known_end - HEADER_OFFSET]
    if len(known) < bootparams.HEADER_ENDS[0][1] - HEADER_OFFSET:
        raise UsageError(f"is a corrupt kernel (its header ends after {len(known):#x} bytes); build it again")
    return SetupHeader.from_buffer_copy(known.ljust(ctypes.sizeof(SetupHeader), b"\0"))


def _check_kind(header: SetupHeader, version: str | None) -> None:
    if not header.loadflags & bootparams.LOADED_HIGH:
        raise UsageError("is a zImage, which is loaded into low memory; build a bzImage")
    if header.xloadflags & bootparams.KERNEL_64:
        named = f" ({version})" if version else ""
        raise UsageError(f"is a 64-bit kernel{named}, and the processor of this machine has 32; build it for i386")


def _version(setup: bytes, header: SetupHeader) -> str | None:
    """Return what the kernel says it is; None for one that says nothing."""
    if not header.kernel_version:
        return None
    said = setup[0x200 + header.kernel_version :][:_VERSION_LIMIT].partition(b"\0")[0].split(b" ")[0]
    return "".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in said) or "of no name"


def _protected_mode(content: bytes, header: SetupHeader, setup_size: int) -> memoryview:
    size = header.syssize * 16
    if not size:
        raise UsageError("is a corrupt kernel (of no bytes of protected-mode code); build it again")
    if setup_size + size > len(content):
        end = setup_size + size
        raise UsageError(f"is truncated: its code ends at byte {end:#x}, the file at {len(content):#x}; copy it again")
    return memoryview(content)[setup_size : setup_size + size]


def _load_address(header: SetupHeader, size: int, device_page: int) -> int:
    """Return where the kernel goes: where it would like to be, or, if that does not fit and it can move, lower."""
    if not header.relocatable_kernel:
        if header.code32_start < HIGH_MEMORY:
            raise UsageError(
                f"is a corrupt kernel (a bzImage for {header.code32_start:#x}, in low memory); build it again"
            )
        return int(header.code32_start)
    alignment = int(header.kernel_alignment)
    if not alignment or alignment & (alignment - 1):
        raise UsageError(f"is a corrupt kernel (aligned to {alignment:#x}, no power of two); build it again")
    lowest = _up(HIGH_MEMORY, alignment)
    preferred = _up(max(header.pref_address, HIGH_MEMORY), alignment)
    return preferred if preferred + max(size, header.init_size) <= device_page else lowest


def _check_room(header: SetupHeader, load_address: int, size: int, device_page: int) -> int:
    """Return where all that the kernel needs at first ends; raise `UsageError` where that is not in RAM."""
    runs_at = load_address
    if not header.relocatable_kernel and header.pref_address:
        runs_at = int(header.pref_address)  # it moves itself there
    if runs_at < HIGH_MEMORY:
        raise UsageError(f"is a corrupt kernel (it would run at {runs_at:#x}, in low memory); build it again")
    start, end = min(load_address, runs_at), max(load_address + size, runs_at + int(header.init_size))
    check_fit("a kernel with what it needs to start", start, end - start, device_page)
    return end


def _command_line(header: SetupHeader, device_page: int, args: Sequence[str]) -> bytes:
    # Ours first: Linux hands what follows a lone `--` to its init.
    line = b" ".join([f"lguest.device_page={device_page:#010x}".encode(), *map(os.fsencode, args)])
    most = min(header.cmdline_size or _NO_CMDLINE_SIZE, COMMAND_LINE_ROOM - 1)
    if len(line) > most:
        raise UsageError(f"takes a command line of {most} bytes, and with its arguments it has {len(line)}; give fewer")
    return line + b"\0"


def _place_initrd(header: SetupHeader, initrd: bytes, lowest: int, device_page: int) -> Piece:
    if not initrd:
        raise UsageError("its initrd is empty; leave out --initrd")
    end = min(device_page, header.initrd_addr_max + 1)
    addr = (end - len(initrd)) & -PAGE_SIZE
    if addr < lowest:
        remedy = "give more with --memory" if end == device_page else "give a smaller one: the kernel allows no more"
        raise UsageError(
            f"its initrd does not fit: {len(initrd):#x} bytes between the kernel ({lowest:#x}) and {end:#x}; {remedy}"
        )
    return Piece(addr, len(initrd), initrd)


def _fill_zero_page(header: bytes, load_address: int, disk: Piece | None, device_page: int) -> bytes:
    params = BootParams()
    ctypes.memmove(ctypes.addressof(params) + HEADER_OFFSET, header, len(header))
    hdr = params.hdr
    hdr.vid_mode = bootparams.VIDEO_NORMAL
    hdr.type_of_loader = bootparams.LOADER_UNDEFINED
    hdr.loadflags |= bootparams.CAN_USE_HEAP
    hdr.heap_end_ptr = COMMAND_LINE - ZERO_PAGE - 0x200
    hdr.code32_start = load_address
    hdr.cmd_line_ptr = COMMAND_LINE
    hdr.ramdisk_image, hdr.ramdisk_size = (disk.addr, disk.size) if disk else (0, 0)
    device_area = DEVICE_AREA_PAGES * PAGE_SIZE
    ranges = (
        E820Entry(0, LOW_MEMORY_END, bootparams.E820_RAM),
        E820Entry(HIGH_MEMORY, device_page - HIGH_MEMORY, bootparams.E820_RAM),
        E820Entry(device_page, device_area, bootparams.E820_RESERVED),
    )
    params.e820_table[: len(ranges)] = ranges
    params.e820_entries = len(ranges)
    return bytes(params)


def _up(addr: int, alignment: int) -> int:
    return (addr + alignment - 1) & -alignment


def _dotted(version: int) -> str:
    return f"{version >> 8}.{version & 0xFF:02}"
