"""Each race that loses wake-ups, held open until it has happened, against every Waker to which it can happen.

Most of them are windows of a few instructions, which many wakes in a row hit now and then. Here they are not hit but
forced: something happens *exactly* between the look at the flag and the entry into the Guest, between a strategy's
answer and the break, between flag and kick. What is held is real (tests/support/standstill.py stops processes and
threads, and wraps what waker/serve.py is handed; the vCPU's side wraps its breaker), and nothing depends on time.

A race that nobody can lose proves nothing. So each has a sabotaged variant beside it, in which one protection is taken
out: it must lose then. A loss is seen by little patience, and is the one thing here that takes time.

The numbers are those of the facts in the design that the historical bugs come from.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import waker
from launcher import engines
from launcher.api import Broken, Exit, Notify
from launcher.check.rig import Rig, open_rig
from launcher.config import RunConfig
from launcher.devices.pulse import Pulse
from launcher.engines.kvm.vcpu import PORT_NOTIFY
from launcher.loop import Loop
from launcher.machine import open_machine
from launcher.ready import ReadySet
from launcher.stop import StopRequests
from shared import breaker as breakers
from shared import driverqueue, virtqueue
from shared.breaker import KICK_SIGNAL, Breaker, ExitFlag
from shared.errors import Interrupted
from shared.linux import is_open
from shared.memory import GuestMemory
from shared.page import BREAK, BREAKS, LOOKS, SPURIOUS, Page
from shared.virtqueue import Virtqueue
from shared.vring import ring_doorbell
from shared.wire import PeerGone
from tests.support.blocked import once_blocked
from tests.support.fds import plugged_below
from tests.support.machine_code import SPIN, out
from tests.support.rescue import rescue
from tests.support.rings import DATA, Hand, Pair
from tests.support.standstill import Point, Serve, Standstill, let_go_at_the_end
from tests.support.stores import StoreBuffer
from tests.support.tasks import count_tasks
from waker import Source, Waker
from waker.api import Channel, Release, Watch
from waker.places.child import do_nothing
from waker.serve import serve
from waker.strategies import uring
from waker.watchset import WatchSet

LITTLE_S = 0.2
"""How long a sabotaged Waker is given to save itself."""


def pairs(*, without: tuple[str, ...] = ()) -> list[Any]:
    """Return every Waker on every engine, without some places or engines."""
    return [
        pytest.param(name, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{name}")
        for engine in engines.names()
        for name in waker.names()
        if engine not in without and waker.parse(name).place not in without
    ]


EVERY = pytest.mark.parametrize(("name", "engine"), pairs())
LOOPING = pytest.mark.parametrize(("name", "engine"), pairs(without=("inline",)))
SEEING_MEMORY = pytest.mark.parametrize(("name", "engine"), pairs(without=("fork",)))
LOOPING_AND_SEEING = pytest.mark.parametrize(("name", "engine"), pairs(without=("inline", "fork")))


@pytest.fixture(autouse=True)
def _runs_here(request: pytest.FixtureRequest) -> None:
    """Skip what cannot run here."""
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    reason = None
    if "name" in given:
        reason = waker.why_not(given["name"])
    if reason is None and "engine" in given:
        reason = engines.get(given["engine"]).why_not()
    if reason is not None:
        pytest.skip(reason)


# --- what the races are made of


class Between:
    """The vCPU's breaker, for which something happens once: after a look at the flag, or just before a sleep."""

    def __init__(self, breaker: Breaker, happen: Callable[[], object], *, before_sleep: bool) -> None:
        self._breaker, self._happen, self._before_sleep, self._is_over = breaker, happen, before_sleep, False

    def is_set(self) -> bool:
        was_set = self._breaker.is_set()
        if not was_set and not self._before_sleep:
            self._happen_once()
        return was_set

    def wait(self) -> None:
        self._happen_once()
        self._breaker.wait()

    def _happen_once(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._happen()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._breaker, name)


def after_the_look(loop: Loop, happen: Callable[[], object]) -> None:
    """Have this happen after the vCPU's next look at the flag, and before it enters the Guest."""
    loop.vcpu._breaker = Between(loop.vcpu.breaker(), happen, before_sleep=False)  # type: ignore[attr-defined]


def before_the_sleep(loop: Loop, happen: Callable[[], object]) -> None:
    """Have this happen when the Guest has halted, the flag was looked at, and the vCPU is about to sleep."""
    loop.vcpu._breaker = Between(loop.vcpu.breaker(), happen, before_sleep=True)  # type: ignore[attr-defined]


# What the Guest does, and where the vCPU stands when something happens.
WINDOWS = [("idle", after_the_look), ("idle", before_the_sleep), ("spin", after_the_look)]
WINDOW = pytest.mark.parametrize(("guest", "window"), WINDOWS, ids=["idle-entry", "idle-sleep", "spin-entry"])
Window = Callable[[Loop, Callable[[], object]], None]


