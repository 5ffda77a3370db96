"""A number that comes back as another file: inside one batch, while the Waker is held, without a word.

Removing an fd must flush what is pending for it: fact 11 of the design.
"""

from __future__ import annotations

from typing import Any

import pytest

from launcher.check.rig import open_rig
from launcher.ready import ReadySet
from shared.linux import is_open
from shared.page import SPURIOUS
from tests.support.blocked import once_blocked
from tests.support.fds import plugged_below
from tests.support.races import (
    EVERY,
    LITTLE_S,
    LOOPING,
    SEEING_MEMORY,
    pairs,
    serve_until,
    standing,
    swap,
    turn_around,
    until_kicked,
)
from tests.support.standstill import Point
from waker import Source
from waker.strategies import uring


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
    monkeypatch.setattr(ReadySet, "is_lost", lambda self, source: False)
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
@pytest.mark.usefixtures("kick_may_stay_blocked")
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
