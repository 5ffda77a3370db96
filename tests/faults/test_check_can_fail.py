"""A check that cannot fail proves nothing: a Waker is broken in one way at a time, and the rule for it must say so.

Most sabotage is done to `thread/select` on the Python engine, which lives in this process and needs no privilege. What
only a process of its own can do wrong is done to `fork` and `process`.
"""

from __future__ import annotations

import os
import select
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import shared.child
from launcher import engines
from launcher.check import endurance, props, rig, rules
from launcher.check.endurance import endure
from launcher.check.report import FAIL, PASS, try_rule
from launcher.check.rig import RuleBroken
from launcher.devices.pulse import Pulse
from launcher.engines.python import PythonVcpu
from shared import breaker as breakers
from shared.breaker import Breaker, ExitFlag
from shared.breakers.eventfd import EventfdBreaker
from shared.errors import SourceRefused
from shared.memory import GuestMemory
from shared.page import BREAK, BREAKS, Page
from shared.vring import RingView
from shared.wire import PeerGone
from waker import Source, Waker
from waker.api import Channel, Release
from waker.places.fork import ForkPlace
from waker.places.thread import ThreadPlace
from waker.serve import serve
from waker.strategies import select as select_strategy
from waker.watchset import WatchSet

ROOT = Path(__file__).resolve().parents[2]

WAKER = "thread/select"
ENGINE = "python"


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "PATIENCE_S", 0.3)
    monkeypatch.setattr(endurance, "PATIENCE_S", 0.3)


def assert_fails(rule: str, why: str, waker_name: str = WAKER, engine: str = ENGINE) -> None:
    outcome, detail = try_rule(rule, waker_name, engine)
    assert outcome == FAIL, f"{rule} said {outcome}: {detail}"
    assert why in detail
    assert "\n" not in detail


# --- strategies that report too little, too much or too often


class Sabotaged(select_strategy.Strategy):
    """The strategy with one thing wrong; the first fd is the channel, which must go on working."""

    def __init__(self) -> None:
        super().__init__()
        self.channel: int | None = None

    def add(self, fd: int) -> None:
        if self.channel is None:
            self.channel = fd
        super().add(fd)


class Blind(Sabotaged):
    """Reports nothing but commands."""

    def wait(self) -> set[int]:
        return set(select.select([self.channel], [], [])[0])


