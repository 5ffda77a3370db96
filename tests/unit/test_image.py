"""An image is loaded as it says, or refused in one sentence with the remedy, and memory is then untouched."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launcher.guests
from launcher import image
from shared.errors import UsageError
from shared.memory import GuestMemory
from tests.support.fds import no_new_fds

ECHO = (Path(launcher.guests.__file__).parent / "i386" / "echo.elf").read_bytes()
RAM = 0x200000
BASE = 0x100000

# Offsets in an ELF32 header and in a program header (System V ABI, chapters 4 and 5).
E_CLASS, E_DATA, E_TYPE, E_MACHINE, E_ENTRY, E_PHOFF, E_PHNUM = 4, 5, 16, 18, 24, 28, 44
E_SHOFF, E_SHENTSIZE = 32, 46
HEADER, PROGRAM_HEADER = struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIII")
PT_LOAD, PT_DYNAMIC = 1, 2
MAX_SECTION_BYTES = 60 << 20
KINDS = "an image is an ELF file or a bzImage, and a flat binary is given as flat:FILE"


def elf(*segments: tuple[int, bytes, int], entry: int = BASE) -> bytes:
    """Build an image of segments: physical address, bytes, size in memory."""
    data_at = HEADER.size + PROGRAM_HEADER.size * len(segments)
    ident = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    header = HEADER.pack(ident, 2, 3, 1, entry, HEADER.size, 0, 0, 52, 32, len(segments), 0, 0, 0)
    headers, data = b"", b""
    for addr, content, size in segments:
        headers += PROGRAM_HEADER.pack(PT_LOAD, data_at + len(data), addr, addr, len(content), size, 5, 1)
        data += content
    return header + headers + data


def patched(offset: int, form: str, value: int, content: bytes = ECHO) -> bytes:
    changed = bytearray(content)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def load(tmp_path: Path, content: bytes, memory: GuestMemory) -> int:
    path = tmp_path / "image"
    path.write_bytes(content)
    return image.load(path, memory, RAM, warn=pytest.fail).entry


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory.create(RAM + 0x10000)


def refusal(tmp_path: Path, content: bytes, memory: GuestMemory) -> str:
    """Return why `content` is refused, without the path that it must begin with."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, content, memory)
    sentence = str(caught.value)
    start = f"image {tmp_path / 'image'}: "
    assert sentence.startswith(start)
    assert "\n" not in sentence
    assert not any(memory.view(0, memory.size)), "memory was touched"
    return sentence.removeprefix(start)


def test_a_built_in_image_is_copied_to_its_physical_address(tmp_path: Path, memory: GuestMemory) -> None:
    assert load(tmp_path, ECHO, memory) == BASE
    offset, filled = struct.unpack_from("<I8xI", ECHO, HEADER.size + 4)
    assert memory.view(BASE, filled) == ECHO[offset : offset + filled]


def test_what_the_file_does_not_fill_is_zeroed(tmp_path: Path, memory: GuestMemory) -> None:
    memory.view(0, RAM)[:] = b"\xff" * RAM
    assert load(tmp_path, elf((BASE, b"code", 0x800), (0x1000, b"", 8)), memory) == BASE
    assert memory.view(BASE, 0x801) == b"code" + bytes(0x800 - 4) + b"\xff"
    assert memory.view(0x1000, 9) == bytes(8) + b"\xff"


def test_a_large_empty_segment_is_zeroed_to_its_end(tmp_path: Path, memory: GuestMemory) -> None:
    memory.view(0, RAM)[:] = b"\xff" * RAM
    load(tmp_path, elf((0, b"\x01", RAM), entry=0), memory)
    assert bytes(memory.view(0, RAM)) == b"\x01" + bytes(RAM - 1)


def test_an_image_may_fill_ram_to_the_last_byte(tmp_path: Path, memory: GuestMemory) -> None:
    assert load(tmp_path, elf((RAM - 4, b"last", 4), entry=RAM - 1), memory) == RAM - 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, memory: GuestMemory) -> None:
    with pytest.raises(UsageError, match=r"/none: no such file; `launcher list guests` names the built-in ones$"):
        image.load(tmp_path / "none", memory, RAM)


def test_a_directory_is_refused(tmp_path: Path, memory: GuestMemory) -> None:
    with no_new_fds(), pytest.raises(UsageError, match=r": is a directory; give the file of an image$"):
        image.load(tmp_path, memory, RAM)


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(
    path: str, tmp_path: Path, memory: GuestMemory
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with no_new_fds(), pytest.raises(UsageError, match=r": is not a regular file; give the file of an image$"):
        image.load(tmp_path / path, memory, RAM)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, memory: GuestMemory) -> None:
    path = tmp_path / "image"
    path.touch(mode=0)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(UsageError, match=r": not readable \(Permission denied\); give a file that you may read$"):
            image.load(path, memory, RAM)
    finally:
        os.seteuid(uid)


