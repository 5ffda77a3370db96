"""What a Guest of machine code can say, and what becomes of one that says nonsense: a reason, never a traceback."""

from __future__ import annotations

import pytest

from launcher.api import Died, Notify, Restart, Shutdown
from launcher.engines.hypercalls import PORT_CRASH, PORT_NOTIFY, PORT_RESTART, PORT_SHUTDOWN
from shared.memory import GuestMemory
from tests.kvm.conftest import DEVICE_PAGE, MEMORY_SIZE, BootCode, BootImage
from tests.support.machine_code import CODE, UD2, mov_eax, out

REASON = 0x8000
PAST_MEMORY = f"past guest memory ({MEMORY_SIZE:#x})"


def died_at(code_before: bytes, what: str) -> Died:
    return Died(f"{what}, at eip {CODE + len(code_before):#x}")


@pytest.mark.parametrize("addr", [0, DEVICE_PAGE, MEMORY_SIZE, 0xFFFFFFFF])
def test_a_notification_names_any_address(addr: int, boot_code: BootCode) -> None:
    assert boot_code(out(PORT_NOTIFY, addr)).run() == Notify(addr)


def test_a_shutdown_ends_the_guest(boot_code: BootCode) -> None:
    assert boot_code(out(PORT_SHUTDOWN, 0)).run() == Shutdown()


def test_a_guest_can_ask_for_a_restart(boot_code: BootCode) -> None:
    assert boot_code(out(PORT_RESTART, 0)).run() == Restart()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"no console\0 and what follows is not read", "no console"),
        ("zu spät\0".encode(), "zu spät"),
        (b"\x1b[2J\x07\r\n\0", r"\x1b[2J\x07\r\n"),
        ("left \u202e right\0".encode(), r"left \u202e right"),
        (b"\xff\xfe\0", r"\xff\xfe"),
        (b"A" * 300, "A" * 256),
        (b"\0", "crashed without a reason"),
    ],
)
def test_a_crash_reason_is_shown_as_plain_text(
    said: bytes, shown: str, boot_code: BootCode, memory: GuestMemory
) -> None:
    memory.view(REASON, len(said))[:] = said
    assert boot_code(out(PORT_CRASH, REASON)).run() == Died(shown)


def test_a_crash_reason_ends_where_memory_ends(boot_code: BootCode, memory: GuestMemory) -> None:
    memory.view(MEMORY_SIZE - 3, 3)[:] = b"end"
    assert boot_code(out(PORT_CRASH, MEMORY_SIZE - 3)).run() == Died("end")


@pytest.mark.parametrize("addr", [MEMORY_SIZE, 0xFFFFFFFF])
def test_a_crash_reason_outside_memory_is_said_to_be(addr: int, boot_code: BootCode) -> None:
    assert boot_code(out(PORT_CRASH, addr)).run() == Died(f"crashed with a reason at {addr:#x}, {PAST_MEMORY}")


def test_an_unknown_port_is_no_hypercall(boot_code: BootCode) -> None:
    died = boot_code(out(0x3F8, 0)).run()
    assert isinstance(died, Died)
    assert died.reason.startswith("out to port 0x3f8 (1 times 4 bytes), which is no hypercall, at eip 0x20")


def test_a_hypercall_of_another_size_is_none(boot_code: BootCode) -> None:
    set_port = out(PORT_NOTIFY, 0)[:-1]
    died = boot_code(set_port + b"\xee").run()  # outb
    assert isinstance(died, Died)
    assert died.reason.startswith("out to port 0x600 (1 times 1 bytes), which is no hypercall")


def test_reading_a_hypercall_is_none(boot_code: BootCode) -> None:
    set_port = out(PORT_NOTIFY, 0)[:-1]
    died = boot_code(set_port + b"\xed").run()  # inl
    assert isinstance(died, Died)
    assert died.reason.startswith("in from port 0x600 (1 times 4 bytes), which is no hypercall")


def test_a_read_outside_memory_ends_the_guest(boot_code: BootCode) -> None:
    died = boot_code(b"\xa1" + MEMORY_SIZE.to_bytes(4, "little")).run()
    assert isinstance(died, Died)
    assert died.reason.startswith(f"read 4 bytes at {MEMORY_SIZE:#x}, {PAST_MEMORY}, at eip")


def test_a_write_outside_memory_ends_the_guest(boot_code: BootCode) -> None:
    died = boot_code(mov_eax(1) + b"\xa3" + (0xFEE00000).to_bytes(4, "little")).run()
    assert isinstance(died, Died)
    assert died.reason.startswith(f"wrote 4 bytes at 0xfee00000, {PAST_MEMORY}, at eip")


def test_an_exception_without_a_handler_is_a_triple_fault(boot_code: BootCode) -> None:
    died = boot_code(UD2).run()
    assert isinstance(died, Died)
    assert died.reason.startswith("triple fault, at eip ")


def test_a_jump_out_of_memory_ends_the_guest(boot_code: BootCode) -> None:
    died = boot_code(mov_eax(MEMORY_SIZE) + b"\xff\xe0").run()
    assert isinstance(died, Died)
    assert f"{MEMORY_SIZE:#x}" in died.reason


def test_a_built_in_guest_says_so_when_it_raises_an_exception(boot_image: BootImage, memory: GuestMemory) -> None:
    # The Guest's own tables are in place by the time it reaches its main, which is wiped out here.
    vcpu = boot_image("idle")
    image = memory.view(0x100000, 0x1000)
    halt = bytes(image).index(b"\xfb\xf4")
    image[halt : halt + 2] = UD2
    assert vcpu.run() == Died("the Guest's code raised a processor exception")
