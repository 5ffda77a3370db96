"""The committed Guest images are what their sources give."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher import image
from shared.memory import GuestMemory
from tests.support.images import BUILD, IMAGES, compiler_of, rebuild

GUESTS = ("echo", "spin", "idle")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guests")
    rebuild(folder)
    return folder


def skip_unless_same_compiler(rebuilt: Path) -> None:
    committed, here = compiler_of(IMAGES / "echo.elf"), compiler_of(rebuilt / "echo.elf")
    if committed != here:
        pytest.skip(f"the images were built by {committed}, this machine has {here}")


@pytest.mark.parametrize("guest", GUESTS)
def test_the_committed_image_is_what_its_source_gives(guest: str, rebuilt: Path) -> None:
    skip_unless_same_compiler(rebuilt)
    assert (rebuilt / f"{guest}.elf").read_bytes() == (IMAGES / f"{guest}.elf").read_bytes()


def test_the_build_script_finds_no_difference(rebuilt: Path) -> None:
    skip_unless_same_compiler(rebuilt)
    subprocess.run([BUILD, "--check"], check=True)


@pytest.mark.parametrize("guest", GUESTS)
def test_any_compiler_makes_an_image_that_loads(guest: str, rebuilt: Path) -> None:
    with GuestMemory.create(0x200000) as memory:
        assert image.load(rebuilt / f"{guest}.elf", memory, memory.size).entry == 0x100000


@pytest.mark.parametrize("guest", GUESTS)
def test_no_path_of_the_building_machine_gets_into_an_image(guest: str, rebuilt: Path) -> None:
    content = (rebuilt / f"{guest}.elf").read_bytes()
    assert str(IMAGES).encode() not in content
    assert str(rebuilt).encode() not in content
