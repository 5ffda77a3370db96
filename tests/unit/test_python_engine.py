"""A Guest in a .py file is a Guest: whatever it does wrong ends in `Died` and one sentence, and takes nobody along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher import engines, guests
from launcher.api import Broken, Died, Notify, Restart, Shutdown
from launcher.engines.python import REASON_LIMIT
from shared.errors import UsageError
from tests.support.fds import no_new_fds
from tests.support.vcpus import RAM, Bench, open_bench

HEAD = """
from launcher.api import Broken, Died, Notify, Restart, Shutdown
from launcher.engines.python import COMPUTE, HALT, panic
"""


@contextmanager
def opened(tmp_path: Path, source: str) -> Iterator[Bench]:
    path = tmp_path / "guest.py"
    path.write_text(HEAD + source)
    with open_bench("python", str(path)) as bench:
        yield bench


def test_a_guest_says_what_it_wants_step_by_step(tmp_path: Path) -> None:
    source = """
def run(cpu):
    yield COMPUTE
    yield Notify(cpu.device_page)
    cpu.memory.view(0x1000, 4)[:] = b"done"
    yield Shutdown()
"""
    with opened(tmp_path, source) as bench:
        assert bench.vcpu.run() == Notify(RAM)
        assert bytes(bench.memory.view(0x1000, 4)) == bytes(4)
        assert bench.vcpu.run() == Shutdown()
        assert bytes(bench.memory.view(0x1000, 4)) == b"done"


def test_a_guest_can_ask_for_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path, "def run(cpu):\n    yield Restart()\n") as bench:
        assert bench.vcpu.run() == Restart()


def test_a_halt_says_which_interrupts_ended_it(tmp_path: Path) -> None:
    source = """
def run(cpu):
    while True:
        irqs = yield HALT
        yield Notify(sum(irqs))
"""
    with opened(tmp_path, source) as bench:
        bench.vcpu.interrupt(3)
        bench.vcpu.interrupt(4)
        assert bench.vcpu.run() == Notify(7)
        bench.vcpu.interrupt(5)
        assert bench.vcpu.run() == Notify(5)


def test_only_a_halt_takes_interrupts(tmp_path: Path) -> None:
    source = """
def run(cpu):
    taken = yield COMPUTE
    yield Notify(len(taken))
    taken = yield HALT
    yield Notify(len(taken))
"""
    with opened(tmp_path, source) as bench:
        bench.vcpu.interrupt(1)
        assert bench.vcpu.run() == Notify(0)
        assert bench.vcpu.run() == Notify(1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def run(cpu):\n    yield COMPUTE", "it ran off the end of its code"),
        ("def run(cpu):\n    return 5\n    yield", "it ran off the end of its code"),
        ("def run(cpu):\n    yield 1 / 0", "ZeroDivisionError: division by zero"),
        ("def run(cpu):\n    raise ValueError('two\\nlines')\n    yield", r"ValueError: two\nlines"),
        ("def run(cpu):\n    raise ValueError('at once')", "ValueError: at once"),
        ("def run(cpu):\n    pass", "TypeError: 'NoneType' object is not iterable"),
        ("def run():\n    yield", "TypeError: run() takes 0 positional arguments but 1 was given"),
        ("def run(cpu):\n    yield COMPUTE\n    raise SystemExit(0)", "SystemExit: 0"),
        ("def run(cpu):\n    yield COMPUTE\n    raise GeneratorExit", "GeneratorExit: "),
        ("def run(cpu):\n    yield from run(cpu)", "RecursionError: maximum recursion depth exceeded"),
        ("def run(cpu):\n    panic('said why')\n    yield", "said why"),
        ("def run(cpu):\n    panic('')\n    yield", "crashed without a reason"),
        ("def run(cpu):\n    panic('\\x1b[31mred\\r\\n\\u202e\\x00')\n    yield", r"\x1b[31mred\r\n\u202e\x00"),
        (
            "def run(cpu):\n    cpu.memory.view(1 << 30, 4)\n    yield",
            "4 bytes at 0x40000000 end at 0x40000004, past guest memory (0x240000)",
        ),
    ],
)
def test_whatever_ends_a_guest_is_its_death_in_one_sentence(tmp_path: Path, source: str, reason: str) -> None:
    with opened(tmp_path, source) as bench:
        died = bench.vcpu.run()
        assert isinstance(died, Died)
        assert died.reason.startswith(reason)
        assert "\n" not in died.reason


@pytest.mark.parametrize(
    "wanted",
    ["None", "42", "'HALT'", "Broken()", "Died('me')", "Notify('x')", "Notify([])", "Notify(None)", "Notify", "..."],
)
def test_a_guest_that_yields_nonsense_dies_of_it(tmp_path: Path, wanted: str) -> None:
    with opened(tmp_path, f"def run(cpu):\n    yield {wanted}\n    yield Shutdown()") as bench:
        died = bench.vcpu.run()
        assert isinstance(died, Died)
        assert died.reason.startswith("it yielded ")
        assert "HALT, COMPUTE, Notify(addr), Shutdown() or Restart()" in died.reason


def test_a_novel_of_a_reason_is_cut(tmp_path: Path) -> None:
    with opened(tmp_path, "def run(cpu):\n    panic('x' * 1_000_000)\n    yield") as bench:
        assert bench.vcpu.run() == Died("x" * REASON_LIMIT)


@pytest.mark.parametrize("after", ["yield COMPUTE", "raise ValueError('no')", "raise SystemExit(3)"])
def test_a_guest_that_will_not_end_keeps_nothing_open(tmp_path: Path, after: str) -> None:
    source = f"def run(cpu):\n    try:\n        yield Notify(1)\n    finally:\n        {after}"
    with no_new_fds(), opened(tmp_path, source) as bench:
        assert bench.vcpu.run() == Notify(1)


def test_a_break_comes_between_two_steps_and_changes_nothing_for_the_guest(tmp_path: Path) -> None:
    source = """
