"""A ring, or a break, at each moment of the Launcher's answer to the one before.

While it services, between service and release, between release and entry: a break is taken before its service, so
whatever comes later is another one.
"""

from __future__ import annotations

import pytest

from launcher import engines
from launcher.check.rig import open_rig
from launcher.loop import Loop
from shared import breaker as breakers
from shared.page import BREAK, SPURIOUS
from tests.support.races import (
    EVERY_WITH_KINDS,
    LITTLE_S,
    MOMENTS,
    at_a_moment,
    until_kicked,
)
from waker.strategies import uring


@EVERY_WITH_KINDS
def test_a_ring_at_any_moment_of_the_launchers_answer_is_served(name: str, engine: str) -> None:
    with open_rig(name, engine) as rig:
        for turn, moment in enumerate(MOMENTS):
            at_a_moment(rig, moment, lambda: rig.pulse.ring(1))
            if moment == MOMENTS[2]:
                until_kicked(rig.machine.loop, rig.pulse.sources[0])
            rig.expect_break(f"a ring {moment}")
            assert rig.pulse.rung == 2 * turn + 2
        assert rig.machine.page.words[SPURIOUS] == 0


@EVERY_WITH_KINDS
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
