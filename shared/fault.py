"""A fault that is put into a Waker on purpose: a break that comes late, or one in so many that never comes.

An instrument that has never been seen to find anything has not been tried. So a Waker's name may say what is wrong with
it, where everybody sees it: `process/select+delay=2` busy-waits 2 us before each break, `inline/uring+drop=10000` makes
every 10,000th break and does not send it. (`+drop=10000@9990` goes on counting where 9,990 breaks were made before.)

It sits where the break is sent, in whatever process that is: the fault travels with the breaker's handle. A Waker that
has none pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import NamedTuple

from shared.errors import UsageError

DELAY, DROP = "delay", "drop"

_MAX_DELAY_US = 1_000_000.0


class Fault(NamedTuple):
    """What is wrong: so many ns are waited before a break; every so many breaks one is dropped (0: none)."""

    delay_ns: int = 0
    drop_every: int = 0
    breaks_before: int = 0

    def __str__(self) -> str:
        parts = []
        if self.delay_ns:
            parts.append(f"{DELAY}={self.delay_ns / 1e3:g}")
        if self.drop_every:
            parts.append(f"{DROP}={self.drop_every}" + (f"@{self.breaks_before}" if self.breaks_before else ""))
        return "+".join(parts)

    def strikes(self) -> Callable[[], bool]:
        """Return what is called at each break: it waits, and says whether this one is dropped."""
        delay_ns, drop_every, breaks = self.delay_ns, self.drop_every, self.breaks_before

        def strike() -> bool:
            nonlocal breaks
            breaks += 1
            if delay_ns:
                end_ns = monotonic_ns() + delay_ns
                while monotonic_ns() < end_ns:
                    pass
            return bool(drop_every) and breaks % drop_every == 0

        return strike


def is_fault(option: str) -> bool:
    """Whether an option of a Waker's name says that something is wrong with it."""
    return option.partition("=")[0] in (DELAY, DROP)


def parse(options: list[str]) -> Fault | None:
    """Return the fault that these options are, or None without any; raise `UsageError` for one that is none."""
    fault = Fault()
    for option in options:
        kind, _, text = option.partition("=")
        try:
            if kind == DELAY:
                fault = fault._replace(delay_ns=_delay_ns(text))
            else:
                every, at, before = text.partition("@")
                fault = fault._replace(drop_every=_count(every, 1), breaks_before=_count(before, 0) if at else 0)
        except ValueError:
            raise UsageError(
                f"fault '{option}' is not {DELAY}=US (up to {_MAX_DELAY_US:g}) or {DROP}=N or {DROP}=N@MADE"
            ) from None
    return fault if options else None


def _delay_ns(text: str) -> int:
    delay_us = float(text)
    if not 0 < delay_us <= _MAX_DELAY_US:
        raise ValueError
    return round(delay_us * 1e3)


def _count(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise ValueError
    return number
