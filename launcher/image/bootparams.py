"""What a Linux kernel for x86 says of itself, and what it must be told: binary layouts without logic.

Sources: Documentation/arch/x86/boot.rst (the setup header), zero-page.rst, and uapi/asm/bootparam.h. All little-endian
and packed; offsets and sizes are pinned by tests/unit/test_bootparams.py.
"""

from __future__ import annotations

from ctypes import LittleEndianStructure, c_uint8, c_uint16, c_uint32, c_uint64

HEADER_OFFSET = 0x1F1
"""Where the setup header begins, in the file and in the zero page."""

HEADER_LIMIT = 0x290
"""Where it must have ended: what follows in the zero page is something else."""

BOOT_FLAG = 0xAA55
MAGIC = b"HdrS"

# loadflags
LOADED_HIGH = 1 << 0
CAN_USE_HEAP = 1 << 7

# xloadflags
KERNEL_64 = 1 << 0

LOADER_UNDEFINED = 0xFF
VIDEO_NORMAL = 0xFFFF

E820_RAM = 1
E820_RESERVED = 2
E820_MAX = 128


class SetupHeader(LittleEndianStructure):
    """struct setup_header: the kernel's to read, some fields ours to write (boot.rst, Details of Header Fields)."""

    _pack_ = 1
    _fields_ = (
        ("setup_sects", c_uint8),
        ("root_flags", c_uint16),
        ("syssize", c_uint32),
        ("ram_size", c_uint16),
        ("vid_mode", c_uint16),
        ("root_dev", c_uint16),
        ("boot_flag", c_uint16),
        ("jump_opcode", c_uint8),
        ("jump_offset", c_uint8),
        ("header", c_uint8 * 4),
        ("version", c_uint16),
        ("realmode_swtch", c_uint32),
        ("start_sys_seg", c_uint16),
        ("kernel_version", c_uint16),
        ("type_of_loader", c_uint8),
        ("loadflags", c_uint8),
        ("setup_move_size", c_uint16),
        ("code32_start", c_uint32),
        ("ramdisk_image", c_uint32),
        ("ramdisk_size", c_uint32),
        ("bootsect_kludge", c_uint32),
        ("heap_end_ptr", c_uint16),
        ("ext_loader_ver", c_uint8),
        ("ext_loader_type", c_uint8),
        ("cmd_line_ptr", c_uint32),
        ("initrd_addr_max", c_uint32),
        ("kernel_alignment", c_uint32),
        ("relocatable_kernel", c_uint8),
        ("min_alignment", c_uint8),
        ("xloadflags", c_uint16),
        ("cmdline_size", c_uint32),
        ("hardware_subarch", c_uint32),
        ("hardware_subarch_data", c_uint64),
        ("payload_offset", c_uint32),
        ("payload_length", c_uint32),
        ("setup_data", c_uint64),
        ("pref_address", c_uint64),
        ("init_size", c_uint32),
        ("handover_offset", c_uint32),
        ("kernel_info_offset", c_uint32),
    )


class E820Entry(LittleEndianStructure):
    """struct boot_e820_entry: a range of physical addresses and what it is."""

    _pack_ = 1
    _fields_ = (("addr", c_uint64), ("size", c_uint64), ("type", c_uint32))


class BootParams(LittleEndianStructure):
    """struct boot_params, the zero page; what is padding here is zero (zero-page.rst)."""

    _pack_ = 1
    _fields_ = (
        ("padding1", c_uint8 * 0x1E8),
        ("e820_entries", c_uint8),
        ("padding2", c_uint8 * 8),
        ("hdr", SetupHeader),
        ("padding3", c_uint8 * 0x64),
        ("e820_table", E820Entry * E820_MAX),
        ("padding4", c_uint8 * 0x330),
    )


# For each version of the protocol that added fields we read: where the header then ended.
HEADER_ENDS = (
    (0x204, 0x230),
    (0x205, 0x235),
    (0x206, 0x23C),
    (0x207, 0x248),
    (0x208, 0x250),
    (0x209, 0x258),
    (0x20A, 0x264),
    (0x20B, 0x268),
    (0x20F, 0x26C),
)