def test_a_path_with_a_nul_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(UsageError, match=r"^image 'a\\x00b': embedded null byte; give the file of an image$"):
        image.load("a\0b", memory, RAM)


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path, memory: GuestMemory) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(10 << 30)  # sparse
    with pytest.raises(UsageError, match=r": over 64 MiB, the most that is read; strip it$"):
        image.load(path, memory, RAM)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", f"is empty; {KINDS}"),
        (b"#!/bin/sh\n", f"is not an image: it begins with 23 21 2f 62; {KINDS}"),
        (b"\x7fEL", f"is not an image: it begins with 7f 45 4c; {KINDS}"),
        (
            patched(E_MACHINE, "<H", 62),
            "is for another machine (EM_X86_64, ELFCLASS32, ELFDATA2LSB); compile it with -m32 for i386",
        ),
        (patched(E_TYPE, "<H", 3), "is no executable (ET_DYN); link it with -static -no-pie"),
        (patched(E_PHNUM, "<H", 0xFFFF), "has 65535 program headers, over 64; build it again"),
        (patched(E_PHNUM, "<H", 0), "has no segment to load; link it as an executable"),
        (
            patched(E_ENTRY, "<I", 0x1000),
            "its entry 0x1000 lies in no loaded segment; link it with its entry in one",
        ),
        (
            elf((BASE, b"code", RAM)),
            "does not fit: its segment of 0x200000 bytes at 0x100000 ends at 0x300000, past the end of RAM "
            "(0x200000); give more with --memory",
        ),
        (
            elf((0xFFFFFFFF, b"code", 4)),
            "does not fit: its segment of 0x4 bytes at 0xffffffff ends at 0x100000003, past the end of RAM "
            "(0x200000); RAM has 3072 MiB at most, so build it for less",
        ),
        (
            elf((BASE, b"code", 3)),
            "is a corrupt ELF file (a segment of 0x3 bytes holds 0x4); build it again",
        ),
        (
            elf((BASE, b"code", 4))[:-1],
            "is truncated: a segment ends at byte 0x58, the file at 0x57; copy it again",
        ),
    ],
    ids=[
        "empty",
        "script",
        "three bytes",
        "x86-64",
        "shared object",
        "65535 headers",
        "no headers",
        "stray entry",
        "larger than RAM",
        "behind 4 GiB",
        "overfull segment",
        "truncated",
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_remedy(
    content: bytes, why: str, tmp_path: Path, memory: GuestMemory
) -> None:
    assert refusal(tmp_path, content, memory) == why


def test_a_file_that_claims_millions_of_sections_is_not_searched(tmp_path: Path, memory: GuestMemory) -> None:
    content = elf((BASE, b"code", 4), (BASE, b"more", 4))
    content = patched(HEADER.size + PROGRAM_HEADER.size, "<I", PT_DYNAMIC, content)
    sections = struct.pack("<5I", 0, 0, 0, 0, 0) + struct.pack("<5I", 0xFFFFFFFF, 0, 0, 0, 0)  # sh_size: how many
    content = patched(E_SHOFF, "<I", len(content), content) + sections.ljust(MAX_SECTION_BYTES, b"\0")
    content = patched(E_SHENTSIZE, "<H", 40, content)
    assert refusal(tmp_path, content, memory).startswith("is a program for an operating system: ")


def test_an_entry_at_a_virtual_address_is_translated(tmp_path: Path, memory: GuestMemory) -> None:
    content = elf((0x1000, b"data", 4), (BASE, b"code", 4), entry=0xC0100002)
    at = HEADER.size + PROGRAM_HEADER.size + 8  # p_vaddr of the second
    assert load(tmp_path, patched(at, "<I", 0xC0100000, content), memory) == BASE + 2


def test_an_entry_that_is_physical_and_virtual_too_is_physical(tmp_path: Path, memory: GuestMemory) -> None:
    content = elf((0x1000, b"data", 4), (BASE, b"code", 4), entry=BASE)
    at = HEADER.size + 8  # p_vaddr of the first
    assert load(tmp_path, patched(at, "<I", BASE, content), memory) == BASE


@pytest.mark.parametrize(
    ("kind", "needed"), [(3, "an interpreter"), (2, "a dynamic linker"), (7, "thread-local storage")]
)
def test_a_program_for_an_operating_system_is_refused(
    kind: int, needed: str, tmp_path: Path, memory: GuestMemory
) -> None:
    content = patched(HEADER.size + PROGRAM_HEADER.size, "<I", kind, elf((BASE, b"code", 4), (BASE, b"more", 4)))
    assert refusal(tmp_path, content, memory) == (
        f"is a program for an operating system: it needs {needed}; build it freestanding"
    )


@pytest.mark.parametrize("offset", [E_CLASS, E_DATA])
def test_an_impossible_class_is_a_corrupt_file(offset: int, tmp_path: Path, memory: GuestMemory) -> None:
    assert refusal(tmp_path, patched(offset, "<B", 9), memory).startswith("is a corrupt ELF file (")


@pytest.mark.parametrize("form", [(E_CLASS, 2), (E_DATA, 2)], ids=["64 bits", "big-endian"])
def test_another_class_of_elf_is_refused(form: tuple[int, int], tmp_path: Path, memory: GuestMemory) -> None:
    offset, value = form
    assert refusal(tmp_path, patched(offset, "<B", value), memory)


@pytest.mark.parametrize("length", [4, 5, 16, 51, 52, 60, 115])
def test_a_truncated_image_is_refused(length: int, tmp_path: Path, memory: GuestMemory) -> None:
    assert refusal(tmp_path, ECHO[:length], memory)


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 0x120) | st.integers(0, len(ECHO) - 1), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(mutations=MUTATIONS, length=st.none() | st.integers(0, len(ECHO)))
def test_a_mutated_image_loads_or_is_refused_and_nothing_else(
    mutations: list[tuple[int, bytes]], length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(ECHO)
    for offset, new in mutations:
        content[offset : offset + len(new)] = new
    folder = tmp_path_factory.getbasetemp()
    with GuestMemory.create(RAM) as memory:
        with contextlib.suppress(UsageError):
            assert 0 <= load(folder, bytes(content[:length]), memory) < RAM
