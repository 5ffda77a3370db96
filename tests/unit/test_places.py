"""Who waits, and what it can see: a forked child, a stranger that inherits nothing, a thread. On real Wakers.

The test is the vCPU's thread, with a breaker but without a Guest: it sleeps until it is broken out, and then does
what launcher/loop.py does.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

import waker
from shared.breaker import KINDS
from shared.child import TERMINAL_SIGNALS
from shared.errors import LabError, MemoryRefused, SourceRefused, WakerError
from shared.memory import GuestMemory
from shared.page import BREAKS, WAKES, Page
from shared.vring import RingView, VringFd
from shared.wire import MAX_FDS
from tests.support.blocked import once_blocked
from tests.support.breakers import open_breaker
from tests.support.fds import no_new_fds, open_fds
from tests.support.tasks import count_tasks, wait_for_tasks
from tests.support.until import until
from waker import Source, Waker, handle

PLACES = ("fork", "process", "thread")
ROOT = Path(__file__).resolve().parents[2]


class Lab:
    """What a Waker needs, in the thread that it breaks out."""

    def __init__(self, opened: ExitStack, place: str, kind: str = "eventfd") -> None:
        self.opened, self.place = opened, place
        self.page = opened.enter_context(Page.create())
        make = GuestMemory.private if place == "fork" else GuestMemory.create
        self.memory = opened.enter_context(make(0x20000))
        self.breaker = opened.enter_context(open_breaker(kind, self.page))
        self._count = 0

    def source(self) -> Source:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.opened.callback(close, fd)
        self._count += 1
        return Source(fd, f"source {self._count}")

    def sources(self, count: int) -> list[Source]:
        return [self.source() for _ in range(count)]

    def start(self, *sources: Source, memory: GuestMemory | None = None) -> Waker:
        wake = waker.start(f"{self.place}/select", memory or self.memory, self.page, self.breaker, sources)
        self.opened.callback(wake.stop)
        return wake

    def wait_for_break(self, wake: Waker) -> int:
        """Sleep until broken out, take the break, and return what is to be released."""
        while not self.breaker.is_set():
            self.breaker.wait()
        self.breaker.clear()
        return wake.held()

    def serve(self, wake: Waker, source: Source) -> None:
        """Ring `source`, and see that it wakes and is served."""
        ring(source)
        self.serve_rung(wake, source)

    def serve_rung(self, wake: Waker, source: Source) -> None:
        is_served = False
        while not is_served:
            held = self.wait_for_break(wake)
            with contextlib.suppress(BlockingIOError):  # a death breaks, too
                os.eventfd_read(source.fd)
                is_served = True
            wake.release(held)


def ring(source: Source) -> None:
    os.eventfd_write(source.fd, 1)


def close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def kill_and_see(wake: Waker) -> None:
    """Kill it, and return once it is known to be dead."""
    wake.kill()
    until(lambda: not wake.alive(), "the Waker was killed, and lives")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=PLACES)
def lab(request: pytest.FixtureRequest, opened: ExitStack) -> Lab:
    return Lab(opened, request.param)


@pytest.fixture
def process_lab(opened: ExitStack) -> Lab:
    return Lab(opened, "process")


@pytest.fixture
def fork_lab(opened: ExitStack) -> Lab:
    return Lab(opened, "fork")


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when the block leaves a file, a thread or a process, dead or alive."""
    children, before = {child.pid for child in psutil.Process().children()}, count_tasks()
    with no_new_fds():
        yield
    assert {child.pid for child in psutil.Process().children()} == children
    wait_for_tasks(before)


# --- what every place does


def test_it_wakes_for_each_source_and_is_the_same_waker_all_along(lab: Lab) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one, two)
    pid = wake.stats().pid
    for source in (one, two, one):
        lab.serve(wake, source)
    assert wake.alive()
    stats = wake.stats()
    assert (stats.breaks, stats.replaced, stats.pid) == (3, 0, pid)
    assert stats.wakes >= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_it_wakes_with_every_breaker(opened: ExitStack, place: str, kind: str) -> None:
    lab = Lab(opened, place, kind)
    source = lab.source()
    wake = lab.start(source)
    for _ in range(3):
        lab.serve(wake, source)


