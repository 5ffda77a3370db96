"""Linux kernels of a few bytes: a setup header as boot.rst has it, and a payload. No compiler is needed.

Offsets are written out here, so that the Launcher's own layouts are not what they are tested with.
"""

from __future__ import annotations

import struct
from pathlib import Path

from elftools.elf.elffile import ELFFile

SECTOR = 512
LOAD = 0x100000

# Field -> offset in the file, and its form (boot.rst, The Real-Mode Kernel Header).
FIELDS = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "vid_mode": (0x1FA, "<H"),
    "boot_flag": (0x1FE, "<H"),
    "jump": (0x200, "<BB"),
    "header": (0x202, "<4s"),
    "version": (0x206, "<H"),
    "kernel_version": (0x20E, "<H"),
    "type_of_loader": (0x210, "<B"),
    "loadflags": (0x211, "<B"),
    "code32_start": (0x214, "<I"),
    "ramdisk_image": (0x218, "<I"),
    "ramdisk_size": (0x21C, "<I"),
    "heap_end_ptr": (0x224, "<H"),
    "cmd_line_ptr": (0x228, "<I"),
    "initrd_addr_max": (0x22C, "<I"),
    "kernel_alignment": (0x230, "<I"),
    "relocatable_kernel": (0x234, "<B"),
    "xloadflags": (0x236, "<H"),
    "cmdline_size": (0x238, "<I"),
    "setup_data": (0x250, "<Q"),
    "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
}
HEADER_END = 0x26C  # of protocol 2.15


def bzimage(payload: bytes, setup_sects: int = 1, **fields: int | bytes | tuple[int, int]) -> bytes:
    """Build a kernel for 1 MiB whose protected-mode code is `payload`; `fields` are its header's, by their names."""
    payload = payload.ljust(-(-len(payload) // 16) * 16, b"\0")
    setup = bytearray((1 + (setup_sects or 4)) * SECTOR)
    header: dict[str, int | bytes | tuple[int, int]] = {
        "setup_sects": setup_sects,
        "syssize": len(payload) // 16,
        "boot_flag": 0xAA55,
        "jump": (0xEB, HEADER_END - 0x202),
        "header": b"HdrS",
        "version": 0x20F,
        "loadflags": 1,
        "code32_start": LOAD,
        "initrd_addr_max": 0x7FFFFFFF,
        "cmdline_size": 2047,
        "init_size": len(payload),
    }
    for name, value in (header | fields).items():
        offset, form = FIELDS[name]
        struct.pack_into(form, setup, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(setup) + payload


def field(zero_page: bytes | memoryview, name: str) -> int:
    """Read a field of the header in a zero page, where it stands at the offset it has in the file."""
    offset, form = FIELDS[name]
    value: int = struct.unpack_from(form, zero_page, offset)[0]
    return value


def memory_map(zero_page: bytes | memoryview) -> list[tuple[int, int, int]]:
    """Return the ranges of a zero page's E820 map: address, size, type."""
    return [struct.unpack_from("<QQI", zero_page, 0x2D0 + 20 * n) for n in range(zero_page[0x1E8])]


def flatten(elf: Path) -> bytes:
    """Return what an ELF image of ours puts at 1 MiB and behind, without the zeroes at its end."""
    content = bytearray()
    with elf.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            if data := segment.data():
                content = content.ljust(segment["p_paddr"] - LOAD, b"\0")
                content += data
    return bytes(content)


def wrap(elf: Path, **fields: int | bytes | tuple[int, int]) -> bytes:
    """Make a Linux kernel of an ELF image of ours: it is entered as one, finds its devices, and becomes the Guest."""
    guest = flatten(elf)
    here = 2 * LOAD  # the Guest is linked at 1 MiB, and is copied down there
    code = _TRAMPOLINE.replace(b"from", (here + len(_TRAMPOLINE)).to_bytes(4, "little"))
    code = code.replace(b"size", len(guest).to_bytes(4, "little"))
    return bzimage(code + guest, code32_start=here, **fields)


# Starts what lies behind it as an ELF image is started: EAX = "lgst", EBX = ESP = the device page, which it reads off
# the command line, ECX = the arguments, 63 pages behind that.
_TRAMPOLINE = b"".join(
    (
        b"\x8b\x9e\x28\x02\x00\x00",  # mov   0x228(%esi), %ebx     cmd_line_ptr
        b"\x83\xc3\x15",  #             add   $21, %ebx             past "lguest.device_page=0x"
        b"\x31\xc9",  #                 xor   %ecx, %ecx
        b"\xba\x08\x00\x00\x00",  #     mov   $8, %edx
        b"\x0f\xb6\x03",  #          1: movzbl (%ebx), %eax
        b"\x3c\x61",  #                 cmp   $'a', %al
        b"\x72\x02",  #                 jb    2f
        b"\x2c\x27",  #                 sub   $('a' - 10 - '0'), %al
        b"\x2c\x30",  #              2: sub   $'0', %al
        b"\xc1\xe1\x04",  #             shl   $4, %ecx
        b"\x09\xc1",  #                 or    %eax, %ecx
        b"\x43",  #                     inc   %ebx
        b"\x4a",  #                     dec   %edx
        b"\x75\xec",  #                 jnz   1b
        b"\x89\xcb",  #                 mov   %ecx, %ebx
        b"\x89\xdc",  #                 mov   %ebx, %esp
        b"\xbe" + b"from",  #           mov   $guest, %esi
        b"\xbf\x00\x00\x10\x00",  #     mov   $0x100000, %edi
        b"\xb9" + b"size",  #           mov   $size, %ecx
        b"\xf3\xa4",  #                 rep movsb
        b"\x8d\x8b\x00\xf0\x03\x00",  # lea   0x3f000(%ebx), %ecx
        b"\xb8\x74\x73\x67\x6c",  #     mov   $0x6c677374, %eax
        b"\xbd\x00\x00\x10\x00",  #     mov   $0x100000, %ebp
        b"\xff\xe5",  #                 jmp   *%ebp
    )
)
