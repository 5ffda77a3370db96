"""The committed Guest images, and the same built anew where there is a compiler for i386."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import launcher.guests

IMAGES = Path(launcher.guests.__file__).parent / "i386"
BUILD = IMAGES.parents[2] / "scripts" / "build-guests"


def rebuild(folder: Path) -> None:
    """Build the images into `folder`; skip the test where nothing compiles for i386."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler ({compiler}) on this machine")
    probe = [compiler, "-m32", "-ffreestanding", "-nostdlib", "-c", "-o", "/dev/null", "-xc", "/dev/null"]
    if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} does not compile for i386 (-m32)")
    subprocess.run([BUILD, folder], check=True)


def compiler_of(image: Path) -> str:
    """Return what the compiler said of itself in an image."""
    with image.open("rb") as file:
        comment = ELFFile(file).get_section_by_name(".comment")
        assert comment is not None
        return bytes(comment.data()).strip(b"\0").decode()
