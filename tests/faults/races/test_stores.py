"""Stores that are late: fact 3 of the design.

Two sides that each store and then load may both load the old: one of them is never told. A store buffer for each
makes that certain, and a fence drains it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from launcher.api import Broken
from launcher.check.rig import Rig, open_rig
from shared import breaker as breakers
from shared import driverqueue, virtqueue
from shared.memory import GuestMemory
from tests.support.races import (
    LITTLE_S,
    LOOPING,
    serve_until,
    turn_around,
)
from tests.support.rings import DATA, Pair
from tests.support.stores import StoreBuffer
from tests.support.until import until
from waker.places.child import do_nothing


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
                until(lambda: rig.breaks, "no break was made")
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