def turn_around(loop: Loop, spare: Source) -> None:
    """Have the Waker obey a change: then it has come past all that it did before."""
    loop.waker.unwatch(spare)
    loop.waker.watch(spare)


def until_kicked(loop: Loop, spare: Source) -> None:
    """Return once a break was asked for, and the kick has gone out. Inline, the kernel does it at once."""
    if not is_inline(loop.waker.name):
        while not loop.page.words[BREAK]:
            os.sched_yield()
        turn_around(loop, spare)


def is_inline(name: str) -> bool:
    return waker.parse(name).place == "inline"


def ring_and_kick(rig: Rig, at: int = 0) -> None:
    rig.pulse.ring(at)
    until_kicked(rig.machine.loop, rig.pulse.sources[1])


@contextmanager
def standing(name: str, engine: str, point: Point, serve: Serve = serve) -> Iterator[tuple[Rig, Standstill]]:
    """Open a rig whose Waker will stand still at `point`."""
    with pytest.MonkeyPatch.context() as patch:
        still = Standstill(patch, point, serve)
        with open_rig(name, engine) as rig, let_go_at_the_end(still):
            yield rig, still


def serve_until(rig: Rig, rung: int) -> None:
    """Run the Guest until so many rings were served: a death breaks, too."""
    while rig.pulse.rung < rung:
        rig.expect_break(f"ring {rig.pulse.rung + 1} of {rung}")
    assert rig.pulse.rung == rung


def swap(rig: Rig, old: Source, *, is_watched: bool = True) -> Source:
    """Unwatch a source, close its file, and watch another under the same number."""
    loop, pulse = rig.machine.loop, rig.pulse
    loop.unwatch([old])
    with plugged_below(old.fd):
        pulse.close_source(old)
        new = pulse.open()
    assert new.fd == old.fd
    rig.machine.table.adopt(pulse, [new])
    if is_watched:
        loop.watch([new])
    return new


# --- (a) between the look at the flag and the entry into the Guest: facts 4 and 5


@EVERY
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


def first_word(name: str, sabotage: Callable[[Rig], object]) -> Exit:
    """Run a Guest that at once says 1 and then computes for ever, break it just before its entry; say what comes."""
    with open_rig(name, "kvm", "spin") as rig:
        vcpu, code = rig.machine.loop.vcpu, out(PORT_NOTIFY, 1) + SPIN
        rig.machine.memory.view(vcpu._vm.eip(), len(code))[:] = code  # type: ignore[attr-defined]

        def ring_and_sabotage() -> None:
            ring_and_kick(rig)
            sabotage(rig)

        after_the_look(rig.machine.loop, ring_and_sabotage)
        return vcpu.run()


@pytest.mark.kvm
@pytest.mark.parametrize(("name", "engine"), pairs(without=("python",)))
def test_a_break_before_the_entry_comes_before_the_first_instruction(name: str, engine: str) -> None:
    assert first_word(name, do_nothing_to) == Broken()


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
    assert first_word(name, sabotage) == Notify(1)


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


# --- (b) between unwatch and ready


@LOOPING
def test_what_is_unwatched_in_the_same_instant_breaks_nobody(name: str, engine: str) -> None:
    assert breaks_for_what_was_unwatched(name, engine, serve) == 0


def breaks_for_what_was_unwatched(name: str, engine: str, serve: Serve) -> int:
    """Have a command and a ready file in one answer of the strategy; return how many breaks came of it."""
    with standing(name, engine, Point.BEFORE_WAIT, serve) as (rig, still):
        loop, (one, spare) = rig.machine.loop, rig.pulse.sources
        rig.pulse.ring()
        rig.expect_break("a first ring")
        still.wait(loop.waker)
        rig.pulse.ring()
        with once_blocked(lambda: still.go_on(loop.waker)):
            loop.unwatch([one])
        turn_around(loop, spare)
        breaks = rig.breaks - 1
        if waker.parse(name).strategy == "thread_per_fd" and breaks:
            breaks -= 1  # it may return only some of what is ready (R2): then that break was under way
            rig.expect_break("under way")
        if serve is SERVE:
            rig.pulse.ring(1)
            rig.expect_break("a neighbour was rung")
            loop.watch([one])
            rig.expect_break("it is watched again, with data that waited")
            assert rig.pulse.rung == 3
        return breaks


SERVE = serve


