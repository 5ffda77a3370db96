"""What a long measurement shares with whoever started it: progress, signals, and what is not data."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def plain(text: str) -> str:
    """Return it fit for a terminal, on one line: a Guest's last words may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(sentence: str) -> None:
    """Say something that is not data, on one line that a terminal can be shown."""
    print(f"launcher: {plain(sentence)}", file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Callable[[str], object]]:
    """Yield what tells a terminal where one is, and tells anything else nothing."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for ^C: what was measured is kept and printed. The main thread only."""

    def stop(_signo: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signo: signal.signal(signo, stop) for signo in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signo, handler in before.items():
            signal.signal(signo, handler)