def run(cpu):
    for number in range(100_000):
        yield COMPUTE
    yield Notify(number)
"""
    with opened(tmp_path, source) as bench:
        exits = []
        for _ in range(1_000):
            bench.breaker.break_out()
            exits.append(bench.vcpu.run())
            bench.breaker.clear()
        assert exits == [Broken()] * 1_000
        assert bench.vcpu.run() == Notify(99_999)


def test_a_guest_may_use_dataclasses_and_other_modules(tmp_path: Path) -> None:
    source = """
from dataclasses import dataclass

@dataclass
class State:
    addr: "int"

def run(cpu):
    yield Notify(State(7).addr)
"""
    path = tmp_path / "guest.py"
    path.write_text("from __future__ import annotations\n" + HEAD + source)
    with open_bench("python", str(path)) as bench:
        assert bench.vcpu.run() == Notify(7)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "has no function run(cpu), which is where a Guest in Python begins"),
        ("run = 5", "has no function run(cpu), which is where a Guest in Python begins"),
        ("def run(", "cannot be imported: SyntaxError: '(' was never closed (guest.py, line 1)"),
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
    ],
)
def test_a_file_that_is_no_guest_is_refused_before_anything_runs(tmp_path: Path, source: str, sentence: str) -> None:
    path = tmp_path / "guest.py"
    path.write_text(source)
    with no_new_fds(), pytest.raises(UsageError) as caught, open_bench("python", str(path)):
        pass
    assert str(caught.value).startswith(f"image '{path}' {sentence}")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"nothing\.py': no such file$"),
        open_bench("python", f"{tmp_path}/nothing.py"),
    ):
        pass


def test_auto_takes_this_engine_for_a_guest_in_python() -> None:
    choice = engines.choose("auto", "some/guest.py")
    assert choice.engine.name == "python"
    assert choice.reason == "the Guest is written in Python"


def test_kvm_refuses_a_guest_in_python(tmp_path: Path) -> None:
    (tmp_path / "guest.py").write_text("def run(cpu):\n    yield")
    with pytest.raises(UsageError, match=r"run it with --engine python$"), open_bench("kvm", f"{tmp_path}/guest.py"):
        pass


def test_python_refuses_machine_code_and_says_who_runs_it() -> None:
    with (
        pytest.raises(UsageError, match=r"give --engine kvm or unicorn$"),
        open_bench("python", str(guests.image_path("echo"))),
    ):
        pass
