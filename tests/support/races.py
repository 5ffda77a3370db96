"""What forced races are made of: which Wakers they happen to, where something happens, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import waker
from launcher import engines
from launcher.check.rig import Rig, open_rig
from launcher.loop import Loop
from shared.breaker import Breaker
from shared.page import BREAK
from tests.support.fds import plugged_below
from tests.support.sessions import wakers_to_try
from tests.support.standstill import Point, Serve, Standstill, let_go_at_the_end
from tests.support.until import until
from waker import Source
from waker.serve import serve

LITTLE_S = 0.2
"""How long a sabotaged Waker is given to save itself."""


def pairs(*, without: tuple[str, ...] = ()) -> list[Any]:
    """Return every Waker on every engine, without some places or engines."""
    return [
        pytest.param(name, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{name}")
        for engine in engines.names()
        for name in wakers_to_try(engine)
        if engine not in without and waker.parse(name).place not in without
    ]


def pairs_with_kinds(*, without: tuple[str, ...] = ()) -> list[Any]:
    """Return these, and each place with each breaker that an engine has beside its default."""
    places = sorted({waker.parse(name).place for name in waker.names()} - {"inline"})
    return pairs(without=without) + [
        pytest.param(name, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{name}")
        for engine in engines.names()
        for kind in engines.get(engine).breakers[1:]
        if engine != "unicorn"  # which sleeps as python does: tests/contract/test_engines.py has every kind
        for name in (f"{place}/select+{kind}" for place in places if place not in without)
        if engine not in without
    ]


EVERY = pytest.mark.parametrize(("name", "engine"), pairs())
EVERY_WITH_KINDS = pytest.mark.parametrize(("name", "engine"), pairs_with_kinds())
LOOPING = pytest.mark.parametrize(("name", "engine"), pairs(without=("inline",)))
LOOPING_WITH_KINDS = pytest.mark.parametrize(("name", "engine"), pairs_with_kinds(without=("inline",)))
SEEING_MEMORY = pytest.mark.parametrize(("name", "engine"), pairs(without=("fork",)))
LOOPING_AND_SEEING = pytest.mark.parametrize(("name", "engine"), pairs(without=("inline", "fork")))


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
        until(lambda: loop.page.words[BREAK], "no break was asked for")
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


def publish(rig: Rig, index: int) -> None:
    """Use buffers of the vring, as its peer does."""
    rig.machine.memory.u16[rig.vring.fd.view.idx_addr >> 1] = index


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
