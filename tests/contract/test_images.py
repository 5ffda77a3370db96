"""Every kind of image runs, by its own name on the command line, on every engine for machine code."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from launcher import engines, guests
from tests.support.kernels import flatten, wrap
from tests.support.sessions import only_sentence, run_launcher, skip_unless_it_runs

SAY = guests.image_path("say")
MACHINE_CODE = [name for name in engines.names() if name != "python"]

on_each = pytest.mark.parametrize("engine", MACHINE_CODE)


def said(engine: str, *args: str) -> tuple[bytes, str]:
    """Run `say`, in whatever kind of image, and return what it said and what the Launcher did."""
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.decode()


@on_each
def test_a_flat_binary_says_its_arguments(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "say.py"  # whatever it is called
    path.write_bytes(flatten(SAY))
    assert said(engine, f"flat:{path}", "hello", "flat world")[0] == b"hello\nflat world\n"


@on_each
def test_an_elf_file_in_a_64_bit_wrapper_says_its_arguments_after_a_warning(engine: str, tmp_path: Path) -> None:
    wrapped = tmp_path / "say64.elf"
    code = flatten(SAY)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 120, 0x100000, 0x100000, len(code), len(code) + 0x4000, 16)
    wrapped.write_bytes(header + segment + code)
    output, told = said(engine, str(wrapped), "hello")
    assert output == b"hello\n"
    assert told.splitlines()[0].endswith("taken for 32-bit code in a wrapper; 64-bit code will crash at once")


@on_each
def test_a_linux_kernel_finds_its_devices_by_its_command_line(engine: str, tmp_path: Path) -> None:
    path, disk = tmp_path / "say.bzimage", tmp_path / "initrd"
    path.write_bytes(wrap(SAY))
    disk.write_bytes(b"a disk")
    output, told = said(engine, f"--initrd={disk}", str(path), "hello", "world")
    assert output == b"hello\nworld\n"
    assert len(told.splitlines()) == 1  # which engine, which Waker, and no warning


@on_each
def test_a_kernel_that_says_it_is_linux_is_started_after_a_warning(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "say.bzimage"
    content = bytearray(wrap(SAY, setup_sects=2, kernel_version=0x100))
    content[0x300:0x306] = b"6.1.0\0"
    path.write_bytes(content)
    output, told = said(engine, str(path), "hello")
    assert output == b"hello\n"
    assert "is Linux (6.1.0), and this machine has no interrupt controller" in told.splitlines()[0]


@pytest.mark.parametrize("engine", engines.names())
def test_a_built_in_guest_takes_no_initrd(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", "--initrd=/etc/hostname", "say")
    assert (done.returncode, done.stdout) == (1, b"")
    assert only_sentence(done.stderr).endswith(" takes no initrd; leave out --initrd")


@on_each
def test_a_64_bit_kernel_is_refused_before_anything_starts(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    path = tmp_path / "kernel"
    path.write_bytes(wrap(SAY, xloadflags=1))
    done = run_launcher("run", f"--engine={engine}", str(path))
    assert (done.returncode, done.stdout) == (1, b"")
    assert only_sentence(done.stderr) == (
        f"image {path}: is a 64-bit kernel, and the processor of this machine has 32; build it for i386"
    )
