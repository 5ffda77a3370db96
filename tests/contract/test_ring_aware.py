"""Ring-aware Wakers: what they keep, what they save, and what they lose when one of their two protections is out."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable

import pytest

import waker
from launcher import engines
from launcher.check.report import EXPECTED, FAIL, PASS, SKIP, try_rule
from launcher.check.rig import ROOM_IDX_ADDR, Rig, open_rig
from shared.errors import UsageError
from shared.page import SPURIOUS, STARVED
from tests.support.sessions import skip_unless_it_runs, wakers_to_try
from waker import RING_AWARE, Waker
from waker.strategies import select as select_strategy
from waker.watchset import WatchSet

LITTLE_S = 0.2
"""How long a sabotaged Waker is given to save itself."""

NAMES = [f"{name}+{RING_AWARE}" for name in waker.names() if not waker.parse(name).needs_private_memory]
PAIRS = [
    pytest.param(name, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{name}")
    for engine in engines.names()
    for name in NAMES
    # What a Waker leaves alone depends on no engine: all of them on one, some of each place on the others.
    if engine == "python" or name.removesuffix(f"+{RING_AWARE}") in wakers_to_try("unicorn")
]
RULES = ("W1", "W2", "W3", "W4", "W8", "W10", "W12")
"""Those in which something is left alone, or looked at again."""


@pytest.mark.parametrize(("name", "engine"), PAIRS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.usefixtures("kick_may_stay_blocked")
def test_it_keeps_the_rule(rule: str, name: str, engine: str) -> None:
    skip_unless_it_runs(name, engine)
    outcome, detail = try_rule(rule, name, engine)
    if outcome == SKIP:
        pytest.skip(detail)
    is_restless = rule == "W3" and waker.parse(name).strategy == "spin"
    assert outcome == (EXPECTED if is_restless else PASS), detail


def test_a_waker_that_does_not_look_at_the_room_fails_w4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchSet, "_starve", lambda self, source: False)
    outcome, detail = try_rule("W4", f"thread/select+{RING_AWARE}", "python")
    assert outcome == FAIL
    assert "the Guest had given no buffer" in detail


# --- a buffer that comes just as the Waker looks away


def give(rig: Rig) -> None:
    rig.machine.memory.u16[ROOM_IDX_ADDR >> 1] += 1


def is_seen(patch: pytest.MonkeyPatch, name: str, engine: str, patience_s: float) -> bool:
    """Give a buffer between the Waker's mark and its second look, so that no nudge comes for it."""
    with open_rig(name, engine) as rig:
        patch.setattr("waker.watchset.fence", lambda: give(rig))
        rig.starve()
        rig.pulse.ring(1)
        return rig.runs_into_break(patience_s) and rig.pulse.rung == 1


HERE = [f"{name}+{RING_AWARE}" for name in ("thread/select", "thread/uring", "inline/uring", "inline/sigio")]


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("name", HERE)
def test_a_buffer_between_the_mark_and_the_second_look_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, engine: str
) -> None:
    skip_unless_it_runs(name, engine)
    assert is_seen(monkeypatch, name, engine, 10.0)


def test_it_is_lost_where_nobody_looks_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchSet, "feed", lambda self: None)
    assert not is_seen(monkeypatch, HERE[0], "python", LITTLE_S)


def test_a_buffer_after_the_second_look_is_lost_where_nobody_nudges(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_rig(HERE[0], "python") as rig:
        rig.starve()
        rig.pulse.ring(1)
        rig.wait_until(lambda: rig.machine.page.words[STARVED] == 1, "the Waker leaves it alone")
        monkeypatch.setattr(Waker, "nudge", lambda self: None)
        rig.feed()
        assert not rig.runs_into_break(LITTLE_S)


@pytest.mark.parametrize("happen", [lambda rig: rig.machine.loop.waker.kill(), lambda rig: None])
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("inline")])
def test_what_is_left_alone_can_be_unwatched_closed_and_survives_a_death(
    name: str, happen: Callable[[Rig], None]
) -> None:
    skip_unless_it_runs(name, "python")
    with open_rig(name, "python") as rig:
        loop, roomy = rig.machine.loop, rig.pulse.sources[1]
        rig.starve()
        rig.pulse.ring(1)
        rig.wait_until(lambda: rig.machine.page.words[STARVED] == 1, "the Waker leaves it alone")
        happen(rig)
        loop.unwatch([roomy])
        loop.watch([roomy])
        rig.pulse.ring(0)
        while not rig.pulse.rung:
            rig.expect_break("its neighbour")
        rig.wait_until(lambda: rig.machine.page.words[STARVED] == 1, "the Waker leaves it alone again")
        rig.feed()
        while rig.pulse.rung < 2:
            rig.expect_break("a buffer was given")
        assert rig.machine.page.words[SPURIOUS] <= 1  # by the death


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_alone_and_closed_without_a_word_hurts_no_neighbour(name: str) -> None:
    skip_unless_it_runs(name, "python")
    with open_rig(name, "python") as rig:
        rig.starve()
        rig.pulse.ring(1)
        rig.pulse.ring(0)
        rig.expect_break("its neighbour")
        rig.wait_until(lambda: rig.machine.page.words[STARVED] == 1, "the Waker leaves it alone")
        rig.pulse.close_source(rig.pulse.sources[1])
        rig.feed()
        rig.pulse.ring(0)
        while rig.pulse.rung < 2:
            rig.expect_break("its neighbour, again")
        assert rig.machine.loop.waker.stats().replaced == 0


def test_a_waker_that_cannot_look_again_dies_of_it_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_rig(HERE[0], "python") as rig:
        rig.starve()
        rig.pulse.ring(1)
        rig.wait_until(lambda: rig.machine.page.words[STARVED] == 1, "the Waker leaves it alone")
        add, refused = select_strategy.Strategy.add, []

        def add_but_once(self: select_strategy.Strategy, fd: int) -> None:
            if not refused:
                refused.append(fd)
                raise OSError(errno.EMFILE, "no fd is left")
            add(self, fd)

        monkeypatch.setattr(select_strategy.Strategy, "add", add_but_once)
        rig.feed()
        while not rig.pulse.rung:
            rig.expect_break("a buffer was given")
        assert (rig.pulse.rung, rig.machine.loop.waker.stats().replaced) == (1, 1)


# --- as a user


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("name", ["process/select", "thread/epoll", "inline/uring"])
def test_a_run_says_the_same_ring_aware_or_not(name: str, engine: str) -> None:
    skip_unless_it_runs(name, engine)
    text = b"".join(b"line %d\n" % n for n in range(500))
    for waker_name in (name, f"{name}+{RING_AWARE}"):
        argv = [sys.executable, "-m", "launcher", "run", "--engine", engine, "--waker", waker_name]
        assert subprocess.run(argv, input=text, capture_output=True, check=True, timeout=60).stdout == text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fork/select+ring-aware", "a forked Waker has a private copy .* leave out '\\+ring-aware'"),
        ("process/select+ring-aware+ring-aware", "said once"),
        ("process/select+futex+pipe", "one breaker is enough"),
        ("process/select+ring", "breaker 'ring' .* is not known"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        waker.parse(name)


def test_options_may_come_in_any_order() -> None:
    names = {waker.parse(name) for name in ("process/epoll+futex+ring-aware", "process/epoll+ring-aware+futex")}
    assert len(names) == 1
    (name,) = names
    assert (name.breaker, name.is_ring_aware) == ("futex", True)
