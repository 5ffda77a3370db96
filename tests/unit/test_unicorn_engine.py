"""What is engine unicorn's alone: how it stops and tells a halt, what it does by hand, and when it is not there."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import engines, guests
from launcher.api import Boot, Broken, Died, Notify, Vcpu
from launcher.engines import hypercalls, i386, unicorn
from launcher.engines.hypercalls import FIRST_VECTOR, PORT_NOTIFY
from shared import breaker as breakers
from shared.breaker import Breaker
from shared.errors import CannotRunError, UsageError
from shared.memory import GuestMemory
from shared.page import Page
from tests.support.breakers import open_breaker
from tests.support.machine_code import CLI, CODE, HLT, SPIN, STI, UD2, mov_eax, out, place, take_interrupts
from tests.support.sessions import environment, run_launcher
from tests.support.threads import beside
from tests.support.until import until

ROOT = Path(guests.__file__).parents[2]
SIZE = 0x10000
INT3 = b"\xcc"
DIV_BY_ZERO = b"\x31\xc9\xf7\xf1"  # xor ecx, ecx; div ecx
IRET = b"\xcf"
STORE = b"\xc6\x05\x00\x80\x00\x00\x01"  # movb $1, 0x8000

BootCode = Callable[[bytes], Vcpu]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(SIZE) as memory:
        yield memory


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def breaker(page: Page) -> Iterator[Breaker]:
    breaker = breakers.create("eventfd", page)
    yield breaker
    breaker.close()


@pytest.fixture
def boot(memory: GuestMemory, breaker: Breaker) -> Iterator[BootCode]:
    """Return what boots a few bytes of machine code."""
    if reason := unicorn.why_not():
        pytest.skip(reason)
    with ExitStack() as opened:

        def boot(code: bytes) -> Vcpu:
            place(memory, code)
            vcpu = unicorn.UnicornVcpu(memory, Boot(SIZE, CODE), breaker)
            opened.callback(vcpu.close)
            return vcpu

        yield boot


def break_at_look(vcpu: Vcpu, number: int) -> None:
    """Have a break be there from this look at the flag on; `run` itself looks first, and then each block."""
    looks = itertools.count(1)
    vcpu._breaker = SimpleNamespace(is_set=lambda: next(looks) >= number)  # type: ignore[attr-defined]


# ---- What the code rests on ----


def test_a_hypercall_ends_the_run_at_once_and_not_with_its_block(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(out(PORT_NOTIFY, 1) + STORE + out(PORT_NOTIFY, 2) + SPIN)
    assert vcpu.run() == Notify(1)
    assert memory.view(0x8000, 1)[0] == 0
    assert vcpu.run() == Notify(2)
    assert memory.view(0x8000, 1)[0] == 1


def test_a_look_that_breaks_is_no_halt_even_behind_a_byte_that_could_be_one(boot: BootCode, breaker: Breaker) -> None:
    # Each of the two blocks begins behind a byte 0xf4; none of them is a HLT.
    vcpu = boot(b"\xeb\x01" + HLT + b"\xeb\x01" + HLT + b"\xeb\xfa")
    for _ in range(100):
        with beside(breaker.break_out):
            assert vcpu.run() == Broken()
        breaker.clear()
    assert not vcpu._is_halted  # type: ignore[attr-defined]


def test_a_halt_is_left_behind_it(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + HLT + out(PORT_NOTIFY, 7) + SPIN)
    vcpu.interrupt(0)
    assert [vcpu.run(), vcpu.run()] == [Notify(FIRST_VECTOR), Notify(7)]


def test_an_instruction_that_repeats_itself_is_broken_out_of(boot: BootCode, breaker: Breaker) -> None:
    rep_stosb = b"\xb9\xff\xff\xff\xff\xbf\x00\x80\x00\x00\xf3\xaa"
    vcpu = boot(b"\xfc" + rep_stosb)  # it would end past memory, after 0x8000 bytes
    breaker.break_out()
    assert vcpu.run() == Broken()
    breaker.clear()
    assert vcpu.run() == Died("wrote 1 bytes at 0x10000, past guest memory (0x10000), at eip 0x200b")


def test_a_second_exception_ends_the_guest_in_a_sentence(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + DIV_BY_ZERO)
    assert vcpu.run() == Notify(0)
    died = vcpu.run()  # the handler goes back to the same instruction
    assert isinstance(died, Died)
    assert died.reason.startswith("a second exception in the Guest, which engine unicorn cannot tell")


def test_what_a_signals_handler_raises_ends_the_run(boot: BootCode, memory: GuestMemory) -> None:
    class Enough(BaseException):
        pass

    def handle(*_: object) -> None:
        raise Enough

    counter = memory.view(0x8000, 4).cast("I")
    main = threading.main_thread().ident
    assert main is not None

    def signal_when_it_computes() -> None:
        until(lambda: counter[0], "the Guest does not compute")
        signal.pthread_kill(main, signal.SIGALRM)

    before, hook = signal.signal(signal.SIGALRM, handle), sys.unraisablehook
    try:
        for _ in range(50):
            counter[0] = 0
            vcpu = boot(b"\xff\x05\x00\x80\x00\x00\xeb\xf8")  # incl 0x8000, again and again
            with beside(signal_when_it_computes), pytest.raises(Enough):
                vcpu.run()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sys.unraisablehook is hook


def test_what_is_raised_elsewhere_meanwhile_is_not_the_guests(boot: BootCode, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread, or where an object ends: whoever is told of that otherwise is told now."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))

    class Raises:
        def __init__(self, what: BaseException) -> None:
            self._what = what

        def __del__(self) -> None:
            raise self._what

    there, here = SystemExit("in another thread"), ValueError("where an object ends")
    is_inside, is_done = threading.Event(), threading.Event()

    def raise_there() -> None:
        is_inside.wait()
        Raises(there)
        is_done.set()

    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:  # the first is run()'s own
            Raises(here)
            is_inside.set()
        return is_done.is_set()

    vcpu = boot(SPIN)
    vcpu._breaker = SimpleNamespace(is_set=look)  # type: ignore[attr-defined]
    with beside(raise_there):
        assert vcpu.run() == Broken()
    assert told == [here, there]


def test_closed_it_has_given_everything_back_and_waits_for_no_collector(breaker: Breaker) -> None:
    if reason := unicorn.why_not():
        pytest.skip(reason)
    gc.disable()
    try:
        memory = GuestMemory.create(SIZE)
        vcpu = unicorn.UnicornVcpu(memory, Boot(SIZE, CODE), breaker)
        held = [weakref.ref(vcpu._uc), weakref.ref(memory)]
        vcpu.close()
        vcpu.close()
        memory.close()
        del memory
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


# ---- What the processor does ----


def test_an_exception_goes_through_its_gate(boot: BootCode, memory: GuestMemory) -> None:
    for code, vector in ((INT3, 3), (UD2, 6), (DIV_BY_ZERO, 0), (b"\xcd\x80", 0x80), (b"\xcd\x0d", 13)):
        vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + code)
        assert vcpu.run() == Notify(vector)


def test_the_frame_is_the_processors(boot: BootCode, memory: GuestMemory) -> None:
    before = take_interrupts(memory, PORT_NOTIFY) + b"\xbc\x00\x90\x00\x00" + STI  # mov esp, 0x9000
    vcpu = boot(before + INT3)
    assert vcpu.run() == Notify(3)
    eip, selector, flags = memory.view(0x9000 - 12, 12).cast("I")
    assert (eip, selector, flags & 0x202) == (CODE + len(before) + 1, 8, 0x202)


def test_a_handler_returns_by_iret(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + INT3 + out(PORT_NOTIFY, 99) + SPIN)
    memory.view(0x5000 + 3 * 32, 1)[:] = IRET
    assert vcpu.run() == Notify(99)


def test_no_interrupt_comes_in_the_shadow_of_sti(boot: BootCode, memory: GuestMemory) -> None:
    tables = take_interrupts(memory, PORT_NOTIFY)
    vcpu = boot(tables + STI + STORE + out(PORT_NOTIFY, 1) + SPIN)
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)
    assert memory.view(0x8000, 1)[0] == 1  # after one instruction, and before the next


@pytest.mark.parametrize("code", [mov_eax(0x10) + b"\x8e\xd0", b"\x16\x17"], ids=["mov ss", "pop ss"])
def test_no_interrupt_comes_between_a_new_stack_segment_and_its_pointer(
    code: bytes, boot: BootCode, memory: GuestMemory, breaker: Breaker
) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + b"\x90" + code + STORE + out(PORT_NOTIFY, 2))
    break_at_look(vcpu, 5)  # run()'s own, up to STI, its shadow, the segment, the store
    assert vcpu.run() == Broken()
    vcpu._breaker = breaker  # type: ignore[attr-defined]
    assert memory.view(0x8000, 1)[0] == 0
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)
    assert memory.view(0x8000, 1)[0] == 1


def test_a_hypercall_at_the_end_of_its_block_is_not_forgotten_for_a_break(boot: BootCode, memory: GuestMemory) -> None:
    # Blocks end with their page.
    call = out(PORT_NOTIFY, 1)
    to_the_end = (0x3000 - len(call) - CODE - 5).to_bytes(4, "little")
    vcpu = boot(b"\xe9" + to_the_end + bytes(int.from_bytes(to_the_end, "little")) + call + SPIN)
    break_at_look(vcpu, 4)  # run()'s own, the jump, the call, what is behind it
    assert vcpu.run() == Notify(1)
    assert vcpu.run() == Broken()


def test_an_interrupt_through_another_code_segment_is_in_it(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + HLT)
    memory.view(0x3010, 8)[:] = memory.view(0x3008, 8)
    memory.view(0x4000 + 8 * FIRST_VECTOR + 2, 1)[0] = 0x10
    vcpu.interrupt(0)
    assert vcpu.run() == Notify(FIRST_VECTOR)
    assert register(vcpu, "CS") == 0x10


def register(vcpu: Vcpu, name: str) -> int:
    return int(vcpu._uc.reg_read(getattr(vcpu._x86, f"UC_X86_REG_{name}")))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "is_open"), [(0x8E, False), (0x8F, True)], ids=["interrupt gate", "trap gate"])
def test_one_gate_shuts_interrupts_out_and_the_other_does_not(
    kind: int, is_open: bool, boot: BootCode, memory: GuestMemory
) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + HLT)
    memory.view(0x4000 + 8 * FIRST_VECTOR + 5, 1)[0] = kind
    vcpu.interrupt(0)
    assert vcpu.run() == Notify(FIRST_VECTOR)
    assert bool(register(vcpu, "EFLAGS") & i386.EFLAGS_IF) is is_open


def frame_below(memory: GuestMemory, stack: int, words: int) -> list[int]:
    return list(memory.view(stack - 4 * words, 4 * words).cast("I"))


def test_an_exception_that_is_the_processors_own_pushes_an_error_code_and_an_int_does_not(
    boot: BootCode, memory: GuestMemory
) -> None:
    begin = set_idt(memory, 0x4000, 14 * 8 - 1) + b"\xbc\x00\x90\x00\x00"  # mov esp, 0x9000
    vcpu = boot(begin + STI + HLT)
    vcpu.interrupt(1)  # past the end of the IDT
    assert vcpu.run() == Notify(13)
    assert frame_below(memory, 0x9000, 4)[:3] == [(FIRST_VECTOR + 1) * 8 + 2, CODE + len(begin) + 2, 8]
    vcpu = boot(begin + b"\xcd\x0d")
    assert vcpu.run() == Notify(13)
    assert frame_below(memory, 0x9000, 3)[:2] == [CODE + len(begin) + 2, 8]
    assert register(vcpu, "ESP") == 0x9000 - 12


def test_interrupted_in_another_ring_or_with_paging_it_dies_of_that(boot: BootCode, memory: GuestMemory) -> None:
    tables = take_interrupts(memory, PORT_NOTIFY)
    memory.view(0x3018, 16)[:] = bytes.fromhex("ffff000000facf00 ffff000000f2cf00")  # for ring 3: code, data
    memory.view(0x3100, 1)[0] = 5 * 8 - 1
    ring3 = b"\x6a\x23\x68\x00\x90\x00\x00\x6a\x1b\x68"  # ss, esp 0x9000, cs, eip
    ring3 += (CODE + len(tables) + len(ring3) + 5).to_bytes(4, "little") + b"\xcb" + INT3  # retf
    for code in (ring3, GARBAGE["paging on over nothing"]):
        died = boot(tables + code).run()
        assert isinstance(died, Died)
        assert died.reason.startswith("interrupted outside of ring 0, or with paging, which engine unicorn cannot do")


@pytest.mark.parametrize("code", [CLI + STI, CLI + b"\xeb\x00" + STI], ids=["one block", "two blocks"])
def test_what_looked_like_a_shadow_hides_no_true_one(code: bytes, boot: BootCode, memory: GuestMemory) -> None:
    begin = take_interrupts(memory, PORT_NOTIFY) + STI + b"\x90" + out(PORT_NOTIFY, 1)
    vcpu = boot(begin + code + STORE + out(PORT_NOTIFY, 2))
    assert vcpu.run() == Notify(1)
    memory.view(CODE + len(begin) - 1, 1)[:] = STI  # as the last byte of a longer instruction may be
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)
    assert memory.view(0x8000, 1)[0] == 1  # were it a HLT: an interrupt before it is one that it waits for in vain


def test_a_break_in_the_shadow_does_not_end_it(boot: BootCode, memory: GuestMemory, breaker: Breaker) -> None:
    tables = take_interrupts(memory, PORT_NOTIFY)
    vcpu = boot(tables + STI + STORE + out(PORT_NOTIFY, 1))
    break_at_look(vcpu, 3)  # run()'s own, up to STI, its shadow
    assert vcpu.run() == Broken()
    vcpu._breaker = breaker  # type: ignore[attr-defined]
    assert memory.view(0x8000, 1)[0] == 0
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)
    assert memory.view(0x8000, 1)[0] == 1


def test_what_an_earlier_run_ended_with_hides_no_shadow(boot: BootCode, memory: GuestMemory, breaker: Breaker) -> None:
    begin = take_interrupts(memory, PORT_NOTIFY) + STI + b"\x90" + out(PORT_NOTIFY, 1)
    vcpu = boot(begin + CLI + STI + STORE + out(PORT_NOTIFY, 2))
    vcpu.interrupt(4)
    assert [vcpu.run(), vcpu.run()] == [Notify(FIRST_VECTOR + 4), Notify(1)]
    break_at_look(vcpu, 3)  # run()'s own, up to STI, its shadow
    assert vcpu.run() == Broken()
    vcpu._breaker = breaker  # type: ignore[attr-defined]
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)
    assert memory.view(0x8000, 1)[0] == 1


def test_a_block_that_looks_like_a_shadow_each_time_lets_an_interrupt_in(boot: BootCode, memory: GuestMemory) -> None:
    # The last byte of this jump is 0xfb, as STI is.
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + b"\x90\x90\x90\xeb\xfb")
    vcpu.interrupt(4)
    assert vcpu.run() == Notify(FIRST_VECTOR + 4)


def set_idt(memory: GuestMemory, base: int, limit: int) -> bytes:
    """Return code that loads this IDT register, on top of the usual tables."""
    code = take_interrupts(memory, PORT_NOTIFY)
    memory.view(0x7000, 6)[:] = limit.to_bytes(2, "little") + base.to_bytes(4, "little")
    return code + b"\x0f\x01\x1d" + (0x7000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("base", "limit"),
    [(0, 0), (SIZE - 4, 0x7FF), (0xFFFFFFFF, 0xFFFF), (0x8000, 0x7FF)],
    ids=["empty", "over the end of memory", "around the end of addresses", "zeroes"],
)
def test_an_interrupt_without_a_gate_is_a_triple_fault(
    base: int, limit: int, boot: BootCode, memory: GuestMemory
) -> None:
    vcpu = boot(set_idt(memory, base, limit) + STI + HLT)
    vcpu.interrupt(1)
    died = vcpu.run()
    assert isinstance(died, Died)
    assert died.reason.startswith("triple fault, at eip 0x2")


def test_an_interrupt_past_the_end_of_the_idt_is_a_protection_fault(boot: BootCode, memory: GuestMemory) -> None:
    vcpu = boot(set_idt(memory, 0x4000, 14 * 8 - 1) + STI + HLT)
    vcpu.interrupt(1)
    assert vcpu.run() == Notify(13)


@pytest.mark.parametrize(
    ("at", "gate"),
    [
        ("not present", 0x0008_0E00),
        ("of another kind", 0x0008_8500),
        ("a selector that is null", 0x0000_8E00),
        ("a selector of data", 0x0010_8E00),
        ("a selector past the GDT", 0xFFF8_8E00),
    ],
)
def test_a_gate_that_leads_nowhere_is_a_protection_fault(
    at: str, gate: int, boot: BootCode, memory: GuestMemory
) -> None:
    vcpu = boot(take_interrupts(memory, PORT_NOTIFY) + STI + HLT)
    where = 0x4000 + 8 * FIRST_VECTOR
    memory.view(where + 2, 2)[:] = (gate >> 16).to_bytes(2, "little")
    memory.view(where + 4, 2)[:] = (gate & 0xFFFF).to_bytes(2, "little")
    vcpu.interrupt(0)
    assert vcpu.run() == Notify(13), at


@pytest.mark.parametrize("esp", [0, 4, SIZE + 8, 0xFFFFFFF0])
def test_a_stack_outside_memory_ends_the_guest(esp: int, boot: BootCode, memory: GuestMemory) -> None:
    tables = take_interrupts(memory, PORT_NOTIFY)
    vcpu = boot(tables + b"\xbc" + esp.to_bytes(4, "little") + STI + HLT)
    vcpu.interrupt(1)
    died = vcpu.run()
    assert isinstance(died, Died)
    assert died.reason.startswith(f"wrote 12 bytes at {(esp - 12) % 2**32:#x}, past guest memory (0x10000), at eip ")


def test_code_that_the_guest_changes_under_its_feet_is_run_as_changed(boot: BootCode) -> None:
    # movb $2, over the number that the hypercall after it sends
    call = out(PORT_NOTIFY, 1)
    change = b"\xc6\x05" + (CODE + 7 + 1).to_bytes(4, "little") + b"\x02"
    assert boot(change + call).run() == Notify(2)


GARBAGE = {
    "zeroes": bytes(64),
    "ones": b"\xff" * 64,
    "far jump": b"\xea\x00\x00\x00\x00\x30\x00",
    "paging on over nothing": b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0",
    "real mode": b"\x31\xc0\x0f\x22\xc0",
    "task switch": b"\x0f\x00\xd8",
    "sysenter": b"\x0f\x34",
    "overwrites all of itself": b"\xfc\xbf\x00\x00\x00\x00\xb9\x00\x00\x01\x00\xb0\xf1\xf3\xaa",
}


@pytest.mark.parametrize("code", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_run_until_it_dies_or_is_broken_out(
    code: bytes, boot: BootCode, memory: GuestMemory, breaker: Breaker
) -> None:
    for tables in (b"", take_interrupts(memory, PORT_NOTIFY)):
        vcpu = boot(tables + code)
        with beside(breaker.break_out):
            while isinstance(exit_ := vcpu.run(), Notify):
                pass
        breaker.clear()
        assert isinstance(exit_, Died | Broken)
        assert not isinstance(exit_, Died) or "\n" not in exit_.reason


# ---- What is refused, and what is taken instead ----


def test_a_breaker_that_cannot_wake_it_is_refused(boot: BootCode, memory: GuestMemory, page: Page) -> None:
    with open_breaker("immediate", page) as immediate:
        with pytest.raises(UsageError, match=r"^engine unicorn: breaker 'immediate' cannot stop it; use eventfd, "):
            unicorn.UnicornVcpu(memory, Boot(SIZE, CODE), immediate)
    assert boot  # skips where there is no unicorn


WITHOUT = "import sys; sys.modules['unicorn'] = None; "


def without_unicorn(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_without_the_package_it_says_how_to_install_it() -> None:
    said = without_unicorn("from launcher.engines import unicorn; print(unicorn.why_not())")
    assert said == "the package unicorn is not installed; pip install 'lguest-launcher[unicorn]'"


def test_without_room_for_its_translations_it_says_so_instead_of_ending_the_process() -> None:
    if reason := unicorn.why_not():
        pytest.skip(reason)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)); "
    command = "from launcher import cli; sys.exit(cli.main(['run', '--engine=unicorn', 'say']))"
    done = subprocess.run(
        [sys.executable, "-c", limited + command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77
    assert done.stderr.startswith("launcher: engine 'unicorn' cannot run here: no 1024 MiB of addresses for its ")


def test_nothing_but_a_vcpu_loads_the_package() -> None:
    code = "import sys; from launcher import cli; cli.main(['list', 'guests']); assert 'unicorn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, check=True)


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away(monkeypatch, "kvm", "no /dev/kvm")


def take_away(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    gone = dataclasses.replace(engines.get(name), why_not=lambda: reason)
    monkeypatch.setitem(engines._ENGINES, name, gone)


@pytest.mark.usefixtures("no_kvm")
def test_auto_takes_unicorn_where_there_is_no_kvm(boot: BootCode) -> None:
    assert boot
    for guest in ("echo", str(guests.image_path("echo"))):
        choice = engines.choose("auto", guest)
        assert (choice.engine.name, choice.reason) == ("unicorn", "kvm: no /dev/kvm")
    assert engines.choose("auto", "guest.py").engine.name == "python"


@pytest.mark.usefixtures("no_kvm")
def test_auto_takes_python_where_there_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away(monkeypatch, "unicorn", "not installed")
    choice = engines.choose("auto", "echo")
    assert (choice.engine.name, choice.reason) == ("python", "kvm: no /dev/kvm; unicorn: not installed")
    with pytest.raises(CannotRunError, match=r"no engine here runs that: kvm: no /dev/kvm; unicorn: not installed$"):
        engines.choose("auto", str(guests.image_path("echo")))


def test_a_breaker_that_kvm_does_not_take_is_unicorns_also_for_an_image(boot: BootCode) -> None:
    assert boot
    done = run_launcher("run", "--waker=thread/select+futex", str(guests.image_path("say")), "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert b"engine unicorn (kvm: its Guest is not stopped by futex)" in done.stderr


def test_the_ports_are_those_of_the_guests_in_c() -> None:
    header = (ROOT / "launcher" / "guests" / "i386" / "guest.h").read_text()
    for name in ("NOTIFY", "SHUTDOWN", "CRASH"):
        assert f"PORT_{name} = {getattr(hypercalls, f'PORT_{name}'):#x}" in header


def test_what_the_guest_begins_with_is_what_kvm_gives_it(boot: BootCode, memory: GuestMemory) -> None:
    # eax, ebx, ecx, esp, cs and ds, each stored by an instruction of its own
    code = b"\xa3\x00\x80\x00\x00\x89\x1d\x04\x80\x00\x00\x89\x0d\x08\x80\x00\x00\x89\x25\x0c\x80\x00\x00"
    code += b"\x8c\x0d\x10\x80\x00\x00\x8c\x1d\x14\x80\x00\x00"
    assert boot(code + mov_eax(0) + out(PORT_NOTIFY, 5)).run() == Notify(5)
    begun = list(memory.view(0x8000, 24).cast("I"))
    assert begun == [0x6C677374, SIZE, Boot(SIZE).command_line, SIZE, 0x08, 0x10]