def serve_commands_last(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Break for what the strategy said, whatever was unwatched since."""
    breaks = page.words[BREAKS]
    with contextlib.suppress(PeerGone):
        while True:
            ready = watched.wait()
            is_ready = watched.is_ready(ready)
            if channel.fileno() in ready:
                obey(channel, watched)
            if is_ready:
                breaks += 1
                page.words[BREAKS] = breaks
                breaker.break_out()
                while obey(channel, watched) < breaks:
                    pass


def obey(channel: Channel, watched: WatchSet) -> int:
    released = 0
    for command in channel.receive():
        if isinstance(command, Release):
            released = max(released, command.upto)
        elif isinstance(command, Watch):
            channel.answer(command.generation, watched.add(command.sources))
        else:
            watched.remove(command.tokens)
            channel.answer(command.generation, None)
    return released


@pytest.mark.parametrize("name", ["thread/select", "thread/epoll", "fork/poll"])
def test_a_waker_that_obeys_last_breaks_for_what_was_unwatched(name: str) -> None:
    assert breaks_for_what_was_unwatched(name, "python", serve_commands_last) == 1


@LOOPING
def test_what_is_unwatched_after_it_was_seen_breaks_once_for_nothing_and_no_more(name: str, engine: str) -> None:
    with standing(name, engine, Point.SEEN) as (rig, still):
        loop, (one, _) = rig.machine.loop, rig.pulse.sources
        rig.pulse.ring()
        still.wait(loop.waker)
        with once_blocked(lambda: still.go_on(loop.waker)):
            loop.unwatch([one])
        rig.expect_break("a break that was under way")
        assert (rig.pulse.rung, rig.machine.page.words[SPURIOUS]) == (0, 1)
        rig.pulse.ring(1)
        rig.expect_break("a neighbour was rung")
        assert (rig.pulse.rung, rig.breaks) == (1, 2)
        loop.watch([one])
        rig.expect_break("it is watched again, with data that waited")
        assert (rig.pulse.rung, rig.breaks) == (2, 3)


@pytest.mark.parametrize(("name", "engine"), pairs(without=("fork", "thread", "process")))
def test_what_has_fired_and_is_unwatched_before_anybody_looks_breaks_nobody(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        loop, (one, _) = rig.machine.loop, rig.pulse.sources
        after_the_look(loop, lambda: (rig.pulse.ring(), loop.unwatch([one]), rig.pulse.ring(1)))
        rig.expect_break("a neighbour was rung")
        assert (rig.pulse.rung, rig.breaks) == (1, 1)
        loop.watch([one])
        rig.expect_break("it is watched again, with data that waited")
        assert (rig.pulse.rung, rig.machine.page.words[SPURIOUS]) == (2, 0)


@LOOPING
def test_leaving_for_another_reason_does_not_release_a_break_under_way(name: str, engine: str) -> None:
    assert breaks_before_one_was_served(name, engine) == 1


def breaks_before_one_was_served(name: str, engine: str) -> int:
    """Have the Launcher leave the Guest and release while a break is under way; return how many were made of it."""
    with standing(name, engine, Point.SEEN) as (rig, still):
        loop, (_, spare) = rig.machine.loop, rig.pulse.sources
        rig.pulse.ring()
        still.wait(loop.waker)
        rig.pulse.is_serving = False
        loop.vcpu.breaker().break_out()
        assert isinstance(loop.run_once(), Broken)
        still.go_on(loop.waker)
        until_kicked(loop, spare)
        turn_around(loop, spare)
        made = rig.breaks
        rig.pulse.is_serving = True
        serve_until(rig, 1)
        return made


@pytest.mark.parametrize("name", ["thread/select", "fork/epoll", "process/uring"])
def test_a_release_that_names_no_break_releases_one_that_nobody_served(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Waker, "release", lambda self, held: self._place.release(1 << 40))
    assert breaks_before_one_was_served(name, "python") > 1


# --- (c) a number that comes back as another file inside one batch: fact 11


@pytest.mark.parametrize(("name", "engine"), pairs(without=("kvm",)))
def test_what_is_replaced_while_another_of_its_batch_is_served_is_not_served(name: str, engine: str) -> None:
    served, new = serve_a_batch_in_which_one_replaces_the_other(name, engine)
    assert served == ["pulse 2", new]


def serve_a_batch_in_which_one_replaces_the_other(name: str, engine: str) -> tuple[list[str], str]:
    """Have two sources ready at once; serving the first closes the second. Return what was served, and the new one."""
    with open_rig(name, engine) as rig:
        loop, pulse = rig.machine.loop, rig.pulse
        first, second = pulse.open(), pulse.open()
        rig.machine.table.adopt(pulse, [first, second])
        loop.watch([first, second])
        on_ready, served, replaced = pulse.on_ready, [], []

        def serve_and_replace(source: Source) -> bool:
            served.append(source.name)
            if source is first:
                replaced.append(swap(rig, second))
            return on_ready(source)

        pulse.on_ready = serve_and_replace  # type: ignore[method-assign]
        pulse.ring_source(first)
        pulse.ring_source(second)
        rig.expect_break("two were rung")
        pulse.ring_source(replaced[0])
        while len(served) < 2:
            rig.expect_break("the other file was rung")
        return served, replaced[0].name


def test_a_batch_that_is_served_without_looking_again_reads_from_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadySet, "__contains__", lambda self, source: True)
    with pytest.raises(BlockingIOError):
        serve_a_batch_in_which_one_replaces_the_other("thread/select", "python")


@LOOPING
def test_what_is_replaced_after_it_was_seen_breaks_for_neither(name: str, engine: str) -> None:
    with standing(name, engine, Point.SEEN) as (rig, still):
        loop, pulse, (one, _) = rig.machine.loop, rig.pulse, rig.pulse.sources
        pulse.ring()
        still.wait(loop.waker)
        with once_blocked(lambda: still.go_on(loop.waker)):
            loop.unwatch([one])
        new = swap(rig, one)
        rig.expect_break("a break that was under way")
        assert (pulse.rung, rig.machine.page.words[SPURIOUS]) == (0, 1)
        pulse.ring(0)  # the spare one is the first by now
        rig.expect_break("a neighbour was rung")
        assert (pulse.rung, rig.breaks) == (1, 2)
        pulse.ring_source(new)
        rig.expect_break("the other file was rung")
        assert pulse.rung == 2


def replace_while_held(name: str, engine: str, patience_s: float) -> bool:
    """Replace a file twice, rung and not, while the Waker is held; return whether the last one wakes."""
    with open_rig(name, engine) as rig:
        loop, pulse, (one, spare) = rig.machine.loop, rig.pulse, rig.pulse.sources
        pulse.ring_source(spare)
        held = rig.leave("a neighbour was rung")
        new = swap(rig, one)  # its poll has not fired
        loop._service()
        loop.waker.release(held)
        pulse.ring_source(new)
        if not rig.runs_into_break(patience_s):
            return False
        pulse.ring_source(new)
        held = rig.leave("it was rung")
        newer = swap(rig, new)  # its poll has fired
        loop.waker.release(held)
        pulse.ring_source(spare)
        rig.expect_break("a neighbour was rung")
        pulse.ring_source(newer)
        rig.expect_break("the last file was rung")
        assert (pulse.rung, rig.breaks, rig.machine.page.words[SPURIOUS]) == (4, 5, 0)
        return True


@SEEING_MEMORY  # and without fork: a file that is opened later takes another fork, which is not held
def test_what_is_replaced_while_the_waker_is_held_is_watched_as_what_it_is(name: str, engine: str) -> None:
    assert replace_while_held(name, engine, 10.0)


@pytest.mark.parametrize(("name", "form"), [("thread/uring", uring.Strategy), ("inline/uring", uring.Inline)])
def test_a_poll_that_is_known_by_its_number_and_not_by_its_generation_is_lost(
    monkeypatch: pytest.MonkeyPatch, name: str, form: type
) -> None:
    arm = form.arm  # type: ignore[attr-defined]

    def arm_by_number(self: Any, fd: int) -> None:
        self._polls = iter([fd])
        arm(self, fd)

    monkeypatch.setattr(form, "arm", arm_by_number)
    assert not replace_while_held(name, "python", LITTLE_S)


def close_without_a_word(name: str, engine: str, *, is_watched: bool) -> int:
    """Close a file that is watched and ready, have its number come back, and return the breaks for nothing."""
    with open_rig(name, engine) as rig:
        loop, pulse = rig.machine.loop, rig.pulse
        old = pulse.open()
        rig.machine.table.adopt(pulse, [old])
        loop.watch([old])
        pulse.ring_source(old)
        until_kicked(loop, pulse.sources[1])
        with plugged_below(old.fd):
            pulse.close_source(old)
            new = pulse.open()
        assert new.fd == old.fd
        rig.machine.table.adopt(pulse, [new])
        if is_watched:
            loop.watch([new])
        spurious = 0
        for turn in range(4):
            pulse.ring(1)
            while pulse.rung <= turn:
                rig.expect_break("a neighbour was rung")
            turn_around(loop, pulse.sources[1])
            while loop.vcpu.breaker().is_set() and spurious < 9:
                rig.expect_break("for nothing")
                turn_around(loop, pulse.sources[1])
                spurious += 1
        if is_watched:
            pulse.ring_source(new)
            serve_until(rig, 5)
        return spurious


@EVERY
@pytest.mark.parametrize("is_watched", [True, False])
def test_a_number_that_comes_back_unannounced_breaks_once_for_nothing_at_most(
    is_watched: bool, name: str, engine: str
) -> None:
    assert close_without_a_word(name, engine, is_watched=is_watched) <= 1


@pytest.mark.parametrize("name", ["process/epoll", "fork/select"])
def test_a_launcher_that_only_asks_whether_a_number_is_open_reads_from_another_file(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ReadySet, "is_lost", lambda self, source: not is_open(source.fd))
    with pytest.raises(BlockingIOError):
        close_without_a_word(name, "python", is_watched=False)


@pytest.mark.parametrize("name", ["process/epoll", "process/select"])
def test_a_launcher_that_forgets_whose_number_another_has_is_broken_out_for_ever(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ReadySet, "displaced_by", lambda self, sources: [])
    assert close_without_a_word(name, "python", is_watched=True) > 1


# --- (d) a break while servicing, and (e) between service and release, between release and entry


MOMENTS = ("while servicing", "between service and release", "between release and entry")


def at_a_moment(rig: Rig, moment: str, happen: Callable[[], object]) -> None:
    """Ring, and have something happen at this moment of the Launcher's answer."""
    loop, serve_source, release = rig.machine.loop, rig.pulse.on_ready, rig.machine.loop.waker.release

    def serve_and_happen(source: Source) -> bool:
        keeps = serve_source(source)
        if moment == MOMENTS[0]:
            happen()
        return keeps

    def release_and_happen(held: int) -> None:
        if moment == MOMENTS[1]:
            happen()
        release(held)
        if moment == MOMENTS[2]:
            happen()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.pulse, "on_ready", serve_and_happen)
        patch.setattr(loop.waker, "release", release_and_happen)
        rig.pulse.ring(0)
        serve_until(rig, rig.pulse.rung + 1)