class EdgeTriggered(Sabotaged):
    """Reports what became ready, once."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()

    def add(self, fd: int) -> None:
        super().add(fd)
        self._epoll.register(fd, select.EPOLLIN | (0 if fd == self.channel else select.EPOLLET))

    def remove(self, fd: int) -> None:
        super().remove(fd)
        self._epoll.unregister(fd)

    def wait(self) -> set[int]:
        return {fd for fd, _ in self._epoll.poll()}

    def close(self) -> None:
        self._epoll.close()


class Excited(Sabotaged):
    """Takes whatever it looks at for ready."""

    def wait(self) -> set[int]:
        if select.select([self.channel], [], [], 0.001)[0]:
            return {self.channel or 0}
        return self._fds - {self.channel or 0}


class Restless(Sabotaged):
    """Comes back every few milliseconds, with nothing."""

    def wait(self) -> set[int]:
        return set(select.select(list(self._fds), [], [], 0.002)[0])


class Poisoned(Sabotaged):
    """Lets one closed fd spoil the whole set for good."""

    def wait(self) -> set[int]:
        try:
            return set(select.select(self._fds, [], [])[0])
        except OSError:
            return set(select.select([self.channel], [], [])[0])


class Silent(Sabotaged):
    """Drops what it cannot take, and says nothing."""

    def add(self, fd: int) -> None:
        if fd < select_strategy.FD_SETSIZE:
            super().add(fd)


class Curt(Sabotaged):
    """Refuses, and gives no reason."""

    def add(self, fd: int) -> None:
        if fd >= 200:
            raise SourceRefused("no")
        super().add(fd)


@pytest.mark.parametrize(
    ("rule", "strategy", "why"),
    [
        ("W1", Blind, "became ready: the Guest was not broken out"),
        ("W2", EdgeTriggered, "unread data, look 2: the Guest was not broken out"),
        ("W3", Excited, "nothing is ready: the Guest was broken out"),
        ("W3", Restless, "times while nothing happened"),
        ("W8", Poisoned, "a neighbour of a closed fd became ready: the Guest was not broken out"),
        ("W11", Silent, "became ready: the Guest was not broken out"),
        ("W11", Curt, "refused without saying which fd"),
        ("W12", Blind, "with a Guest that computes: the Guest was not broken out"),
    ],
)
def test_a_bad_strategy_fails_its_rule(
    monkeypatch: pytest.MonkeyPatch, rule: str, strategy: type[Sabotaged], why: str
) -> None:
    monkeypatch.setattr(select_strategy, "Strategy", strategy)
    assert_fails(rule, why)


def test_a_strategy_that_refuses_long_before_fd_setsize_fails_w11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_strategy, "FD_SETSIZE", 64)
    assert_fails("W11", "")


def test_a_process_that_wakes_up_for_nothing_fails_w3_although_it_reports_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(self: Sabotaged) -> set[int]:
        while not (ready := select.select(list(self._fds), [], [], 0.002)[0]):
            pass
        return set(ready)

    monkeypatch.setattr(Sabotaged, "wait", wait)
    monkeypatch.setattr(select_strategy, "Strategy", Sabotaged)
    assert_fails("W3", "the Waker was scheduled", "fork/select")


# --- books that are not kept


def test_a_waker_that_does_not_forget_fails_w3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchSet, "remove", lambda self, tokens: None)
    assert_fails("W3", "an fd that is not watched is ready: the Guest was broken out")


def test_a_waker_that_does_not_forget_fails_w8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchSet, "remove", lambda self, tokens: None)
    assert_fails("W8", "another file came under a number that is not watched: the Guest was broken out")


def test_w8_is_tried_although_a_lower_number_becomes_free_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where something of an earlier machine is closed late."""
    spare = [os.open(os.devnull, os.O_RDONLY)]
    opened = Pulse.open

    def open_and_free(self: Pulse) -> Source:
        source = opened(self)
        if len(self.sources) == 3 and spare:
            os.close(spare.pop())
        return source

    monkeypatch.setattr(Pulse, "open", open_and_free)
    outcome, detail = try_rule("W8", "thread/select", "python")
    assert (outcome, spare) == (PASS, []), detail


def test_a_waker_that_ignores_a_watch_fails_w4(monkeypatch: pytest.MonkeyPatch) -> None:
    add = WatchSet.add

    def add_at_first(self: WatchSet, sources: Sequence[tuple[int, Source]]) -> str | None:
        return None if self._by_token else add(self, sources)

    monkeypatch.setattr(WatchSet, "add", add_at_first)
    assert_fails("W4", "watched again with data waiting: the Guest was not broken out")


def test_a_waker_that_takes_data_that_waited_for_old_fails_w4(monkeypatch: pytest.MonkeyPatch) -> None:
    add = EdgeTriggered.add

    def add_and_swallow(self: EdgeTriggered, fd: int) -> None:
        add(self, fd)
        if fd != self.channel:
            self._epoll.poll(0)

    monkeypatch.setattr(EdgeTriggered, "add", add_and_swallow)
    monkeypatch.setattr(select_strategy, "Strategy", EdgeTriggered)
    assert_fails("W4", "watched again with data waiting: the Guest was not broken out")


# --- a loop that does not hold


def serve_without_being_held(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    try:
        while True:
            ready = watched.wait()
            if channel.fileno() in ready:
                for command in channel.receive():
                    if not isinstance(command, Release):
                        channel.answer(0, None)
            elif watched.is_ready(ready):
                page.words[BREAKS] += 1
                breaker.break_out()
    except PeerGone:
        return


def test_a_waker_that_is_not_held_fails_w5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waker.places.thread.serve", serve_without_being_held)
    assert_fails("W5", "more breaks while the first was not released")


def test_a_waker_that_is_never_let_go_fails_w2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadPlace, "release", lambda self, upto: None)
    assert_fails("W2", "unread data, look 2: the Guest was not broken out")


# --- breaks that get lost


class KickOnly:
    """The Waker's end of a breaker that forgets the flag; the watchdog's still works."""

    def __init__(self, breaker: Breaker) -> None:
        (self._fd,) = breaker.handle().fds

    def break_out(self) -> None:
        os.eventfd_write(self._fd, 1)


