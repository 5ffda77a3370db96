"""A flat binary is loaded because its user says that it is one; nothing is ever taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import image
from launcher.api import Boot
from launcher.image import flat
from shared.errors import UsageError
from shared.memory import GuestMemory

RAM = 0x200000
CODE = bytes(range(1, 200))


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(RAM + 0x10000) as memory:
        yield memory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "code"
    path.write_bytes(CODE)
    return path


def refusal(name: str, memory: GuestMemory) -> str:
    with pytest.raises(UsageError) as caught:
        image.load(name, memory, RAM)
    assert memory.view(0, memory.size) == bytes(memory.size), "memory was touched"
    return str(caught.value)


def test_it_goes_to_1_mib_and_starts_with_its_first_byte(file: Path, memory: GuestMemory) -> None:
    assert image.load(f"flat:{file}", memory, RAM) == Boot(RAM, 0x100000)
    assert memory.view(0x100000, len(CODE) + 1) == CODE + b"\0"


@pytest.mark.parametrize("addr", ["0x8000", "0", "32768", "0x1fff39"])
def test_it_goes_to_the_address_that_is_given(addr: str, file: Path, memory: GuestMemory) -> None:
    assert image.load(f"flat:{file}@{addr}", memory, RAM).entry == int(addr, 0)
    assert memory.view(int(addr, 0), len(CODE)) == CODE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flat:a", ("a", 0x100000)),
        ("flat:a@b", ("a@b", 0x100000)),
        ("flat:a@0x10", ("a", 16)),
        ("flat:a@7@0x10", ("a@7", 16)),
        ("flat:flat:a", ("flat:a", 0x100000)),
        ("a@0x10", ("a@0x10", None)),
        ("./flat:a", ("./flat:a", None)),
    ],
)
def test_what_a_name_says(name: str, expected: tuple[str, int | None]) -> None:
    assert flat.parse(name) == expected


@pytest.mark.parametrize("name", ["flat:", "flat:@16"])
def test_a_name_without_a_file_is_refused(name: str, memory: GuestMemory) -> None:
    assert refusal(name, memory) == f"image '{name}' names no file; give flat:FILE, or flat:FILE@ADDR"


def test_a_flat_binary_that_is_not_said_to_be_one_is_refused_with_the_remedy(file: Path, memory: GuestMemory) -> None:
    assert refusal(str(file), memory).endswith(" and a flat binary is given as flat:FILE")


@pytest.mark.parametrize(
    ("addr", "why"),
    [
        ("0x1fff3a", "does not fit: a flat binary of 0xc7 bytes at 0x1fff3a ends at 0x200001, past the end of RAM"),
        ("0xfffffffff", "does not fit: a flat binary of 0xc7 bytes at 0xfffffffff ends at 0x10000000c6, past the"),
        ("-1", "cannot be loaded at -0x1; give an address from 0"),
    ],
)
def test_an_address_where_it_does_not_fit_is_refused(addr: str, why: str, file: Path, memory: GuestMemory) -> None:
    assert refusal(f"flat:{file}@{addr}", memory).startswith(f"image flat:{file}@{addr}: {why}")


def test_an_empty_one_and_an_elf_file_are_refused(file: Path, memory: GuestMemory) -> None:
    file.write_bytes(b"")
    assert refusal(f"flat:{file}", memory) == f"image flat:{file}: is empty; give it an instruction"
    file.write_bytes(b"\x7fELF" + CODE)
    assert refusal(f"flat:{file}", memory) == (
        f"image flat:{file}: is an ELF file, which says itself where it goes; leave out 'flat:'"
    )


@pytest.mark.parametrize(("name", "is_it"), [("a.py", True), ("flat:a.py", False), ("a", False), ("echo", False)])
def test_which_names_are_guests_in_python(name: str, is_it: bool) -> None:
    assert image.is_python(name) is is_it