def test_a_waker_that_watches_nothing_can_be_given_something_later(lab: Lab) -> None:
    wake = lab.start()
    source = lab.source()
    wake.watch(source)
    lab.serve(wake, source)


def test_what_is_watched_already_may_be_watched_again(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source, source)
    wake.watch(source)
    wake.watch(source, source)
    lab.serve(wake, source)
    wake.unwatch(source)
    ring(source)
    assert_quiet(lab, wake)


def test_a_source_named_twice_is_watched_once_and_unwatched_at_once(lab: Lab) -> None:
    wake = lab.start()
    source = lab.source()
    wake.watch(source, source)
    lab.serve(wake, source)
    wake.unwatch(source, source)
    ring(source)
    assert_quiet(lab, wake)


def assert_quiet(lab: Lab, wake: Waker, witness: Source | None = None) -> None:
    """See that nothing that is ready now breaks: another source does, and nothing else was counted."""
    witness = witness or lab.source()
    ring(witness)
    breaks = lab.page.words[BREAKS]
    wake.watch(witness)
    held = lab.wait_for_break(wake)
    assert held == breaks + 1
    os.eventfd_read(witness.fd)
    wake.release(held)
    # It looked at least once more before it obeyed this.
    wake.unwatch(witness)
    assert lab.page.words[BREAKS] == breaks + 1
    assert not lab.breaker.is_set()


def test_an_unwatched_source_does_not_break(lab: Lab) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one, two)
    wake.unwatch(one)
    ring(one)
    assert_quiet(lab, wake)
    lab.serve(wake, two)


def test_unwatching_what_is_not_watched_changes_nothing(lab: Lab) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one)
    wake.unwatch(two)
    wake.unwatch(two, two)
    lab.serve(wake, one)
    assert wake.stats().replaced == 0


def test_data_that_waited_wakes_once_it_is_watched_again(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    for _ in range(3):
        wake.unwatch(source)
        ring(source)
        wake.watch(source)
        lab.serve_rung(wake, source)


def test_a_held_waker_obeys_and_does_not_break(lab: Lab) -> None:
    one, two, three = lab.sources(3)
    wake = lab.start(one, two, three)
    ring(one)
    held = lab.wait_for_break(wake)
    for _ in range(5):
        wake.unwatch(one, two)
        ring(two)
        wake.watch(two, one)
        wake.unwatch(three)
        wake.watch(three)
    assert lab.page.words[BREAKS] == held
    assert not lab.breaker.is_set()
    os.eventfd_read(one.fd)
    wake.release(held)
    lab.serve_rung(wake, two)
    lab.serve(wake, three)


def test_what_is_unwatched_while_held_does_not_break_after_the_release(lab: Lab) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one, two)
    ring(one)
    held = lab.wait_for_break(wake)
    ring(two)
    wake.unwatch(one, two)
    wake.release(held)
    assert_quiet(lab, wake)


def test_releasing_twice_or_when_nobody_is_held_does_no_harm(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    wake.release(wake.held())
    for _ in range(3):
        lab.serve(wake, source)
        wake.release(wake.held())
        wake.release(wake.held())
    assert wake.stats().breaks == 3


def test_a_release_of_an_earlier_break_does_not_let_a_held_waker_go(lab: Lab) -> None:
    source, other = lab.sources(2)
    wake = lab.start(source, other)
    lab.serve(wake, source)
    ring(source)
    held = lab.wait_for_break(wake)
    wake.release(held - 1)
    wake.unwatch(other)  # it answers: it has come past that release
    assert lab.page.words[BREAKS] == held
    wake.release(held)
    lab.serve_rung(wake, source)


def test_breaks_go_on_being_counted_past_2_to_the_31(lab: Lab) -> None:
    lab.page.words[BREAKS] = 2**31 - 2
    source = lab.source()
    wake = lab.start(source)
    for _ in range(4):
        lab.serve(wake, source)
    assert wake.stats().breaks == 2**31 + 2


def test_a_number_that_comes_back_as_another_file_is_another_source(lab: Lab) -> None:
    old, neighbour = lab.sources(2)
    wake = lab.start(old, neighbour)
    wake.unwatch(old)
    os.close(old.fd)
    new = lab.source()
    assert new.fd == old.fd
    ring(new)
    assert_quiet(lab, wake)
    wake.watch(new)
    lab.serve_rung(wake, new)
    lab.serve(wake, neighbour)


def test_a_file_closed_without_a_word_leaves_its_neighbours_alone(lab: Lab) -> None:
    old, neighbour = lab.sources(2)
    wake = lab.start(old, neighbour)
    os.close(old.fd)
    for _ in range(3):
        lab.serve(wake, neighbour)
    new = lab.source()
    wake.unwatch(old)
    wake.watch(new)
    lab.serve(wake, new)
    lab.serve(wake, neighbour)


@pytest.mark.parametrize("fd", [-1, "closed"])
def test_a_file_that_is_not_open_is_refused_and_nothing_changes(lab: Lab, fd: int | str) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one)
    closed = lab.source()
    os.close(closed.fd)
    bad = closed if fd == "closed" else Source(-1, "minus one")
    with pytest.raises(SourceRefused, match=rf"^{lab.place}/select: {bad.name}: fd {bad.fd} is not open$"):
        wake.watch(two, bad)
    ring(two)
    assert_quiet(lab, wake)
    lab.serve(wake, one)
    wake.watch(two)
    lab.serve_rung(wake, two)
    assert wake.stats().replaced == 0


