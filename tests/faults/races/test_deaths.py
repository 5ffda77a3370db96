"""A Waker that dies between one thing and the next.

Readiness is level-triggered, so the next Waker sees what was left unsaid; but somebody must tell the Launcher, also
one whose Guest sleeps, and a doorbell that was taken rings no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from launcher.check.rig import Rig, open_rig
from shared.breaker import Breaker
from shared.page import Page
from shared.vring import ring_doorbell
from tests.support.races import (
    LITTLE_S,
    LOOPING_AND_SEEING,
    LOOPING_WITH_KINDS,
    MOMENTS,
    at_a_moment,
    before_the_sleep,
    publish,
    serve_until,
    standing,
    turn_around,
)
from tests.support.rescue import rescue
from tests.support.standstill import Point
from tests.support.until import until
from waker.api import Channel
from waker.places.child import do_nothing
from waker.serve import serve
from waker.watchset import WatchSet

DEATHS = (Point.SEEN, Point.COUNTED, Point.FLAGGED, Point.KICKED)


@LOOPING_WITH_KINDS
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
        until(lambda: not wake.alive(), "the Waker was killed, and lives")
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


@LOOPING_WITH_KINDS
def test_a_waker_that_dies_while_it_is_held_loses_nothing_at_any_moment(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        wake = rig.machine.loop.waker

        def die() -> None:
            rig.pulse.ring(1)
            wake.kill()
            until(lambda: not wake.alive(), "the Waker was killed, and lives")

        for moment in MOMENTS:
            before = rig.pulse.rung
            at_a_moment(rig, moment, die)
            serve_until(rig, before + 2)
        assert wake.stats().replaced <= len(MOMENTS)
        rig.pulse.ring(0)
        serve_until(rig, 2 * len(MOMENTS) + 1)
        assert wake.alive()
