"""A Linux kernel is placed as the boot protocol says, or refused in one sentence, and memory is then untouched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import image
from launcher.api import DEVICE_AREA_PAGES, Boot
from shared.errors import UsageError
from shared.memory import PAGE_SIZE, GuestMemory
from tests.support.kernels import FIELDS, HEADER_END, LOAD, bzimage, field, memory_map

RAM = 0x400000
DEVICE_AREA = DEVICE_AREA_PAGES * PAGE_SIZE
PAYLOAD = bytes(range(1, 241))
GDT_DESCRIPTORS = (0x00CF9B000000FFFF, 0x00CF93000000FFFF)  # flat: code to read and execute, data to write


class Loader:
    """Loads kernels into one memory, which is empty before."""

    def __init__(self, folder: Path, memory: GuestMemory) -> None:
        self.path, self.memory = folder / "kernel", memory
        self.warnings: list[str] = []

    def load(self, content: bytes, *args: str, initrd: bytes | Path | None = None) -> Boot:
        self.path.write_bytes(content)
        if isinstance(initrd, bytes):
            file = self.path.with_name("initrd")
            file.write_bytes(initrd)
            initrd = file
        path = None if initrd is None else str(initrd)
        return image.load(self.path, self.memory, RAM, args, path, self.warnings.append)

    def zero_page(self, boot: Boot) -> memoryview:
        return self.memory.view(boot.registers["esi"], 4096)

    def refusal(self, content: bytes, *args: str, initrd: bytes | Path | None = None) -> str:
        """Return why it is refused, without the path that it must begin with."""
        with pytest.raises(UsageError) as caught:
            self.load(content, *args, initrd=initrd)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert not self.warnings
        assert is_empty(self.memory, 0, self.memory.size), "memory was touched"
        return sentence.removeprefix(f"image {self.path}: ")


def is_empty(memory: GuestMemory, addr: int, length: int) -> bool:
    return memory.view(addr, length) == bytes(length)


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Loader]:
    with GuestMemory.create(RAM + DEVICE_AREA) as memory:
        yield Loader(tmp_path, memory)


def text(memory: GuestMemory, addr: int) -> bytes:
    return bytes(memory.view(addr, 4096)).partition(b"\0")[0]


# ---- Where it goes ----


def test_the_kernel_goes_to_1_mib_and_is_entered_there(loader: Loader) -> None:
    boot = loader.load(bzimage(PAYLOAD))
    assert boot.entry == LOAD
    assert loader.memory.view(LOAD, len(PAYLOAD) + 1) == PAYLOAD + b"\0"
    assert loader.warnings == []


def test_setup_sectors_are_skipped_and_none_means_four(loader: Loader) -> None:
    for sectors in (0, 1, 31, 64):
        loader.load(bzimage(PAYLOAD, sectors))
        assert loader.memory.view(LOAD, len(PAYLOAD)) == PAYLOAD


def test_what_comes_after_the_code_is_not_loaded(loader: Loader) -> None:
    loader.load(bzimage(PAYLOAD) + b"a signature")
    assert not any(loader.memory.view(LOAD + len(PAYLOAD), 32))


def test_a_kernel_that_can_move_goes_where_it_would_like_to_be(loader: Loader) -> None:
    boot = loader.load(bzimage(PAYLOAD, relocatable_kernel=1, kernel_alignment=0x1000, pref_address=0x234000))
    assert boot.entry == field(loader.zero_page(boot), "code32_start") == 0x234000
    assert loader.memory.view(0x234000, len(PAYLOAD)) == PAYLOAD


def test_one_that_can_move_goes_lower_where_there_is_no_room(loader: Loader) -> None:
    boot = loader.load(bzimage(PAYLOAD, relocatable_kernel=1, kernel_alignment=0x200000, pref_address=0x1000000))
    assert boot.entry == 0x200000


def test_an_old_kernel_that_can_move_says_no_preference(loader: Loader) -> None:
    old = bzimage(PAYLOAD, version=0x205, relocatable_kernel=1, kernel_alignment=0x1000, pref_address=0x234000)
    assert loader.load(old).entry == LOAD


# ---- What it is told ----


def test_the_registers_and_segments_are_those_of_the_32_bit_protocol(loader: Loader) -> None:
    boot = loader.load(bzimage(PAYLOAD))
    assert set(boot.registers) == {"esi", "esp"}  # EBP, EDI, EBX: zero
    segments = boot.segments
    assert (segments.code_selector, segments.data_selector) == (0x10, 0x18)
    gdt = bytes(loader.memory.view(segments.gdt, segments.gdt_size))
    assert gdt[0x10:] == b"".join(descriptor.to_bytes(8, "little") for descriptor in GDT_DESCRIPTORS)


def test_the_header_is_copied_and_what_the_loader_has_to_say_is_said(loader: Loader) -> None:
    content = bzimage(PAYLOAD, kernel_alignment=0x1234, ramdisk_image=7, ramdisk_size=7)
    page = loader.zero_page(loader.load(content))
    written = {"type_of_loader": 0xFF, "loadflags": 0x81, "vid_mode": 0xFFFF, "ramdisk_image": 0, "ramdisk_size": 0}
    for name, value in written.items():
        assert field(page, name) == value, name
    for name in set(FIELDS) - set(written) - {"jump", "header", "heap_end_ptr", "cmd_line_ptr"}:
        assert field(page, name) == field(content, name), name
    assert field(page, "heap_end_ptr") == 0xE000 - 0x200


def test_nothing_of_the_page_is_filled_but_header_and_map(loader: Loader) -> None:
    page = loader.zero_page(loader.load(bzimage(PAYLOAD)))
    assert not any(page[:0x1E8])
    assert not any(page[0x1E9:0x1F1])
    assert not any(page[HEADER_END:0x2D0])
    assert not any(page[0x2D0 + 3 * 20 :])


def test_a_header_that_claims_to_be_longer_than_can_be_ends_where_it_must(loader: Loader) -> None:
    content = bytearray(bzimage(PAYLOAD, jump=(0xEB, 0xFF)))
    content[HEADER_END:0x400] = b"\xff" * (0x400 - HEADER_END)
    page = loader.zero_page(loader.load(bytes(content)))
    assert not any(page[0x290:0x2D0])


def test_the_map_has_low_memory_ram_and_the_device_area_which_is_reserved(loader: Loader) -> None:
    assert memory_map(loader.zero_page(loader.load(bzimage(PAYLOAD)))) == [
        (0, 0xA0000, 1),
        (0x100000, RAM - 0x100000, 1),
        (RAM, DEVICE_AREA, 2),
    ]


@pytest.mark.parametrize("args", [(), ("root=/dev/vda", "two words", ""), ("\udcff",)])
def test_the_command_line_is_the_device_page_and_the_arguments(args: Sequence[str], loader: Loader) -> None:
    boot = loader.load(bzimage(PAYLOAD), *args)
    addr = field(loader.zero_page(boot), "cmd_line_ptr")
    expected = b" ".join([b"lguest.device_page=0x00400000", *map(os.fsencode, args)])
    assert text(loader.memory, addr) == expected
    assert addr + len(expected) < 0xA0000


@pytest.mark.parametrize(
    ("fields", "most"),
    [({}, 2047), ({"cmdline_size": 100}, 100), ({"version": 0x205}, 255), ({"cmdline_size": 9999}, 8191)],
)
def test_a_command_line_that_the_kernel_would_cut_off_is_refused(
    fields: dict[str, int], most: int, loader: Loader
) -> None:
    room = most - len("lguest.device_page=0x00400000 ")
    assert loader.refusal(bzimage(PAYLOAD, **fields), "x" * (room + 1)) == (
        f"takes a command line of {most} bytes, and with its arguments it has {most + 1}; give fewer"
    )
    boot = loader.load(bzimage(PAYLOAD, **fields), "x" * room)
    assert bytes(loader.memory.view(field(loader.zero_page(boot), "cmd_line_ptr"), 9999)).index(0) == most


# ---- The initrd ----


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 0x200000])
def test_the_initrd_is_at_the_top_of_memory_page_aligned(size: int, loader: Loader) -> None:
    disk = os.urandom(size)
    page = loader.zero_page(loader.load(bzimage(PAYLOAD), initrd=disk))
    addr = field(page, "ramdisk_image")
    assert addr == (RAM - size) & -4096
    assert field(page, "ramdisk_size") == size
    assert loader.memory.view(addr, size) == disk


@pytest.mark.parametrize(
    ("fields", "end"), [({"initrd_addr_max": 0x2FFFFF}, 0x300000), ({"initrd_addr_max": 0x2FFFFE}, 0x2FFFFF)]
)
def test_the_initrd_is_below_what_the_kernel_allows(fields: dict[str, int], end: int, loader: Loader) -> None:
    page = loader.zero_page(loader.load(bzimage(PAYLOAD, **fields), initrd=b"x" * 5000))
    assert field(page, "ramdisk_image") == (end - 5000) & -4096


def test_an_initrd_may_reach_down_to_what_the_kernel_needs_and_no_further(loader: Loader) -> None:
    kernel = bzimage(PAYLOAD, init_size=0x100000)
    assert loader.refusal(kernel, initrd=bytes(0x200001)) == (
        "its initrd does not fit: 0x200001 bytes between the kernel (0x200000) and 0x400000; give more with --memory"
    )
    assert field(loader.zero_page(loader.load(kernel, initrd=b"x" * 0x200000)), "ramdisk_image") == 0x200000


def test_an_initrd_that_the_kernel_leaves_no_room_for_is_refused(loader: Loader) -> None:
    assert loader.refusal(bzimage(PAYLOAD, initrd_addr_max=0x1FFFFF), initrd=bytes(0x100000)) == (
        "its initrd does not fit: 0x100000 bytes between the kernel (0x1000f0) and 0x200000; give a smaller one: the "
        "kernel allows no more"
    )


def test_an_initrd_that_is_empty_is_refused(loader: Loader) -> None:
    assert loader.refusal(bzimage(PAYLOAD), initrd=b"") == "its initrd is empty; leave out --initrd"


def test_an_initrd_that_is_no_file_is_refused_without_waiting_for_it(loader: Loader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    kernel = bzimage(PAYLOAD)
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        assert (
            loader.refusal(kernel, initrd=path) == f"initrd {path}: is not a regular file; give the file of an initrd"
        )
    assert loader.refusal(kernel, initrd=tmp_path) == f"initrd {tmp_path}: is a directory; give the file of an initrd"
    missing = tmp_path / "none"
    assert loader.refusal(kernel, initrd=missing) == f"initrd {missing}: no such file; give the file of an initrd"


def test_an_initrd_larger_than_memory_is_refused_without_reading_it_all(loader: Loader, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(10 << 30)  # sparse
    assert loader.refusal(bzimage(PAYLOAD), initrd=path) == (
        f"initrd {path}: over 4 MiB, all of the memory there is; give more with --memory"
    )


def test_only_a_linux_kernel_takes_an_initrd(loader: Loader, tmp_path: Path) -> None:
    refused = loader.refusal(b"\x7fELF" + bytes(100), initrd=b"x")
    assert refused == "is no Linux kernel and takes no initrd; leave out --initrd"


# ---- What cannot be run ----

KERNEL = bzimage(PAYLOAD)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (KERNEL[:0x207], "is truncated: 0x207 bytes end within the header of a kernel; copy it again"),
        (KERNEL[:0x22F], "is a corrupt kernel (its header ends after 0x3e bytes); build it again"),
        (KERNEL[:0x300], "is truncated: its code ends at byte 0x4f0, the file at 0x300; copy it again"),
        (KERNEL[:-1], "is truncated: its code ends at byte 0x4f0, the file at 0x4ef; copy it again"),
        (bzimage(PAYLOAD, boot_flag=0), "is a corrupt kernel (boot flag 0x0, not 0xaa55); build it again"),
        (bzimage(PAYLOAD, jump=(0xEB, 0)), "is a corrupt kernel (its header ends after 0x11 bytes); build it again"),
        (
            bzimage(PAYLOAD, version=0x203),
            "is a kernel of boot protocol 2.03; the oldest that says how large a kernel is, and can be loaded, is 2.04 "
            "(Linux 2.6.14)",
        ),
        (bzimage(PAYLOAD, loadflags=0), "is a zImage, which is loaded into low memory; build a bzImage"),
        (
            bzimage(PAYLOAD, xloadflags=1),
            "is a 64-bit kernel, and the processor of this machine has 32; build it for i386",
        ),
        (bzimage(b""), "is a corrupt kernel (of no bytes of protected-mode code); build it again"),
        (
            bzimage(PAYLOAD, code32_start=0x10000),
            "is a corrupt kernel (a bzImage for 0x10000, in low memory); build it again",
        ),
        (
            bzimage(PAYLOAD, relocatable_kernel=1, kernel_alignment=0x1800),
            "is a corrupt kernel (aligned to 0x1800, no power of two); build it again",
        ),
        (
            bzimage(PAYLOAD, pref_address=0xFF000),
            "is a corrupt kernel (it would run at 0xff000, in low memory); build it again",
        ),
        (
            bzimage(PAYLOAD, init_size=0x300001),
            "does not fit: a kernel with what it needs to start of 0x300001 bytes at 0x100000 ends at 0x400001, past "
            "the end of RAM (0x400000); give more with --memory",
        ),
        (
            bzimage(PAYLOAD, pref_address=2**64 - 1),
            "does not fit: a kernel with what it needs to start of 0xfffffffffff000ef bytes at 0x100000 ends at "
            "0x100000000000000ef, past the end of RAM (0x400000); RAM has 3072 MiB at most, so build it for less",
        ),
        (
            bzimage(PAYLOAD, code32_start=0xFFFFFFFF),
            "does not fit: a kernel with what it needs to start of 0xf0 bytes at 0xffffffff ends at 0x1000000ef, past "
            "the end of RAM (0x400000); RAM has 3072 MiB at most, so build it for less",
        ),
    ],
    ids=[
        "magic alone",
        "half a header",
        "no code",
        "a byte short",
        "boot flag",
        "no header",
        "protocol",
        "zImage",
        "64 bits",
        "empty",
        "low start",
        "alignment",
        "moves low",
        "needs more",
        "moves too high",
        "starts too high",
    ],
)
def test_what_cannot_be_run_is_refused_with_the_remedy(content: bytes, why: str, loader: Loader) -> None:
    assert loader.refusal(content) == why


def named(name: bytes, **fields: int) -> bytes:
    content = bytearray(bzimage(PAYLOAD, 2, kernel_version=0x100, **fields))
    content[0x300 : 0x300 + len(name)] = name
    return bytes(content)


def test_a_kernel_that_says_it_is_linux_is_started_with_a_warning(loader: Loader) -> None:
    loader.load(named(b"6.1.0-test (somebody@somewhere) #1"))
    (warning,) = loader.warnings
    assert warning.startswith(
        f"image {loader.path}: is Linux (6.1.0-test), and this machine has no interrupt controller"
    )


def test_a_64_bit_kernel_is_named(loader: Loader) -> None:
    assert loader.refusal(named(b"6.1.0-amd64 x", xloadflags=0x3F)).startswith("is a 64-bit kernel (6.1.0-amd64), and ")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (named(b"\x1b[31m\n\xff"), "?[31m??"),
        (named(b"x" * 500), "x" * 80),
        (named(b""), "of no name"),
        (bzimage(PAYLOAD, kernel_version=0xFFFF), "of no name"),
    ],
    ids=["escapes", "endless", "nothing", "outside"],
)
def test_what_a_kernel_calls_itself_is_fit_for_a_terminal(content: bytes, shown: str, loader: Loader) -> None:
    loader.load(content)
    (warning,) = loader.warnings
    assert f": is Linux ({shown[:80]}" in warning
    assert warning.isprintable()


# ---- Anything at all ----

HEADER_BYTES = st.lists(
    st.tuples(
        st.sampled_from([offset for offset, _ in FIELDS.values()]) | st.integers(0x1F1, 0x270),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)
SIZES = st.none() | st.integers(0, len(KERNEL))


@settings(max_examples=300, deadline=None)
@given(mutations=HEADER_BYTES, length=SIZES, disk=st.none() | st.binary(max_size=3))
def test_a_mutated_kernel_loads_or_is_refused_and_nothing_else(
    mutations: list[tuple[int, bytes]], length: int | None, disk: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(KERNEL)
    for offset, new in mutations:
        content[offset : offset + len(new)] = new
    with GuestMemory.create(RAM + DEVICE_AREA) as memory:
        loader = Loader(tmp_path_factory.getbasetemp(), memory)
        with contextlib.suppress(UsageError):
            boot = loader.load(bytes(content[:length]), initrd=disk)
            assert 0x100000 <= boot.entry < RAM
        assert is_empty(memory, RAM, DEVICE_AREA), "the device area is no RAM"


def test_a_kernel_that_is_cut_off_anywhere_is_refused(loader: Loader) -> None:
    for length in (*range(0, 0x1F1, 31), *range(0x1F1, 0x270), *range(0x270, len(KERNEL), 31)):
        assert loader.refusal(KERNEL[:length])
