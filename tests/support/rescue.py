"""A bound for what must not hang: when patience ends, somebody makes it return, and says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 10.0
"""How long a failure takes; nothing that holds depends on it."""


@contextmanager
def rescue(make_it_return: Callable[[], object], patience_s: float = PATIENCE_S) -> Iterator[threading.Event]:
    """Call `make_it_return` when the block takes longer than patience; what is yielded is set then."""
    was_needed = threading.Event()

    def act() -> None:
        was_needed.set()
        make_it_return()

    timer = threading.Timer(patience_s, act)
    timer.daemon = True
    timer.start()
    try:
        yield was_needed
    finally:
        timer.cancel()
        timer.join()
