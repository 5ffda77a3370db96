"""Never sleep: look again and again. The floor of latency, and the ceiling of what a Waker can cost."""

from __future__ import annotations

from waker.strategies import poll

missing = poll.missing


class Strategy(poll.Strategy):
    """A poll(2) that does not wait: it returns at once, most often with nothing."""

    TIMEOUT_MS = 0