def serve_with_kicks_only(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    serve(channel, watched, KickOnly(breaker), page)  # type: ignore[arg-type]


def serve_with_flags_only(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    class FlagOnly:
        def break_out(self) -> None:
            page.words[BREAK] = 1

    serve(channel, watched, FlagOnly(), page)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("W1", "became ready: the Guest was not broken out"),
        ("W6", "ring 0: no break was asked for"),
        ("W12", "with a Guest that computes: the Guest was not broken out"),
    ],
)
def test_a_kick_without_the_flag_fails(monkeypatch: pytest.MonkeyPatch, rule: str, why: str) -> None:
    monkeypatch.setattr("waker.places.thread.serve", serve_with_kicks_only)
    assert_fails(rule, why)


def test_a_flag_without_a_kick_fails_w1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waker.places.thread.serve", serve_with_flags_only)
    assert_fails("W1", "the Guest was not broken out")


def test_a_flag_without_a_kick_fails_w12_where_nobody_looks_at_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := engines.get("kvm").why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr("waker.places.thread.serve", serve_with_flags_only)
    assert_fails("W12", "the Guest was not broken out", engine="kvm")


def test_a_flag_without_a_kick_is_found_out_by_many_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waker.places.thread.serve", serve_with_flags_only)
    with pytest.raises(RuleBroken, match=r"^ring \d+ was lost: nobody was woken"):
        endure(WAKER, ENGINE, 20_000)


