"""One contract for every engine: what `Vcpu` promises, on the built-in Guests, with everything that can stop them.

The contract is that of /dev/lguest: a break asked for at any moment ends the run, an interrupt asked for at any
moment reaches the Guest, and nothing else ends it.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import pytest

from launcher import engines
from launcher.api import Broken, Died, Vcpu
from shared.breaker import KICK_SIGNAL
from tests.support.breakers import kick
from tests.support.fds import no_new_fds
from tests.support.vcpus import KINDS, Bench, open_bench

every_kind = pytest.mark.parametrize(("engine", "kind"), KINDS)
both_guests = pytest.mark.parametrize("guest", ["idle", "spin"])


@every_kind
@both_guests
def test_a_break_before_entry_is_not_lost(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        for _ in range(20):
            bench.breaker.break_out()
            assert bench.vcpu.run() == Broken()
            bench.breaker.clear()


@every_kind
@pytest.mark.parametrize("look", [1, 2])
def test_a_break_between_the_look_at_the_flag_and_the_entry_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, engine: str, kind: str, look: int
) -> None:
    """The gap held open: at its first entry, and at the one after a kick that meant nothing was taken."""
    with open_bench(engine, "spin", kind) as bench:
        is_set, looks = bench.breaker.is_set, 0

        def look_then_break() -> bool:
            nonlocal looks
            seen, looks = is_set(), looks + 1
            if looks == look:
                break_from_another_thread(bench)
            return seen

        monkeypatch.setattr(bench.breaker, "is_set", look_then_break)
        kick(bench.breaker, bench.page)
        assert bench.vcpu.run() == Broken()
        assert looks == look + 1


@every_kind
def test_a_break_between_the_look_at_the_flag_and_the_sleep_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, engine: str, kind: str
) -> None:
    with open_bench(engine, "idle", kind) as bench:
        wait, waits = bench.breaker.wait, 0

        def break_then_wait() -> None:
            nonlocal waits
            waits += 1
            if waits == 1:
                break_from_another_thread(bench)
            wait()

        monkeypatch.setattr(bench.breaker, "wait", break_then_wait)
        assert bench.vcpu.run() == Broken()
        assert waits == 1


def break_from_another_thread(bench: Bench) -> None:
    with bench.meanwhile(bench.breaker.break_out):
        pass


@every_kind
@both_guests
def test_a_break_from_another_thread_at_any_moment_ends_the_run(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        for delay in range(0, 10_000, 500):
            with bench.meanwhile(lambda delay=delay: break_after(bench, delay)):  # type: ignore[misc]
                assert bench.vcpu.run() == Broken()
            assert bench.breaker.is_set()
            bench.breaker.clear()


def spin(spins: int) -> None:
    for _ in range(spins):
        pass


def break_after(bench: Bench, spins: int) -> None:
    spin(spins)
    bench.breaker.break_out()


@every_kind
@both_guests
def test_a_break_from_another_process_at_any_moment_ends_the_run(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        for delay in range(0, 10_000, 1_000):
            pid = os.fork()
            if pid == 0:
                try:
                    break_after(bench, delay)
                finally:
                    os._exit(0)
            assert bench.vcpu.run() == Broken()
            os.waitpid(pid, 0)
            bench.breaker.clear()


@every_kind
@both_guests
def test_breaking_twice_is_breaking_once(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        bench.breaker.break_out()
        bench.breaker.break_out()
        assert bench.vcpu.run() == Broken()
        bench.breaker.clear()
        expect_no_break_but_ours(bench)


@every_kind
@both_guests
def test_a_break_that_was_taken_is_over_even_if_its_kick_comes_late(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        for _ in range(5):
            bench.breaker.break_out()
            bench.breaker.clear()
            expect_no_break_but_ours(bench)


@every_kind
@both_guests
def test_a_kick_without_a_flag_is_not_a_break(engine: str, kind: str, guest: str) -> None:
    with open_bench(engine, guest, kind) as bench:
        kick(bench.breaker, bench.page)
        expect_no_break_but_ours(bench, kicks=20)


def expect_no_break_but_ours(bench: Bench, kicks: int = 0) -> None:
    """Run into a break that comes only after the Guest had every occasion to be broken out wrongly."""
    is_ours = threading.Event()

    def kick_then_break() -> None:
        for _ in range(kicks):
            kick(bench.breaker, bench.page)
            spin(1_000)
        spin(5_000)
        is_ours.set()
        bench.breaker.break_out()

    with bench.meanwhile(kick_then_break):
        assert bench.vcpu.run() == Broken()
        assert is_ours.is_set(), "Broken was said although nobody asked for it"
    bench.breaker.clear()


@every_kind
@both_guests
def test_a_signal_of_somebody_else_runs_its_handler_and_ends_nothing(engine: str, kind: str, guest: str) -> None:
    came = []
    is_ours = threading.Event()

    def handle(_signo: int, _frame: FrameType | None) -> None:
        came.append(True)

    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR2, handle)
    try:
        with open_bench(engine, guest, kind) as bench:

            def signal_then_break() -> None:
                # One that comes just before the vCPU's thread sleeps runs its handler only when that wakes again
                # (launcher/stop.py), so nobody waits for it here.
                for _ in range(20):
                    signal.pthread_kill(main, signal.SIGUSR2)
                    spin(1_000)
                is_ours.set()
                bench.breaker.break_out()

            with bench.meanwhile(signal_then_break):
                assert bench.vcpu.run() == Broken()
                assert is_ours.is_set()
            assert came
    finally:
        signal.signal(signal.SIGUSR2, before)


@every_kind
def test_interrupts_reach_a_halted_guest(engine: str, kind: str) -> None:
    with open_bench(engine, "idle", kind) as bench:
        for count in range(1, 6):
            bench.vcpu.interrupt(count)
            with bench.meanwhile(lambda count=count: bench.break_when(lambda: bench.counted == count)):  # type: ignore[misc]
                assert bench.vcpu.run() == Broken()
            bench.breaker.clear()
            assert bench.counted == count


@every_kind
def test_every_line_interrupts_and_asking_twice_is_asking_once(engine: str, kind: str) -> None:
    with open_bench(engine, "idle", kind) as bench:
        for irq in (1, 2, 100, 223, 1, 2):
            bench.vcpu.interrupt(irq)
        with bench.meanwhile(lambda: bench.break_when(lambda: bench.counted >= 4)):
            bench.vcpu.run()
        bench.breaker.clear()
        expect_no_break_but_ours(bench)
        assert bench.counted == 4


@every_kind
def test_an_interrupt_asked_for_while_broken_is_not_lost(engine: str, kind: str) -> None:
    with open_bench(engine, "idle", kind) as bench:
        for count in range(1, 20):
            bench.breaker.break_out()
            bench.vcpu.interrupt(1)
            assert bench.vcpu.run() == Broken()
            bench.breaker.clear()
            with bench.meanwhile(lambda count=count: bench.break_when(lambda: bench.counted == count)):  # type: ignore[misc]
                bench.vcpu.run()
            bench.breaker.clear()
            assert bench.counted == count


@every_kind
def test_a_guest_that_computes_keeps_its_interrupts_to_itself_and_can_still_be_broken(engine: str, kind: str) -> None:
    with open_bench(engine, "spin", kind) as bench:
        bench.vcpu.interrupt(1)
        expect_no_break_but_ours(bench)


@every_kind
def test_a_guest_without_its_device_dies_with_a_reason(engine: str, kind: str) -> None:
    with open_bench(engine, "echo", kind) as bench:
        died = bench.vcpu.run()
        assert isinstance(died, Died)
        assert "console" in died.reason
        assert "\n" not in died.reason


@every_kind
def test_a_vcpu_names_its_breaker(engine: str, kind: str) -> None:
    with open_bench(engine, "idle", kind) as bench:
        assert bench.vcpu.breaker() is bench.breaker
        assert bench.breaker.kind == kind


@every_kind
@both_guests
def test_closing_gives_everything_back(engine: str, kind: str, guest: str) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with no_new_fds(), open_bench(engine, guest, kind) as bench:
        bench.breaker.break_out()
        bench.vcpu.run()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    assert KICK_SIGNAL not in signal.sigpending()


@pytest.mark.parametrize("engine", engines.names())
def test_a_vcpu_that_never_ran_closes_too(engine: str) -> None:
    with no_new_fds(), open_bench(engine, "idle") as bench:
        vcpu: Vcpu = bench.vcpu
        assert vcpu is not None
