"""Between unwatch and ready: what is unwatched in the instant in which it is rung, seen, or under way.

And what is released then: a break that the Launcher has not seen must not be.
"""

from __future__ import annotations

import contextlib

import pytest

import waker
from launcher.api import Broken
from launcher.check.rig import open_rig
from shared.breaker import Breaker
from shared.page import BREAKS, SPURIOUS, Page
from shared.wire import PeerGone
from tests.support.blocked import once_blocked
from tests.support.races import (
    LOOPING,
    after_the_look,
    pairs,
    serve_until,
    standing,
    turn_around,
    until_kicked,
)
from tests.support.standstill import Point, Serve
from waker import Waker
from waker.api import Channel
from waker.serve import _obey, serve
from waker.watchset import WatchSet


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
                _obey(channel, watched)
            if is_ready:
                breaks += 1
                page.words[BREAKS] = breaks
                breaker.break_out()
                while _obey(channel, watched) < breaks:
                    pass


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
