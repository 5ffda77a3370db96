"""Every rule, for every Waker that there is, on every engine: what `launcher check` tries, and many wakes in a row."""

from __future__ import annotations

import ctypes

import pytest

import waker
from launcher import engines
from launcher.check.endurance import endure
from launcher.check.report import EXPECTED, PASS, try_rule
from launcher.check.rig import open_rig
from launcher.check.rules import RULES
from tests.support.sessions import wakers_to_try

PAIRS = [
    pytest.param(name, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{name}")
    for engine in engines.names()
    for name in wakers_to_try(engine)
]
RULES_AND_PAIRS = [
    pytest.param(rule, *pair.values, marks=pair.marks, id=f"{rule}-{pair.id}")
    for rule in RULES
    for pair in PAIRS
    # How many files a strategy can take no engine knows: all of them on one, some of each place on the others.
    if rule != "W11" or pair.values[1] == "python" or pair.values[0] in wakers_to_try("unicorn")
]
# Enough for a Waker that loses wakes as a habit. One in a million hides in a window, and each window that is known is
# forced by itself, on every Waker, in tests/faults/races; scripts/wakes is for the million.
WAKES = {"python": 2_000, "kvm": 1_000, "unicorn": 2_000}
# A Guest in Python that computes holds the GIL for a switch interval at each wake of a Waker that is a thread, and
# every Waker's break waits for the Guest's next yield.
SPINNING_WAKES = 100


def skip_what_cannot_run(name: str, engine: str) -> None:
    reason = waker.why_not(name) or engines.get(engine).why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize(("rule", "name", "engine"), RULES_AND_PAIRS)
@pytest.mark.usefixtures("kick_may_stay_blocked")
def test_a_waker_keeps_the_rule(rule: str, name: str, engine: str) -> None:
    skip_what_cannot_run(name, engine)
    outcome, detail = try_rule(rule, name, engine)
    parsed = waker.parse(name)
    is_by_nature = (rule == "W7" and parsed.place == "fork") or (rule == "W3" and parsed.strategy == "spin")
    if outcome == "skip":
        pytest.skip(detail)
    assert outcome == (EXPECTED if is_by_nature else PASS), detail


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_thousands_of_wakes_in_a_row_are_all_served(name: str, engine: str) -> None:
    skip_what_cannot_run(name, engine)
    wakes = WAKES[engine]
    endured = endure(name, engine, wakes)
    assert endured.served == wakes
    assert endured.breaks >= wakes


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_a_guest_that_computes_is_woken_every_time(name: str, engine: str) -> None:
    skip_what_cannot_run(name, engine)
    assert endure(name, engine, SPINNING_WAKES, guest="spin").served == SPINNING_WAKES


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("name", [name for name in waker.names() if name.startswith("thread/")])
def test_a_thread_in_which_the_kill_is_dropped_dies_all_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, is_held: bool
) -> None:
    skip_what_cannot_run(name, "python")
    with open_rig(name, "python") as rig:
        wake = rig.machine.loop.waker
        if is_held:
            rig.pulse.ring(0)
            rig.wait_for_break("a ring")
        # As the interpreter does with an exception that falls into a callback of the garbage collector.
        monkeypatch.setattr(ctypes.pythonapi, "PyThreadState_SetAsyncExc", lambda thread, exception: 1)
        wake.kill()
        rig.wait_until(lambda: not wake.alive(), "the thread lives")
