"""32-bit code in an ELF file for 64 bits is loaded as from its own kind of file; 64-bit code is refused where seen."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import image
from shared.errors import UsageError
from shared.memory import GuestMemory
from tests.support.images import IMAGES

RAM = 0x200000
BASE = 0x100000

# ELF64: header and program header (System V ABI, AMD64 supplement).
HEADER, PROGRAM_HEADER = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
PT_LOAD = 1


def elf64(
    *segments: tuple[int, int, bytes, int], entry: int = BASE, machine: int = EM_X86_64, kind: int = PT_LOAD
) -> bytes:
    """Build an image of segments: virtual and physical address, bytes, size in memory."""
    data_at = HEADER.size + PROGRAM_HEADER.size * len(segments)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = HEADER.pack(ident, 2, machine, 1, entry, HEADER.size, 0, 0, 64, 56, len(segments), 0, 0, 0)
    headers, data = b"", b""
    for virtual, addr, content, size in segments:
        headers += PROGRAM_HEADER.pack(kind, 5, data_at + len(data), virtual, addr, len(content), size, 1)
        data += content
    return header + headers + data


SMALL = elf64((BASE, BASE, b"code", 8))


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(RAM + 0x10000) as memory:
        yield memory


def load(folder: Path, content: bytes, memory: GuestMemory, warnings: list[str] | None = None) -> int:
    path = folder / "image"
    path.write_bytes(content)
    return image.load(path, memory, RAM, warn=[].append if warnings is None else warnings.append).entry


def refusal(folder: Path, content: bytes, memory: GuestMemory) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, content, memory)
    assert memory.view(0, memory.size) == bytes(memory.size), "memory was touched"
    return str(caught.value).removeprefix(f"image {folder / 'image'}: ")


@pytest.mark.parametrize("machine", [EM_386, EM_X86_64])
def test_segments_go_to_their_physical_addresses_and_the_user_is_told(
    machine: int, tmp_path: Path, memory: GuestMemory
) -> None:
    warnings: list[str] = []
    content = elf64((BASE, BASE, b"code", 8), (0xC0001000, 0x1000, b"data", 4), machine=machine)
    assert load(tmp_path, content, memory, warnings) == BASE
    assert (memory.view(BASE, 8), memory.view(0x1000, 4)) == (b"code\0\0\0\0", b"data")
    assert warnings == [
        f"image {tmp_path / 'image'}: a 64-bit ELF file is taken for 32-bit code in a wrapper; 64-bit code will crash "
        "at once"
    ]


def test_a_virtual_entry_is_translated(tmp_path: Path, memory: GuestMemory) -> None:
    assert load(tmp_path, elf64((0xC0100000, BASE, b"code", 8), entry=0xC0100004), memory) == BASE + 4


@pytest.mark.parametrize("guest", ["echo", "say"])
def test_a_wrapped_image_puts_the_same_into_memory_as_its_own_kind(
    guest: str, tmp_path: Path, memory: GuestMemory
) -> None:
    if shutil.which("objcopy") is None:
        pytest.skip("no objcopy on this machine")
    source, wrapped = IMAGES / f"{guest}.elf", tmp_path / "wrapped.elf"
    done = subprocess.run(["objcopy", "-O", "elf64-x86-64", source, wrapped], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"objcopy does not know elf64-x86-64: {done.stderr.decode()}")
    with GuestMemory.create(memory.size) as plain:
        assert image.load(wrapped, memory, RAM) == image.load(source, plain, RAM)
        assert memory.view(0, memory.size) == plain.view(0, plain.size)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            elf64((0xFFFFFFFF80100000, BASE, b"code", 4)),
            "is 64-bit code: it is linked to run at 0xffffffff80100000, past 4 GiB; compile it with -m32",
        ),
        (
            elf64((BASE, 1 << 32, b"code", 4)),
            "does not fit: its segment of 0x4 bytes at 0x100000000 ends at 0x100000004, past the end of RAM "
            "(0x200000); RAM has 3072 MiB at most, so build it for less",
        ),
        (
            elf64((BASE, 2**64 - 1, b"code", 2**64 - 1)),
            "does not fit: its segment of 0xffffffffffffffff bytes at 0xffffffffffffffff ends at 0x1fffffffffffffffe, "
            "past the end of RAM (0x200000); RAM has 3072 MiB at most, so build it for less",
        ),
        (
            elf64((BASE, BASE, b"code", 4), entry=2**64 - 1),
            "its entry 0xffffffffffffffff lies in no loaded segment; link it with its entry in one",
        ),
        (
            elf64((BASE, BASE, b"code", 4), machine=EM_AARCH64),
            "is for another machine (EM_AARCH64, ELFCLASS64, ELFDATA2LSB); compile it with -m32 for i386",
        ),
        (
            elf64((BASE, BASE, b"code", 4), kind=7),
            "is a program for an operating system: it needs thread-local storage; build it freestanding",
        ),
        (elf64(), "has no segment to load; link it as an executable"),
    ],
    ids=["high half", "past 4 GiB", "wraps round", "stray entry", "ARM", "TLS", "nothing"],
)
def test_what_cannot_be_run_is_refused(content: bytes, why: str, tmp_path: Path, memory: GuestMemory) -> None:
    assert refusal(tmp_path, content, memory) == why


def test_a_program_for_64_bit_linux_is_refused(tmp_path: Path, memory: GuestMemory) -> None:
    source = tmp_path / "program.c"
    source.write_text("int main(void) { return 0; }\n")
    if shutil.which("gcc") is None:
        pytest.skip("no compiler (gcc) on this machine")
    for flags in (["-static", "-no-pie"], ["-no-pie"], []):
        built = subprocess.run(
            ["gcc", "-m64", *flags, "-o", tmp_path / "program", source], capture_output=True, check=False
        )
        if built.returncode:
            pytest.skip("gcc builds no programs for x86-64 Linux here")
        assert refusal(tmp_path, (tmp_path / "program").read_bytes(), memory).startswith(
            ("is a program for an operating system: ", "is no executable (ET_DYN); ")
        )


@settings(max_examples=200, deadline=None)
@given(
    mutations=st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    ),
    length=st.none() | st.integers(0, len(SMALL)),
)
def test_a_mutated_image_loads_or_is_refused_and_nothing_else(
    mutations: list[tuple[int, bytes]], length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(SMALL)
    for offset, new in mutations:
        content[offset : offset + len(new)] = new
    with GuestMemory.create(RAM) as memory:
        with contextlib.suppress(UsageError):
            assert 0 <= load(tmp_path_factory.getbasetemp(), bytes(content[:length]), memory) < RAM
