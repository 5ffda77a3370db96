"""Waits until a thread sleeps in the kernel: how a test shows that a wait was ended, and not skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SAMPLES = 400  # of what never blocks (a strategy that spins), no more than these are taken


def until_blocked(tid: int) -> bool:
    """Return once the thread of this process was seen asleep three times running; False when it never sleeps."""
    asleep = 0
    for _ in range(_SAMPLES):
        try:
            stat = Path(f"/proc/self/task/{tid}/stat").read_text()
        except OSError:
            return False  # it has ended
        asleep = asleep + 1 if stat.rpartition(")")[2].split()[0] == "S" else 0
        if asleep == 3:
            return True
        threading.Event().wait(0.0005)
    return False


@contextmanager
def once_blocked(do: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread as soon as the calling thread is blocked in the `with` block."""
    tid = threading.get_native_id()

    def wait_and_do() -> None:
        until_blocked(tid)
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    try:
        yield
    finally:
        thread.join()