def test_a_vcpu_that_drops_a_break_made_before_its_entry_fails_w6(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PythonVcpu.run

    def clear_and_run(self: PythonVcpu) -> object:
        self.breaker().clear()
        return run(self)

    monkeypatch.setattr(PythonVcpu, "run", clear_and_run)
    assert_fails("W6", "break 0, made outside the Guest: the Guest was not broken out")


def clear_after_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the break taken after servicing: what came meanwhile is cleared away with it."""
    release = Waker.release

    def release_and_clear(self: Waker, held: int) -> None:
        release(self, held)
        self._page.words[BREAK] = 0

    monkeypatch.setattr(EventfdBreaker, "clear", lambda self: None)
    monkeypatch.setattr(Waker, "release", release_and_clear)


def test_a_break_that_is_cleared_after_servicing_is_found_out_by_many_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_after_release(monkeypatch)
    with pytest.raises(RuleBroken, match=r"^ring \d+ was lost: nobody was woken"):
        endure(WAKER, ENGINE, 20_000)


# --- a ring that is not looked at


def test_a_waker_that_trusts_the_doorbell_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    is_ready = WatchSet.is_ready
    monkeypatch.setattr(WatchSet, "is_ready", lambda self, ready: is_ready(self, ready) or bool(ready))
    assert_fails("W7", "the doorbell rang, but the ring has no news: the Guest was broken out")


def test_a_waker_that_does_not_answer_the_doorbell_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingView, "answer_doorbell", lambda self, doorbell, memory, page: None)
    assert_fails("W7", "the doorbell rang and the Waker did not look")


def test_a_waker_that_never_looks_at_the_ring_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchSet, "has_news", lambda self: False)
    assert_fails("W7", "the ring has news: the Guest was not broken out")


def test_a_waker_that_sees_an_old_copy_of_memory_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    make = WatchSet.__init__

    def make_stale(self: WatchSet, strategy: object, memory: GuestMemory, page: Page, **more: bool) -> None:
        copy = GuestMemory.private(memory.size)
        copy.view(0, memory.size)[:] = memory.view(0, memory.size)
        make(self, strategy, copy, page, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(WatchSet, "__init__", make_stale)
    assert_fails("W7", "the ring has news: the Guest was not broken out")


def test_a_forked_waker_that_is_not_stale_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuestMemory, "private", GuestMemory.create)
    assert_fails("W7", "a forked Waker ", "fork/select")


def test_a_forked_waker_that_does_not_look_at_all_fails_w7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingView, "answer_doorbell", lambda self, doorbell, memory, page: None)
    assert_fails("W7", "the doorbell rang and the Waker did not look", "fork/select")


# --- ends that are not noticed


@pytest.fixture
def customized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Launchers that are started from here run some code first."""

    def customize(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    return customize


# It lives on for three times as long as W9 allows, and then goes.
LINGER = """
import os
from threading import Event
def linger(serve):
    def serve_and_linger(*args):
        try:
            serve(*args)
        finally:
            Event().wait(0.3)
    return serve_and_linger
"""


def test_a_forked_waker_that_outlives_its_launcher_fails_w9(customized: Callable[[str], None]) -> None:
    customized(f"{LINGER}\nimport waker.places.fork as place\nplace.serve = linger(place.serve)\n")
    assert_fails("W9", "the Waker outlived its Launcher by", "fork/select")


def test_a_process_waker_that_outlives_its_launcher_fails_w9(customized: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "lingering.py").write_text(
        f"{LINGER}\nimport waker.places.process as place\nplace.serve = linger(place.serve)\nplace.live_as_process(0)\n"
    )
    # The child's own path is shared.child's to say, not the environment's.
    customized(
        f"""
        import shared.child
        import waker.places.process as place
        shared.child._ROOT += {":" + str(tmp_path)!r}
        place.spawn = lambda module, theirs, *titles: shared.child.spawn("lingering", theirs, *titles)
        """
    )
    assert_fails("W9", "the Waker outlived its Launcher by", "process/select")


def test_a_name_that_is_left_behind_fails_w9(
    customized: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a folder of our own: a name in /dev/shm would fail every W9 that is tried on this machine meanwhile.
    names = tmp_path / "shm"
    names.mkdir()
    monkeypatch.setattr(rules, "names_left", lambda: {path.name for path in names.iterdir()})
    customized(f"from pathlib import Path\nPath({str(names / 'forgotten')!r}).touch()\n")
    assert_fails("W9", "left behind: ['forgotten']")


def test_w9_looks_where_names_are() -> None:
    name = Path("/dev/shm") / f"a-test-of-w9-{os.getpid()}"
    name.touch()
    found = props.names_left()
    name.unlink()
    assert str(name) in found


def test_a_launcher_that_does_not_start_fails_w9(customized: Callable[[str], None]) -> None:
    customized("import os, sys\nif 'run' in sys.orig_argv: os._exit(3)\n")
    assert_fails("W9", "a Launcher did not start")


def test_a_dead_waker_that_is_not_replaced_fails_w10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waker, "_replace", lambda self: None)
    assert_fails("W10", "after death 1: the Guest was not broken out")


def test_a_replacement_that_does_not_know_the_watch_set_fails_w10(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Waker._begin_anew

    def begin_with_nothing(self: Waker) -> None:
        self._tokens.clear()
        begin(self)

    monkeypatch.setattr(Waker, "_begin_anew", begin_with_nothing)
    assert_fails("W10", "after death 1: the Guest was not broken out")


# --- the check itself


@pytest.fixture
def rescuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Break the Guest by hand after a while, again and again, so that a check that would hang does not."""
    made: list[Breaker] = []
    create = breakers.create

    def create_and_keep(kind: str, page: Page, flag: ExitFlag | None) -> Breaker:
        made.append(create(kind, page, flag))
        return made[-1]

    monkeypatch.setattr(breakers, "create", create_and_keep)
    over = threading.Event()

    def rescue() -> None:
        while not over.wait(1.0):
            made[-1].break_out()

    thread = threading.Thread(target=rescue)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("rescuer")
def test_a_death_that_nobody_notices_fails_w10_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    live = ThreadPlace._live

    def live_and_die_in_silence(self: ThreadPlace, setup: object) -> None:
        self._on_death = lambda: None
        live(self, setup)  # type: ignore[arg-type]

    monkeypatch.setattr(ThreadPlace, "_live", live_and_die_in_silence)
    assert_fails("W10", "")


@pytest.mark.usefixtures("rescuer")
def test_a_waker_that_cannot_be_killed_fails_w10_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ForkPlace, "kill", lambda self: None)
    assert_fails("W10", "", "fork/select")


def test_an_unbroken_waker_passes_with_as_little_patience() -> None:
    for rule in ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W10", "W12"):
        outcome, detail = try_rule(rule, WAKER, ENGINE)
        assert outcome == PASS, f"{rule}: {detail}"


def test_the_interpreter_of_the_launchers_is_this_one() -> None:
    assert Path(sys.executable).is_file()
    assert str(ROOT) == shared.child._ROOT
