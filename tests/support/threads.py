"""Something that happens beside the test: in a daemon thread, which a failed test does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(work: Callable[..., object], *args: object) -> Iterator[None]:
    """Run `work` in a thread during the block, and see it end after the block."""
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    yield
    thread.join()
