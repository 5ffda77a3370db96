"""Waits outside the Guest for what must come soon: a failure is an assertion then, and not a test that hangs."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from tests.support.rescue import PATIENCE_S


def until(holds: Callable[[], object], otherwise: str) -> None:
    """Return once something holds; fail, saying what is the case otherwise, when patience ends.

    In a whole process that is stopped meanwhile, patience passes too: so it looks once more afterwards.
    """
    end = monotonic() + PATIENCE_S
    while not holds():
        os.sched_yield()
        if monotonic() > end:
            assert holds(), f"{otherwise}, even after {PATIENCE_S:.0f} s"
            return
