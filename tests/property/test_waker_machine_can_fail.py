"""The machine of test_waker_machine.py sees what it is for: each Waker and each Launcher here has one mistake.

Nothing is shrunk, and the examples are always the same ones; how threads meet in them is not, so a mistake is given
many more examples than it needs. One is not caught: a Waker that obeys its commands after it has looked, and breaks for
what was unwatched in the same instant. The machine cannot tell that break from one that was under way; the race is
forced in tests/faults/races/test_unwatched.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from launcher.check.rig import RuleBroken
from launcher.loop import Loop
from shared.breaker import Breaker
from shared.page import SPURIOUS, Page
from tests.property.test_waker_machine import WakerMachine
from tests.support.rescue import PATIENCE_S
from tests.support.sessions import skip_unless_it_runs
from waker.api import Channel
from waker.serve import serve
from waker.watchset import WatchSet

MANY = settings(
    max_examples=300,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


LITTLE_S = 0.2
"""How long a mistaken one is waited for. A busy machine may be slower: that looks like a mistake."""


def is_caught(name: str, patience_s: float = LITTLE_S) -> bool:
    """Run the machine until it fails; False when it does not."""
    skip_unless_it_runs(name, "python")
    machine = type("Machine", (WakerMachine,), {"waker_name": name, "engine_name": "python", "patience_s": patience_s})
    try:
        run_state_machine_as_test(machine, settings=MANY)
    except (AssertionError, RuleBroken, OSError, Flaky):  # the last: it failed, and not a second time
        return True
    return False


# --- Wakers


def serve_for_any_reason(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Break for whatever the strategy returned: a doorbell without news, too."""

    class Hasty:
        def __getattr__(self, name: str) -> Any:
            return getattr(watched, name)

        def is_ready(self, ready: set[int]) -> bool:
            return watched.is_ready(ready) or bool(ready)

    serve(channel, Hasty(), breaker, page)  # type: ignore[arg-type]


def serve_each_file_once(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Look at a file no more once it was ready: what is left unread does not break again."""
    seen: set[int] = set()

    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            return getattr(watched, name)

        def is_ready(self, ready: set[int]) -> bool:
            fresh = ready - seen
            seen.clear()
            seen.update(ready)
            return watched.is_ready(fresh)

    serve(channel, Forgetful(), breaker, page)  # type: ignore[arg-type]


@pytest.mark.parametrize("mistaken", [serve_for_any_reason, serve_each_file_once])
def test_a_mistaken_waker_is_caught(monkeypatch: pytest.MonkeyPatch, mistaken: Callable[..., None]) -> None:
    monkeypatch.setattr("waker.places.thread.serve", mistaken)
    assert is_caught("thread/select")


def test_a_waker_that_is_never_held_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    obey = serve.__globals__["_obey"]
    monkeypatch.setitem(serve.__globals__, "_obey", lambda *given: obey(*given) or 1 << 40)
    assert is_caught("thread/epoll")


# --- Launchers


def unwatch_without_telling(self: Loop, sources: list[Any]) -> None:
    for source in sources:
        self.ready.remove(source)


def serve_without_asking_whose_number_it_is(self: Loop) -> None:
    ready = self.ready.ready()
    for source in ready:
        if source in self.ready and not self.table.serve(source):
            self.unwatch([source])
    if not ready:
        self.page.words[SPURIOUS] += 1
        self.unwatch(self.ready.lost())


# In a process of its own, a Waker keeps a file that was closed.
@pytest.mark.parametrize(
    ("name", "where", "what", "mistake"),
    [
        ("fork/epoll", Loop, "unwatch", unwatch_without_telling),
        ("fork/epoll", Loop, "_service", serve_without_asking_whose_number_it_is),
    ],
    ids=["unwatch", "is_lost"],
)
def test_a_mistaken_launcher_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, where: type, what: str, mistake: Callable[..., object]
) -> None:
    monkeypatch.setattr(where, what, mistake)
    assert is_caught(name)


def test_where_nobody_is_mistaken_nothing_is_caught() -> None:
    assert not is_caught("thread/epoll", PATIENCE_S)
