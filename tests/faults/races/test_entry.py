"""A break between the vCPU's last look at the flag and its entry into the Guest, or its sleep.

Nobody runs yet and nobody sleeps, so a kick that does not stay has nobody to stop: facts 4 and 5 of the design.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

import pytest

from launcher.api import Broken, Exit, Notify
from launcher.check.rig import Rig, open_rig
from launcher.engines.hypercalls import PORT_NOTIFY
from shared.breaker import KICK_SIGNAL, ExitFlag
from shared.page import SPURIOUS
from tests.support.machine_code import SPIN, out
from tests.support.races import (
    EVERY_WITH_KINDS,
    LITTLE_S,
    WINDOW,
    Window,
    after_the_look,
    before_the_sleep,
    pairs,
    pairs_with_kinds,
    ring_and_kick,
    serve_until,
)
from tests.support.tasks import count_tasks
from waker.strategies import uring


@EVERY_WITH_KINDS
@WINDOW
def test_a_break_between_the_look_at_the_flag_and_the_entry_is_not_lost(
    guest: str, window: Window, name: str, engine: str
) -> None:
    with open_rig(name, engine, guest) as rig:
        for turn in range(2):
            window(rig.machine.loop, lambda: ring_and_kick(rig))
            rig.expect_break("a break after the look at the flag")
            assert rig.pulse.rung == turn + 1
        assert rig.machine.page.words[SPURIOUS] == 0


@pytest.mark.parametrize(("name", "engine"), pairs(without=("fork", "thread", "process")))
@WINDOW
def test_what_another_thread_rings_after_the_look_at_the_flag_is_not_lost(
    guest: str, window: Window, name: str, engine: str
) -> None:
    with open_rig(name, engine, guest) as rig:
        for turn in range(20):

            def ring_elsewhere() -> None:
                thread = threading.Thread(target=rig.pulse.ring)
                thread.start()
                thread.join()

            window(rig.machine.loop, ring_elsewhere)
            serve_until(rig, turn + 1)


def eat_the_kick(rig: Rig) -> None:
    """Do what a handler does that runs before the entry: the signal, or the count, is gone."""
    breaker = rig.machine.loop.vcpu.breaker()
    if fds := breaker.handle().fds:
        os.read(fds[0], 8)
    else:
        breaker.take_kick()


def forget_the_byte(rig: Rig) -> None:
    """Take the byte, or the signal, that an inline Waker leaves for the entry."""
    breaker = rig.machine.loop.vcpu.breaker()
    breaker._flag[0] = 0  # type: ignore[attr-defined]
    signal.sigtimedwait({KICK_SIGNAL}, 0)


@pytest.mark.parametrize(
    ("name", "engine", "guest", "window", "sabotage"),
    [
        ("thread/select", "python", "idle", before_the_sleep, eat_the_kick),
        ("process/epoll+signal", "python", "idle", before_the_sleep, eat_the_kick),
        ("thread/poll", "kvm", "idle", before_the_sleep, eat_the_kick),
        ("inline/sigio", "kvm", "idle", before_the_sleep, forget_the_byte),
    ],
)
def test_a_kick_that_does_not_stay_is_lost_before_the_entry(
    name: str, engine: str, guest: str, window: Window, sabotage: Callable[[Rig], None]
) -> None:
    with open_rig(name, engine, guest) as rig:

        def ring_and_sabotage() -> None:
            ring_and_kick(rig)
            sabotage(rig)

        window(rig.machine.loop, ring_and_sabotage)
        assert not rig.runs_into_break(LITTLE_S)


def first_word(name: str, engine: str, sabotage: Callable[[Rig], object]) -> Exit:
    """Run a Guest that at once says 1 and then computes for ever, break it just before its entry; say what comes."""
    with open_rig(name, engine, "spin") as rig:
        vcpu, code = rig.machine.loop.vcpu, out(PORT_NOTIFY, 1) + SPIN
        entry = vcpu._eip() if engine == "unicorn" else vcpu._vm.eip()  # type: ignore[attr-defined]
        rig.machine.memory.view(entry, len(code))[:] = code

        def ring_and_sabotage() -> None:
            ring_and_kick(rig)
            sabotage(rig)

        after_the_look(rig.machine.loop, ring_and_sabotage)
        return vcpu.run()


@pytest.mark.parametrize(("name", "engine"), pairs_with_kinds(without=("python",)))
def test_a_break_before_the_entry_comes_before_the_first_instruction(name: str, engine: str) -> None:
    assert first_word(name, engine, do_nothing_to) == Broken()


def do_nothing_to(rig: Rig) -> None:
    """Leave it as it is."""


@pytest.mark.kvm
@pytest.mark.parametrize("engine", ["kvm"])
@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("thread/select", eat_the_kick),
        ("process/epoll", eat_the_kick),
        ("fork/poll", eat_the_kick),
        ("inline/uring", forget_the_byte),
        ("inline/sigio", forget_the_byte),
    ],
)
def test_an_empty_handler_lets_the_guest_run_although_a_break_was_asked_for(
    name: str, engine: str, sabotage: Callable[[Rig], None]
) -> None:
    assert first_word(name, engine, sabotage) == Notify(1)


@pytest.mark.parametrize("engine", ["unicorn"])
@pytest.mark.parametrize("name", ["thread/select", "process/epoll"])
def test_a_stop_from_outside_is_forgotten_at_the_entry(name: str, engine: str) -> None:
    # What engine unicorn would be without its look before each block: another thread that calls uc_emu_stop.
    with open_rig(name, engine, "spin") as rig:
        vcpu = rig.machine.loop.vcpu
        emulator = vcpu._uc  # type: ignore[attr-defined]

        def stop_from_outside() -> None:
            thread = threading.Thread(target=emulator.emu_stop)
            thread.start()
            thread.join()

        after_the_look(rig.machine.loop, stop_from_outside)
        assert not rig.runs_into_break(LITTLE_S)


@pytest.mark.parametrize("name", ["inline/uring"])
def test_the_byte_is_there_before_anybody_else_could_be_needed_for_it(name: str) -> None:
    # Were it read from a file that may wait, the kernel would give that to a worker thread; the vCPU could enter the
    # Guest before it is done. (As it was from a memfd: found by the race above, whose sabotage did not bite.)
    byte = ctypes.c_ubyte(0)
    tasks = count_tasks()
    inline = uring.Inline(ExitFlag(memoryview(byte).cast("B"), ctypes.addressof(byte)))
    bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    inline.add(bell)
    for _ in range(100):
        byte.value = 0
        os.eventfd_write(bell, 1)
        assert byte.value == 1
        os.eventfd_read(bell)
        assert inline.look() == {bell}
        inline.rearm({bell})
    assert count_tasks() == tasks
    inline.close()
    os.close(bell)