@EVERY
def test_a_ring_at_any_moment_of_the_launchers_answer_is_served(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        for turn, moment in enumerate(MOMENTS):
            at_a_moment(rig, moment, lambda: rig.pulse.ring(1))
            if moment == MOMENTS[2]:
                until_kicked(rig.machine.loop, rig.pulse.sources[0])
            rig.expect_break(f"a ring {moment}")
            assert rig.pulse.rung == 2 * turn + 2
        assert rig.machine.page.words[SPURIOUS] == 0


@EVERY
def test_a_break_by_somebody_else_at_any_moment_of_the_launchers_answer_is_not_lost(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        for moment in MOMENTS:
            at_a_moment(rig, moment, rig.machine.loop.vcpu.breaker().break_out)
            rig.expect_break(f"a break {moment}")
        assert rig.pulse.rung == len(MOMENTS)


@pytest.mark.parametrize("name", ["thread/select", "process/epoll", "fork/poll"])
@pytest.mark.parametrize("engine", engines.names())
def test_a_break_that_is_taken_after_servicing_is_lost(monkeypatch: pytest.MonkeyPatch, name: str, engine: str) -> None:
    monkeypatch.setattr(breakers.FlagFirst, "clear", lambda self: None)
    run_once = Loop.run_once

    def run_and_clear(self: Loop) -> object:
        exit_ = run_once(self)
        self.page.words[BREAK] = 0
        self.vcpu.breaker().take_kick()
        return exit_

    monkeypatch.setattr(Loop, "run_once", run_and_clear)
    with open_rig(name, engine) as rig:
        at_a_moment(rig, MOMENTS[0], rig.machine.loop.vcpu.breaker().break_out)
        assert not rig.runs_into_break(LITTLE_S)


@pytest.mark.parametrize("name", ["inline/uring"])
def test_what_fires_while_an_inline_waker_is_held_and_is_not_armed_again_is_lost(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(uring.Inline, "rearm", lambda self, fds: None)
    with open_rig(name, "python") as rig:
        rig.pulse.ring()
        rig.expect_break("a first ring")
        rig.pulse.ring()
        assert not rig.runs_into_break(LITTLE_S)


@LOOPING
def test_a_waker_that_dies_while_it_is_held_loses_nothing_at_any_moment(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        wake = rig.machine.loop.waker

        def die() -> None:
            rig.pulse.ring(1)
            wake.kill()
            while wake.alive():
                os.sched_yield()

        for moment in MOMENTS:
            before = rig.pulse.rung
            at_a_moment(rig, moment, die)
            serve_until(rig, before + 2)
        assert wake.stats().replaced <= len(MOMENTS)
        rig.pulse.ring(0)
        serve_until(rig, 2 * len(MOMENTS) + 1)
        assert wake.alive()


# --- (f) and (g) deaths between one thing and the next


DEATHS = (Point.SEEN, Point.COUNTED, Point.FLAGGED, Point.KICKED)


@LOOPING
def test_a_waker_may_die_at_any_point_before_the_guest_sleeps(name: str, engine: str) -> None:
    with standing(name, engine, DEATHS[0]) as (rig, still):
        wake = rig.machine.loop.waker
        for turn, following in enumerate([*DEATHS[1:], None]):

            def ring_and_die(following: Point | None = following) -> None:
                rig.pulse.ring()
                still.wait(wake)
                still.die(wake, following)

            before_the_sleep(rig.machine.loop, ring_and_die)
            serve_until(rig, turn + 1)
            see_it_replaced(rig, turn + 1)
        rig.pulse.ring()
        serve_until(rig, len(DEATHS) + 1)


def see_it_replaced(rig: Rig, times: int) -> None:
    """Run the Guest until the death was noticed: the break, or what it was made for, may come first."""
    while rig.machine.loop.waker.stats().replaced < times:
        rig.expect_break("a Waker died")
    assert rig.machine.loop.waker.stats().replaced == times


def publish(rig: Rig, index: int) -> None:
    """Use buffers of the vring, as its peer does."""
    rig.machine.memory.u16[rig.vring.fd.view.idx_addr >> 1] = index


@LOOPING_AND_SEEING
def test_a_waker_may_die_between_taking_the_bell_and_breaking(name: str, engine: str) -> None:
    with standing(name, engine, Point.LOOKING) as (rig, still):
        wake = rig.machine.loop.waker

        def take_the_bell_and_die() -> None:
            ring_doorbell(rig.vring.fd.doorbell)
            still.wait(wake)
            publish(rig, 1)
            still.die(wake, Point.ANSWERED)

        def see_news_and_die() -> None:
            publish(rig, 2)
            ring_doorbell(rig.vring.fd.doorbell)
            still.wait(wake)
            still.die(wake)

        for turn, happen in enumerate((take_the_bell_and_die, see_news_and_die)):
            before_the_sleep(rig.machine.loop, happen)
            while rig.vring.taken <= turn:
                rig.expect_break("news in the ring")
            see_it_replaced(rig, turn + 1)
        assert rig.vring.taken == 2


@LOOPING_AND_SEEING
def test_a_waker_that_starts_sees_news_for_which_no_bell_rings(name: str, engine: str) -> None:
    assert sees_news_without_a_bell(name, engine, 10.0)


def sees_news_without_a_bell(name: str, engine: str, patience_s: float) -> bool:
    """Start a Waker in place of one that took the bell; return whether it breaks for what is in the ring."""
    with open_rig(name, engine) as rig:
        wake = rig.machine.loop.waker
        wake.kill()
        while wake.alive():
            os.sched_yield()
        publish(rig, 1)
        # A change finds out about the death as well. The death breaks, too: only what the Waker counts, counts.
        turn_around(rig.machine.loop, rig.pulse.sources[1])
        return wait_until(lambda: rig.breaks > 0, patience_s)


def wait_until(holds: Callable[[], bool], patience_s: float) -> bool:
    """Wait until something holds, or patience ends; return whether it does."""
    with rescue(do_nothing, patience_s) as is_over:
        while not holds() and not is_over.is_set():
            os.sched_yield()
    return holds()


def serve_without_looking_first(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Trust the doorbell: look at the ring only when it has rung."""

    class Trusting:
        def __getattr__(self, name: str) -> Any:
            return getattr(watched, name)

        def has_news(self) -> bool:
            return False

    serve(channel, Trusting(), breaker, page)  # type: ignore[arg-type]


def test_a_waker_that_trusts_the_bell_alone_does_not_see_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waker.places.thread.serve", serve_without_looking_first)
    assert not sees_news_without_a_bell("thread/select", "python", LITTLE_S)


@pytest.mark.parametrize("name", ["thread/select", "process/select", "fork/epoll"])
@pytest.mark.parametrize("point", DEATHS[:-1])
def test_a_death_that_breaks_nobody_is_lost_before_the_kick(name: str, point: Point) -> None:
    with standing(name, "python", point) as (rig, still):
        wake = rig.machine.loop.waker
        (getattr(wake._place, "_child", wake._place))._on_death = do_nothing

        def ring_and_die() -> None:
            rig.pulse.ring()
            still.wait(wake)
            still.die(wake)

        before_the_sleep(rig.machine.loop, ring_and_die)
        assert not rig.runs_into_break(LITTLE_S)


# --- (h) a stop signal just before the entry: fact 8


def stop_before_the_entry(
    name: str, engine: str, guest: str, window: Window, patience_s: float, *, is_heard: bool = True
) -> bool:
    """Send SIGTERM between the look at the flag and the entry; return whether it was taken."""
    pulse = Pulse(count=2, kind="pipe" if waker.parse(name).strategy == "sigio" else "eventfd")
    config = RunConfig(image=guest, engine=engine, waker=name, memory_mib=2)
    with StopRequests() as stop, open_machine(config, lambda memory, page: [pulse], stop) as machine:
        if not is_heard:
            signal.set_wakeup_fd(-1)
        loop = machine.loop

        def terminate() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            if is_heard:
                until_kicked(loop, pulse.sources[1])

        window(loop, terminate)
        with rescue(loop.vcpu.breaker().break_out, patience_s) as was_needed:
            try:
                loop.run_once()
            except Interrupted:
                return not was_needed.is_set()
    return False


@EVERY
@WINDOW
def test_a_stop_signal_just_before_the_entry_is_taken(guest: str, window: Window, name: str, engine: str) -> None:
    assert stop_before_the_entry(name, engine, guest, window, 10.0)


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("name", ["thread/select", "inline/uring"])
def test_a_handler_that_only_notes_the_signal_is_heard_by_nobody(name: str, engine: str) -> None:
    assert not stop_before_the_entry(name, engine, "idle", before_the_sleep, LITTLE_S, is_heard=False)


# --- (i) ring indices that come late, or torn: fact 2


@SEEING_MEMORY
def test_a_bell_that_rings_before_the_index_breaks_nobody_and_one_after_it_does(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        words, spare = rig.machine.page.words, rig.pulse.sources[1]
        looks = words[LOOKS]
        ring_doorbell(rig.vring.fd.doorbell)
        if is_inline(name):
            rig.pulse.ring_source(spare)
            rig.expect_break("a neighbour was rung")
        rig.wait_until(lambda: words[LOOKS] > looks, "the bell rang, and nobody looked")
        turn_around(rig.machine.loop, spare)
        assert (rig.breaks, rig.vring.taken) == (rig.pulse.rung, 0)
        publish(rig, 1)
        ring_doorbell(rig.vring.fd.doorbell)
        rig.expect_break("the index, and then the bell")
        assert rig.vring.taken == 1
        assert words[SPURIOUS] == 0


def news_between_the_bell_and_the_look(rig: Rig, still: Standstill, patience_s: float) -> bool:
    """Ring for nothing, and publish while the Waker has taken that ring and has not looked; whether it breaks."""
    loop = rig.machine.loop
    ring_doorbell(rig.vring.fd.doorbell)
    still.wait(loop.waker)
    publish(rig, 1)
    ring_doorbell(rig.vring.fd.doorbell)
    still.go_on(loop.waker)
    return rig.runs_into_break(patience_s)


@LOOPING_AND_SEEING
def test_news_between_the_bell_and_the_look_break_once(name: str, engine: str) -> None:
    with standing(name, engine, Point.LOOKING) as (rig, still):
        assert news_between_the_bell_and_the_look(rig, still, 10.0)
        assert rig.vring.taken == 1
        rig.pulse.ring(1)
        rig.expect_break("a neighbour was rung")
        assert (rig.breaks, rig.pulse.rung, rig.machine.page.words[SPURIOUS]) == (2, 1, 0)


def serve_by_looking_before_taking_the_bell(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Look at the ring, then take the ring of the bell: what is published in between is rung for, and not heard."""
    inner: WatchSet = watched._inner  # type: ignore[attr-defined]

    class Hasty:
        def __getattr__(self, name: str) -> Any:
            return getattr(watched, name)

        def has_news(self) -> bool:
            return False

        def is_ready(self, ready: set[int]) -> bool:
            news = inner.has_news()
            watched._stand()  # type: ignore[attr-defined]
            inner.is_ready(ready)
            return news

    serve(channel, Hasty(), breaker, page)  # type: ignore[arg-type]


def test_a_waker_that_looks_before_it_takes_the_bell_loses_news() -> None:
    with standing("thread/select", "python", Point.LOOKING, serve_by_looking_before_taking_the_bell) as (rig, still):
        assert not news_between_the_bell_and_the_look(rig, still, LITTLE_S)


class Halting:
    """Ring memory as 16-bit words, with something that happens before and after each store into one of them."""

    def __init__(self, words: Any, at: int, happen: Callable[[str], None]) -> None:
        self._words, self._at, self._happen = words, at, happen

    def __getitem__(self, at: int) -> int:
        word: int = self._words[at]
        return word

    def __setitem__(self, at: int, word: int) -> None:
        if at == self._at:
            self._happen("before")
        self._words[at] = word
        if at == self._at:
            self._happen("after")


@SEEING_MEMORY
def test_an_index_is_never_seen_half_written(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        memory, vring, spare = rig.machine.memory, rig.vring, rig.pulse.sources[1]
        hand = Hand(memory, vring.layout)
        hand.set_indices(0x00FF)
        vring.fd.read()
        queue = Virtqueue(memory, vring.layout, "peer")
        hand.write_descriptor(0, DATA, 64)
        hand.offer(0)
        chain = queue.pop()
        assert chain is not None
        seen = []

        def look(when: str) -> None:
            ring_doorbell(vring.fd.doorbell)
            if when == "before":
                rig.pulse.ring_source(spare)
            rig.expect_break(f"{when} the store")
            seen.append((when, vring.taken))

        queue._u16 = Halting(queue._u16, vring.layout.used_idx >> 1, look)  # type: ignore[assignment]
        queue.push(chain, 0)
        assert seen == [("before", 0), ("after", 1)]


def test_an_index_that_is_written_by_halves_announces_tens_of_thousands() -> None:
    with open_rig("process/select", "python") as rig:
        at = rig.vring.layout.used_idx
        publish(rig, 0x00FF)
        rig.vring.fd.read()
        rig.machine.memory.view(at, 1)[0] = 0x00  # of 0x0100, the lower half
        ring_doorbell(rig.vring.fd.doorbell)
        rig.expect_break("half an index")
        assert rig.vring.taken == 0x10000 - 0xFF


# --- stores that are late: fact 3


def both_go_to_sleep(event_idx: bool, first: str, what: str, *, is_fenced: bool) -> bool:
    """Have one half publish while the other asks to be told, each with a store buffer; whether nobody is told."""
    with GuestMemory.create(0x20000) as memory, pytest.MonkeyPatch.context() as patch:
        pair = Pair(memory, event_idx=event_idx)
        driver, device = pair.driver, pair.device
        if what == "interrupt":
            driver.add([], [(DATA, 16)], 0)
            chain = device.pop()
            assert chain is not None
            driver.disable_interrupts()
        else:
            device.disable_notify()
        driver.kick_needed()
        buffers = StoreBuffer(memory.u16), StoreBuffer(memory.u16)
        driver._u16, device._u16 = buffers  # type: ignore[assignment]
        for module, buffer in ((driverqueue, buffers[0]), (virtqueue, buffers[1])):
            patch.setattr(module, "fence", buffer.drain if is_fenced else do_nothing)
        told: list[bool] = []
        if what == "interrupt":
            device.push(chain, 0)
            steps = [lambda: told.append(device.needs_interrupt()), lambda: told.append(driver.enable_interrupts())]
        else:
            driver.add([(DATA, 16)], [], 1)
            steps = [lambda: told.append(driver.kick_needed()), lambda: told.append(device.enable_notify())]
        for step in steps if first == "publisher" else reversed(steps):
            step()
        for buffer in buffers:
            buffer.drain()
        return not any(told)


@pytest.mark.parametrize("what", ["kick", "interrupt"])
@pytest.mark.parametrize("first", ["publisher", "sleeper"])
@pytest.mark.parametrize("event_idx", [False, True])
def test_one_of_two_halves_sees_the_other_however_late_its_stores_are(event_idx: bool, first: str, what: str) -> None:
    assert not both_go_to_sleep(event_idx, first, what, is_fenced=True)
    assert both_go_to_sleep(event_idx, first, what, is_fenced=False)


def leave_while_a_break_is_made(name: str, engine: str, *, is_fenced: bool) -> Iterator[Rig]:
    """Leave for another reason, and have a break made right after the Launcher has read which one it answers."""
    with open_rig(name, engine) as rig, pytest.MonkeyPatch.context() as patch:
        loop = rig.machine.loop
        mine = copy.copy(loop.vcpu.breaker())  # the Launcher's view: a thread Waker shares the breaker itself
        stores = mine._words = StoreBuffer(loop.page.words)  # type: ignore[attr-defined]
        patch.setattr(breakers, "fence", stores.drain if is_fenced else do_nothing)
        held = loop.waker.held

        def hold_and_break() -> int:
            answered = held()
            if rig.pulse.rung == 0 and rig.breaks == 0:
                rig.pulse.ring()
                while not rig.breaks:
                    os.sched_yield()
                turn_around(loop, rig.pulse.sources[1])
            stores.drain()
            return answered

        patch.setattr(loop.waker, "held", hold_and_break)
        loop.vcpu.breaker().break_out()
        loop.vcpu._breaker = mine  # type: ignore[attr-defined]
        assert isinstance(loop.run_once(), Broken)
        assert rig.pulse.rung == 1
        rig.pulse.ring(1)
        yield rig


@LOOPING
def test_a_break_right_after_the_flag_was_cleared_does_not_vanish(name: str, engine: str) -> None:
    for rig in leave_while_a_break_is_made(name, engine, is_fenced=True):
        serve_until(rig, 2)


@pytest.mark.parametrize("name", ["thread/select", "process/epoll"])
def test_a_break_vanishes_where_clearing_the_flag_is_late(name: str) -> None:
    for rig in leave_while_a_break_is_made(name, "python", is_fenced=False):
        assert not rig.runs_into_break(LITTLE_S)
