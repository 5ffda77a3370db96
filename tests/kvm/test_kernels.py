"""A Linux kernel finds on each engine what the 32-bit boot protocol promises: its own first instructions look."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from launcher import image
from launcher.api import DEVICE_AREA_PAGES, Died, Exit, Shutdown
from launcher.engines.kvm.vcpu import PORT_CRASH, PORT_SHUTDOWN
from shared.breaker import Breaker
from shared.memory import PAGE_SIZE, GuestMemory
from tests.kvm.conftest import MakeVcpu
from tests.support.images import IMAGES
from tests.support.kernels import LOAD, bzimage
from tests.support.machine_code import out

RAM = 0x400000
NOTES = 0x300000
"""Where a kernel writes what it sees, for the test to read."""

GENERAL = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")  # as the processor numbers them
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")  # likewise

CRASH = b"\xba" + PORT_CRASH.to_bytes(4, "little") + b"\xef"  # mov $port, %edx; out %eax, %dx
MOV_EAX_OFF_ESI = b"\x8b\x86"  # mov disp32(%esi), %eax
CMD_LINE_PTR, RAMDISK_IMAGE = (0x228).to_bytes(4, "little"), (0x218).to_bytes(4, "little")

# As scripts/build-guests has it.
FREESTANDING = (
    "-m32", "-march=i386", "-O2", "-std=gnu11", "-ffreestanding", "-fno-strict-aliasing", "-nostdlib", "-static",
    "-fno-pic", "-no-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
    "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none",
)  # fmt: skip

Run = Callable[..., Exit]


@pytest.fixture
def kernel_memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(RAM + DEVICE_AREA_PAGES * PAGE_SIZE) as memory:
        yield memory


@pytest.fixture
def run(tmp_path: Path, kernel_memory: GuestMemory, make_vcpu: MakeVcpu, breaker: Breaker, _opened: ExitStack) -> Run:
    """Return what runs a payload as a kernel, with arguments and an initrd, until it leaves."""

    def run(payload: bytes, *args: str, initrd: bytes | None = None) -> Exit:
        path, disk = tmp_path / "kernel", tmp_path / "initrd"
        path.write_bytes(bzimage(payload))
        disk.write_bytes(initrd or b"")
        boot = image.load(path, kernel_memory, RAM, args, str(disk) if initrd else None)
        vcpu = make_vcpu(kernel_memory, boot, breaker)
        _opened.callback(vcpu.close)
        return vcpu.run()

    return run


def note(slot: int) -> bytes:
    return (NOTES + 4 * slot).to_bytes(4, "little")


def noted(memory: GuestMemory, slot: int) -> int:
    return int.from_bytes(memory.view(NOTES + 4 * slot, 4), "little")


def test_registers_and_flags_are_as_promised(run: Run, kernel_memory: GuestMemory) -> None:
    look = b"".join(b"\x89" + bytes([0x05 | n << 3]) + note(n) for n in range(8))  # mov %reg, note
    look += b"".join(b"\x8c" + bytes([0xC0 | n << 3]) + b"\xa3" + note(8 + n) for n in range(6))  # mov %seg, %eax
    look += b"\x9c\x58\xa3" + note(14)  # pushf; pop %eax: there is a stack
    look += b"\x0f\x20\xc0\xa3" + note(15)  # mov %cr0, %eax
    assert run(look + out(PORT_SHUTDOWN, 0)) == Shutdown()
    seen = {name: noted(kernel_memory, n) for n, name in enumerate(GENERAL + SEGMENTS)}
    zero_page = seen.pop("esi")
    assert kernel_memory.view(zero_page + 0x202, 4) == b"HdrS"
    assert 0 < seen.pop("esp") <= 0xA0000
    assert {name: value & 0xFFFF for name, value in seen.items() if name in SEGMENTS} == {
        "cs": 0x10, "ds": 0x18, "es": 0x18, "ss": 0x18, "fs": 0x18, "gs": 0x18,
    }  # fmt: skip
    assert [seen[name] for name in ("ebp", "edi", "ebx")] == [0, 0, 0]
    assert not noted(kernel_memory, 14) & 1 << 9, "interrupts are on"
    assert noted(kernel_memory, 15) & (1 << 31 | 1) == 1, "paging off, protection on"


def test_the_gdt_is_there_to_load_segments_from(run: Run) -> None:
    load = b"".join(b"\x66\xb8\x18\x00\x8e" + bytes([0xC0 | n << 3]) for n in (0, 2, 3, 4, 5))  # mov $0x18, %ax; %seg
    target = LOAD + len(load) + 7
    load += b"\xea" + target.to_bytes(4, "little") + b"\x10\x00"  # ljmp $0x10
    assert run(load + out(PORT_SHUTDOWN, 0)) == Shutdown()


def test_the_command_line_is_found(run: Run) -> None:
    died = run(MOV_EAX_OFF_ESI + CMD_LINE_PTR + CRASH, "root=/dev/vda", "quiet")
    assert died == Died("lguest.device_page=0x00400000 root=/dev/vda quiet")


def test_the_initrd_is_found(run: Run) -> None:
    assert run(MOV_EAX_OFF_ESI + RAMDISK_IMAGE + CRASH, initrd=b"what is on the disk") == Died("what is on the disk")


def test_a_guest_in_c_finds_map_command_line_and_initrd(run: Run, tmp_path: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no compiler (gcc, objcopy) on this machine")
    source, linked, binary = Path(__file__).with_name("kernel.c"), tmp_path / "linked", tmp_path / "binary"
    command = ["gcc", *FREESTANDING, f"-Wl,-Ttext={LOAD:#x}", f"-I{IMAGES}", "-o", linked, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "-m32" in built.stderr:
        pytest.skip("gcc does not compile for i386 (-m32)")
    assert built.returncode == 0, built.stderr
    subprocess.run(["objcopy", "-O", "binary", linked, binary], check=True)
    disk = bytes(n * 7 & 0xFF for n in range(5000))
    assert run(binary.read_bytes(), "sum=" + str(sum(disk)), "last", initrd=disk) == Shutdown()
