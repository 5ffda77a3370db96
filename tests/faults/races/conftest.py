"""The races: each that loses wake-ups, held open until it has happened, against every Waker to which it can happen.

Most of them are windows of a few instructions, which many wakes in a row hit now and then. Here they are not hit but
forced: something happens *exactly* between the look at the flag and the entry into the Guest, between a strategy's
answer and the break, between flag and kick. What is held is real (tests/support/standstill.py stops processes and
threads, and wraps what waker/serve.py is handed; the vCPU's side wraps its breaker), and nothing depends on time.

A race that nobody can lose proves nothing. So each has a sabotaged variant beside it, in which one protection is taken
out: it must lose then. A loss is seen by little patience, and is the one thing here that takes time.

Each file is one kind of race.
"""

from __future__ import annotations

import pytest

import waker
from launcher import engines


@pytest.fixture(autouse=True)
def _runs_here(request: pytest.FixtureRequest) -> None:
    """Skip what cannot run here."""
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    reason = None
    if "name" in given:
        reason = waker.why_not(given["name"])
    if reason is None and "engine" in given:
        reason = engines.get(given["engine"]).why_not()
    if reason is not None:
        pytest.skip(reason)