def test_a_file_that_was_closed_is_not_given_to_a_waker_that_starts(lab: Lab) -> None:
    one, closed = lab.sources(2)
    os.close(closed.fd)
    wake = lab.start(closed, one)
    lab.serve(wake, one)


def test_a_ring_that_lies_nowhere_is_refused_when_it_is_watched(lab: Lab) -> None:
    good = lab.source()
    wake = lab.start(good)
    sources = [lab.source()]
    for view in (RingView(lab.memory.size, 0), RingView(0x1001, 0), RingView(0x1000, 64)):
        if lab.place == "fork":  # opened after the fork: refused by the next child
            sources = [lab.source()]
        for bad in (Source(sources[0].fd, "ring", view), Source(sources[0].fd, "ring", None, view)):
            with pytest.raises(SourceRefused, match=rf"^{lab.place}/select: ring: "):
                wake.watch(bad)
    lab.serve(wake, good)


def test_news_in_a_ring_wakes_where_memory_is_shared(lab: Lab) -> None:
    if lab.place == "fork":
        pytest.skip("a forked Waker sees a private copy, which is its point (W7)")
    vring = VringFd(lab.memory, lab.page, 0x1002, 5)
    lab.opened.callback(vring.close)
    wake = lab.start(Source(vring.doorbell, "vring", vring.view))
    os.eventfd_write(vring.doorbell, 1)  # no news: answered, and no reason to break
    for turn in range(1, 4):
        lab.memory.u16[0x1002 >> 1] = turn
        os.eventfd_write(vring.doorbell, 1)
        held = lab.wait_for_break(wake)
        assert held == turn
        assert vring.read() == 1
        wake.release(held)


def test_news_that_were_there_before_the_waker_wake_without_a_doorbell(lab: Lab) -> None:
    vring = VringFd(lab.memory, lab.page, 0x1002, 5)
    lab.opened.callback(vring.close)
    lab.memory.u16[0x1002 >> 1] = 9  # before the fork: even a private copy has it
    wake = lab.start(Source(vring.doorbell, "vring", vring.view))
    held = lab.wait_for_break(wake)
    assert vring.read() == 9
    wake.release(held)


