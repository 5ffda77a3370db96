"""Ring indices that come late, or torn: fact 2 of the design.

A doorbell and the index that it announces are two things, and the Waker looks in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.check.rig import Rig, open_rig
from shared.breaker import Breaker
from shared.page import LOOKS, SPURIOUS, Page
from shared.virtqueue import Virtqueue
from shared.vring import ring_doorbell
from tests.support.races import (
    LITTLE_S,
    LOOPING_AND_SEEING,
    SEEING_MEMORY,
    is_inline,
    publish,
    standing,
    turn_around,
)
from tests.support.rings import DATA, Hand
from tests.support.standstill import Point, Standstill
from waker.api import Channel
from waker.serve import serve
from waker.watchset import WatchSet


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
