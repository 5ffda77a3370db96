"""What a long measurement shares with whoever started it: progress, and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from launcher.words import shown, write_aside

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def progress() -> Iterator[Callable[[str], object]]:
    """Yield what tells a terminal where one is, and tells anything else nothing, or a terminal that cannot go back.

    It writes when it is told to, and nothing moves meanwhile: a spinner would be a thread beside what is measured.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda _text: None
        return
    try:
        yield lambda text: write_aside(f"\r\033[K{shown(text)} ")
    finally:
        write_aside("\r\033[K")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for ^C: what was measured is kept and printed. The main thread only.

    The first one stops it, and no later one disturbs the report: a key repeats itself, and a loss would go unsaid.
    What is ignored stays ignored: nohup is there for this.
    """
    is_stopped = False

    def stop(_signo: int, _frame: FrameType | None) -> None:
        nonlocal is_stopped
        if not is_stopped:
            is_stopped = True
            raise KeyboardInterrupt

    asked = [signo for signo in _STOPS if signal.getsignal(signo) is not signal.SIG_IGN]
    before = {signo: signal.signal(signo, stop) for signo in asked}
    try:
        yield
    finally:
        for signo, handler in before.items():
            signal.signal(signo, signal.SIG_IGN if is_stopped else handler)  # what is left to do is to end
