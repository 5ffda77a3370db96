"""Named instants of a wake-up, stamped with CLOCK_MONOTONIC into the control page by either process.

A lane has one writer, so that stamping takes no lock: the Waker stamps lane 0, the Launcher lane 1. When nobody
asked for a trace, a stamp is one test of a bool.
"""

from __future__ import annotations

from enum import IntEnum
from time import monotonic_ns
from typing import NamedTuple

from shared.page import IS_TRACING, Page
from shared.structs import TRACE_RECORDS

WAKER_LANE = 0
LAUNCHER_LANE = 1


class Stage(IntEnum):
    """One hop of a wake-up, in the order in which they happen."""

    READY = 1  # the stimulus made the source ready
    SEEN = 2  # the strategy returned
    BREAK = 3  # the Waker is about to break the Guest
    LEFT = 4  # the vCPU left the Guest
    SERVICED = 5  # the devices have read what was there
    INTERRUPT = 6  # an interrupt was given to the vCPU
    RELEASED = 7  # the Waker may look again


class Stamp(NamedTuple):
    """One instant: `time_ns` on CLOCK_MONOTONIC, the same clock in every process."""

    stage: Stage
    time_ns: int


class Trace:
    """One side's end of the trace. `stamp` is for the lane's one writer; `stamps` may be read by anybody."""

    def __init__(self, page: Page, lane: int) -> None:
        self._words = page.lane(lane)
        self.is_on = bool(page.words[IS_TRACING])

    def stamp(self, stage: Stage) -> None:
        """Note that `stage` happens now, if a trace was asked for."""
        if self.is_on:
            words = self._words
            count = words[0]
            words[1 + count % TRACE_RECORDS] = monotonic_ns() << 4 | stage
            words[0] = count + 1  # last: a reader trusts what the count covers

    def stamps(self) -> list[Stamp]:
        """Return the stamps still held, oldest first, at most TRACE_RECORDS of them."""
        words = self._words
        count = words[0]
        first = max(0, count - TRACE_RECORDS)
        records = [words[1 + at % TRACE_RECORDS] for at in range(first, count)]
        return [Stamp(Stage(record & 0xF), record >> 4) for record in records]

    def close(self) -> None:
        """Let go of the page."""
        self._words.release()