def test_nothing_that_happens_costs_nothing(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    lab.serve(wake, source)
    wake.watch(lab.source())  # answered: the last pass is over
    wakes = lab.page.words[WAKES]
    for _ in range(1000):
        os.sched_yield()
    assert lab.page.words[WAKES] == wakes


# --- deaths


def test_a_death_breaks_out_a_vcpu_that_sleeps(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    with once_blocked(wake.kill):
        lab.wait_for_break(wake)
    assert not wake.alive()


def test_a_dead_waker_is_replaced_with_the_same_watch_set(lab: Lab) -> None:
    one, two, gone = lab.sources(3)
    wake = lab.start(one, gone)
    wake.watch(two)
    wake.unwatch(gone)
    for deaths in range(1, 4):
        kill_and_see(wake)
        wake.release(wake.held())
        assert wake.alive()
        assert wake.stats().replaced == deaths
        ring(gone)
        lab.serve(wake, one)
        lab.serve(wake, two)


def test_what_was_rung_while_nobody_watched_is_served(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    kill_and_see(wake)
    ring(source)
    lab.serve_rung(wake, source)


def test_a_waker_that_dies_while_held_loses_nothing(lab: Lab) -> None:
    source = lab.source()
    wake = lab.start(source)
    ring(source)
    held = lab.wait_for_break(wake)
    kill_and_see(wake)
    wake.release(held)
    lab.serve_rung(wake, source)


def test_a_change_finds_a_dead_waker_and_has_it_replaced(lab: Lab) -> None:
    one, two = lab.sources(2)
    wake = lab.start(one)
    kill_and_see(wake)
    wake.watch(two)
    assert wake.alive()
    lab.serve(wake, two)
    kill_and_see(wake)
    wake.unwatch(one)
    assert wake.alive()
    ring(one)
    lab.serve(wake, two)


@pytest.mark.parametrize("place", ["fork", "process"])
def test_a_waker_killed_in_the_middle_of_a_change_is_replaced_and_the_change_made(
    opened: ExitStack, place: str
) -> None:
    lab = Lab(opened, place)
    one, two = lab.sources(2)
    wake = lab.start(one, two)
    for change in (wake.unwatch, wake.watch):
        pid = wake.stats().pid
        os.kill(pid, signal.SIGSTOP)
        with once_blocked(lambda pid=pid: os.kill(pid, signal.SIGKILL)):  # type: ignore[misc]
            change(two)
        assert wake.stats().pid != pid
        lab.serve(wake, one)
    lab.serve(wake, two)
    # What a fork does not know takes another fork anyway, which is no death.
    assert wake.stats().replaced == (1 if place == "fork" else 2)


def test_a_waker_that_keeps_dying_is_given_up_in_one_sentence(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "_CRASH_LOOP_S", 1e9)  # however slow this machine is
    source = lab.source()
    with nothing_left():
        wake = lab.start(source)
        for _ in range(handle._MANY_DEATHS - 1):
            kill_and_see(wake)
            wake.release(wake.held())
        kill_and_see(wake)
        with pytest.raises(WakerError) as given_up:
            wake.release(wake.held())
        assert str(given_up.value).startswith(f"{lab.place}/select: the Waker died {handle._MANY_DEATHS} times within")
        assert "\n" not in str(given_up.value)
        assert wake.stats().replaced == handle._MANY_DEATHS - 1
        wake.stop()


def test_killing_a_waker_that_is_dead_kills_nobody_else(lab: Lab) -> None:
    wake = lab.start(lab.source())
    kill_and_see(wake)
    gate = threading.Event()
    bystanders = [threading.Thread(target=gate.wait) for _ in range(8)]  # its number may be one of theirs now
    for thread in bystanders:
        thread.start()
    wake.kill()
    assert all(thread.is_alive() for thread in bystanders)
    gate.set()
    for thread in bystanders:
        thread.join()
    wake.release(wake.held())
    assert wake.alive()


# --- many


def room_for(fds: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < fds:
        pytest.skip(f"RLIMIT_NOFILE's hard limit is {hard}; {fds} open files are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, fds), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def much_room() -> Iterator[None]:
    yield from room_for(2048)


@pytest.mark.usefixtures("much_room")
@pytest.mark.parametrize("count", [MAX_FDS, MAX_FDS + 1, 600])
def test_many_sources_can_be_watched_from_the_beginning(lab: Lab, count: int) -> None:
    sources = lab.sources(count)
    wake = lab.start(*sources)
    for at in (0, count - 1, MAX_FDS - 1, count // 2):
        lab.serve(wake, sources[at])


@pytest.mark.usefixtures("much_room")
def test_many_sources_can_be_watched_and_unwatched_at_once(lab: Lab) -> None:
    sources = lab.sources(600)
    wake = lab.start()
    wake.watch(*sources)
    for at in (599, 0, 253):
        lab.serve(wake, sources[at])
    wake.unwatch(*sources[:-1])
    for source in sources[:-1]:
        ring(source)
    assert_quiet(lab, wake)
    lab.serve(wake, sources[-1])
    kill_and_see(wake)
    wake.release(wake.held())
    lab.serve(wake, sources[-1])


@pytest.mark.usefixtures("much_room")
def test_what_select_cannot_take_is_refused_and_none_of_it_is_watched(lab: Lab) -> None:
    one, witness = lab.sources(2)
    wake = lab.start(one)
    many = lab.sources(1100)
    with pytest.raises(
        SourceRefused, match=rf"^{lab.place}/select: source \d+: select cannot watch fd 1024, .*FD_SETSI"
    ):
        wake.watch(*many)
    for at in (0, 300, -1):
        ring(many[at])
    assert_quiet(lab, wake, witness)
    lab.serve(wake, one)
    wake.watch(many[0])  # refused together, taken alone
    lab.serve_rung(wake, many[0])


@pytest.mark.usefixtures("much_room")
def test_a_process_keeps_no_copy_of_what_it_refused_or_no_longer_watches(process_lab: Lab) -> None:
    lab = process_lab
    one = lab.source()
    wake = lab.start(one)
    before = fds_of(wake.stats().pid)
    with pytest.raises(SourceRefused):
        wake.watch(*lab.sources(1100))
    assert fds_of(wake.stats().pid) == before
    some = lab.sources(5)
    wake.watch(*some)
    assert len(fds_of(wake.stats().pid)) == len(before) + 5
    wake.unwatch(*some)
    assert fds_of(wake.stats().pid) == before
    assert wake.stats().replaced == 0


@pytest.mark.usefixtures("much_room")
def test_a_waker_that_starts_when_a_thousand_files_are_open_works_or_says_why_not(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    source = lab.source()
    lab.sources(1050)
    said = ""
    try:
        lab.serve(lab.start(source), source)
    except (SourceRefused, WakerError) as refusal:
        said = str(refusal)
    assert not said or said.startswith(f"{lab.place}/select: its channel: select cannot watch fd 1")
    assert capfd.readouterr().err == ""


# --- ends


def test_nothing_is_left_after_stop_and_once_is_enough(lab: Lab) -> None:
    source = lab.source()
    with nothing_left():
        wake = lab.start(source)
        lab.serve(wake, source)
        wake.stop()
        wake.stop()
    assert not wake.alive()


def test_nothing_is_left_after_a_stop_while_held(lab: Lab) -> None:
    source = lab.source()
    with nothing_left():
        wake = lab.start(source)
        ring(source)
        lab.wait_for_break(wake)
        wake.stop()


def test_nothing_is_left_of_a_waker_that_died(lab: Lab) -> None:
    source = lab.source()
    with nothing_left(), lab.start(source) as wake:
        kill_and_see(wake)
        wake.release(wake.held())
        kill_and_see(wake)


def test_an_end_that_was_asked_for_breaks_nobody(lab: Lab) -> None:
    wake = lab.start(lab.source())
    wake.stop()
    assert not lab.breaker.is_set()


@pytest.mark.parametrize("place", PLACES)
def test_starting_and_stopping_fifty_times_leaves_nothing(opened: ExitStack, place: str) -> None:
    lab = Lab(opened, place)
    source = lab.source()
    with nothing_left():
        for _ in range(50):
            with lab.start(source) as wake:
                lab.serve(wake, source)
    assert lab.page.words[BREAKS] == 50


def test_a_start_that_fails_for_want_of_fds_leaves_nothing(lab: Lab) -> None:
    source = lab.source()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    with nothing_left(), ExitStack() as holes:
        top = max(int(fd) for fd in open_fds())
        while (hole := os.eventfd(0)) <= top:
            holes.callback(os.close, hole)
        holes.callback(os.close, hole)
        for room in range(12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hole + 1 + room, hard))
            try:
                wake = waker.start(f"{lab.place}/select", lab.memory, lab.page, lab.breaker, [source])
            except (LabError, OSError) as error:
                outcomes.append(str(error))
            else:
                outcomes.append("")
                wake.stop()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outcomes[0] != ""
    assert outcomes[-1] == ""


def test_a_waker_that_cannot_be_started_is_said_to_have_died(process_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_left():
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(WakerError, match=r"^process/select: the Waker died while it started"):
            process_lab.start()
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(OSError, match="/nowhere/python"):
            process_lab.start()


# --- fork


def test_a_file_opened_after_the_fork_takes_another_fork_and_is_no_death(fork_lab: Lab) -> None:
    one = fork_lab.source()
    wake = fork_lab.start(one)
    first = wake.stats().pid
    two = fork_lab.source()
    wake.watch(two)
    second = wake.stats().pid
    assert second != first
    assert wake.stats().replaced == 0
    fork_lab.serve(wake, two)
    fork_lab.serve(wake, one)
    wake.unwatch(two)
    wake.watch(two)  # this one the child knows
    assert wake.stats().pid == second
    fork_lab.serve(wake, two)


def test_another_fork_while_held_keeps_holding_nobody(fork_lab: Lab) -> None:
    one = fork_lab.source()
    wake = fork_lab.start(one)
    ring(one)
    held = fork_lab.wait_for_break(wake)
    two = fork_lab.source()
    wake.watch(two)
    os.eventfd_read(one.fd)
    wake.release(held)
    fork_lab.serve(wake, two)


def test_a_forked_child_has_what_was_watched_and_no_more(fork_lab: Lab) -> None:
    sources = fork_lab.sources(3)
    wake = fork_lab.start(*sources)
    fds = fds_of(wake.stats().pid)
    pipes = {fd for fd, what in fds.items() if what.startswith("pipe:") and fd != 2}
    assert len({fds[fd] for fd in pipes}) == 2  # commands and answers
    assert set(fds) == {2, *fork_lab.breaker.handle().fds, *pipes, *(source.fd for source in sources)}


def test_a_forked_child_sees_memory_as_it_was(fork_lab: Lab) -> None:
    vring = VringFd(fork_lab.memory, fork_lab.page, 0x1002, 0)
    fork_lab.opened.callback(vring.close)
    source = fork_lab.source()
    wake = fork_lab.start(source, Source(vring.doorbell, "vring", vring.view))
    fork_lab.memory.u16[0x1002 >> 1] = 1
    os.eventfd_write(vring.doorbell, 1)
    until(lambda: wake.stats().looks, "nobody looked")
    fork_lab.serve(wake, source)
    assert wake.stats().breaks == 1  # for that source alone
    assert vring.poll()


# --- process


def fds_of(pid: int) -> dict[int, str]:
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def flags_of(pid: int, fd: int) -> int:
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("flags:")), 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_has_exactly_what_it_was_given(opened: ExitStack, kind: str) -> None:
    lab = Lab(opened, "process", kind)
    leaking = os.eventfd(0)  # not even what forgot its CLOEXEC
    os.set_inheritable(leaking, True)
    opened.callback(os.close, leaking)
    reader, writer = os.pipe()
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    wake = lab.start(Source(reader, "pipe"))
    pid = wake.stats().pid
    fds = fds_of(pid)
    assert fds.pop(0).startswith("socket:")
    assert fds.pop(1) == "/dev/null"
    assert fds.pop(2) == str(Path("/proc/self/fd/2").readlink())
    memory, page = "/memfd:guest-memory (deleted)", "/memfd:control-page (deleted)"
    # Python's mmap keeps a copy of what it maps.
    mapped = {memory, page} | ({"/memfd:run (deleted)"} if kind == "immediate" else set())
    assert {what for what in fds.values() if what.startswith("/memfd")} == mapped
    rest = [what for what in fds.values() if not what.startswith("/memfd")]
    way = lab.breaker.handle().fds if kind != "immediate" else ()  # that one is mapped, and a memfd here
    assert sorted(rest) == sorted(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in (reader, *way))


def test_a_process_can_read_guest_memory_and_not_write_it(process_lab: Lab) -> None:
    wake = process_lab.start()
    pid = wake.stats().pid
    fds = [fd for fd, what in fds_of(pid).items() if "guest-memory" in what]
    assert {flags_of(pid, fd) & os.O_ACCMODE for fd in fds} == {os.O_RDONLY}
    mapped = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "guest-memory" in line]
    assert [line.split()[1] for line in mapped] == ["r--s"]
    given = process_lab.memory.readonly_fd()  # what it was given
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(given, b"!", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(given, process_lab.memory.size, mmap.MAP_SHARED, mmap.PROT_WRITE)
    os.close(given)


def test_a_thread_and_a_process_map_the_same_pages(process_lab: Lab) -> None:
    wake = process_lab.start()

    def inodes(pid: int) -> set[str]:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {line.split()[4] for line in lines if "guest-memory" in line}

    assert inodes(wake.stats().pid) <= inodes(os.getpid())


@pytest.mark.parametrize("place", ["fork", "process"])
@pytest.mark.parametrize("signo", TERMINAL_SIGNALS)
def test_what_the_terminal_sends_to_the_group_does_not_touch_the_waker(
    opened: ExitStack, place: str, signo: signal.Signals
) -> None:
    lab = Lab(opened, place)
    source = lab.source()
    wake = lab.start(source)
    pid = wake.stats().pid
    os.kill(pid, signo)
    lab.serve(wake, source)
    assert wake.stats().pid == pid
    assert wake.stats().replaced == 0


@pytest.mark.parametrize("place", ["fork", "process"])
def test_a_waker_ends_by_sigterm_and_is_replaced(opened: ExitStack, place: str) -> None:
    lab = Lab(opened, place)
    source = lab.source()
    wake = lab.start(source)
    with once_blocked(lambda: os.kill(wake.stats().pid, signal.SIGTERM)):
        lab.breaker.wait()
    lab.serve(wake, source)
    assert wake.stats().replaced == 1


def test_a_process_refuses_private_memory_by_name(process_lab: Lab) -> None:
    with GuestMemory.private(0x20000) as private, nothing_left(), pytest.raises(MemoryRefused, match="private mapping"):
        process_lab.start(memory=private)


def test_a_process_refuses_memory_that_its_owner_maps_privately(process_lab: Lab) -> None:
    fd = os.dup(process_lab.memory.fileno())
    copy = mmap.mmap(fd, process_lab.memory.size, mmap.MAP_PRIVATE)
    with GuestMemory(copy, fd, "memfd") as lying, pytest.raises((WakerError, MemoryRefused)) as refusal:
        process_lab.start(memory=lying)
    assert "private mapping" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_process_refuses_a_memfd_that_could_be_truncated(process_lab: Lab) -> None:
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 0x20000)
    unsealed = GuestMemory(mmap.mmap(fd, 0x20000, mmap.MAP_SHARED), fd, "memfd")
    with unsealed, nothing_left(), pytest.raises((WakerError, MemoryRefused)) as refusal:
        process_lab.start(memory=unsealed)
    assert str(refusal.value).startswith("process/select: guest memory: the memfd is not sealed against shrinking")


def test_the_canary_is_gone_once_the_process_has_seen_it(process_lab: Lab) -> None:
    top = process_lab.memory.view(process_lab.memory.size - 8, 8)
    top[:] = b"as it is"
    process_lab.start()
    assert bytes(top) == b"as it is"
    top.release()


def test_a_process_starts_where_standard_input_and_output_are_closed() -> None:
    script = """
import os, sys
import waker
from shared import breaker as breakers
from shared.memory import GuestMemory
from shared.page import Page
memory, page = GuestMemory.create(0x20000), Page.create()
breaker = breakers.create("eventfd", page)
os.close(0)
os.close(1)
with waker.start("process/select", memory, page, breaker) as wake:
    print(os.readlink(f"/proc/{wake.stats().pid}/fd/0").partition(":")[0], file=sys.stderr)
breaker.close()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "socket\n")


def test_nobody_gets_a_traceback_who_types_it(tmp_path: Path) -> None:
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        done = subprocess.run(
            [sys.executable, "-m", "waker"], cwd=ROOT, stdin=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr == "waker: standard input is not the Launcher's socket (Socket operation on non-socket)\n"


# --- thread


def test_a_thread_runs_in_this_process(opened: ExitStack) -> None:
    lab = Lab(opened, "thread")
    source = lab.source()
    before = set(threading.enumerate())
    wake = lab.start(source)
    assert [thread.name for thread in threading.enumerate() if thread not in before] == ["thread/select"]
    assert wake.stats().pid == os.getpid()
    lab.serve(wake, source)
