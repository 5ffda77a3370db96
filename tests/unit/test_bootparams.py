"""The layouts of the boot protocol are what the kernel's header says: pinned, and asked of a compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.image.bootparams import HEADER_OFFSET, BootParams, E820Entry, SetupHeader
from tests.support.kernels import FIELDS

NO_NAMES = {"jump"}  # two bytes, which are two fields


@pytest.mark.parametrize("name", sorted(set(FIELDS) - NO_NAMES))
def test_a_field_of_the_header_is_where_the_protocol_has_it(name: str) -> None:
    assert HEADER_OFFSET + getattr(SetupHeader, name).offset == FIELDS[name][0]


def test_the_zero_page_is_a_page_with_its_map_where_zero_page_rst_has_it() -> None:
    assert ctypes.sizeof(BootParams) == 4096
    assert (BootParams.e820_entries.offset, BootParams.hdr.offset, BootParams.e820_table.offset) == (
        0x1E8,
        0x1F1,
        0x2D0,
    )
    assert ctypes.sizeof(E820Entry) == 20


def test_the_kernels_own_header_agrees(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler (gcc) on this machine")
    names = [f"hdr.{name}" for name in sorted(set(FIELDS) - NO_NAMES)] + ["e820_entries", "e820_table", "hdr"]
    lines = "".join(f'printf("%zu\\n", offsetof(struct boot_params, {name}));' for name in names)
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <asm/bootparam.h>\n"
        f'int main(void) {{ {lines} printf("%zu\\n", sizeof(struct boot_params)); return 0; }}\n'
    )
    built = subprocess.run(["gcc", "-o", tmp_path / "offsets", source], capture_output=True, text=True, check=False)
    if "bootparam.h: No such file" in built.stderr:
        pytest.skip("no asm/bootparam.h on this machine")
    assert built.returncode == 0, built.stderr
    said = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout
    ours = [HEADER_OFFSET + getattr(SetupHeader, name.removeprefix("hdr.")).offset for name in names[:-3]]
    assert [int(line) for line in said.split()] == [*ours, 0x1E8, 0x2D0, 0x1F1, 4096]
