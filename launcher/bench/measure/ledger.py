"""The ledger: one row for each ring, in memory that the stimulus, the arm and whoever measures share.

A ring has a sequence number: its row. The stimulus writes there when the ring was meant to be sent and when it was,
publishes the number, and only then rings; the arm writes when it served it, and in which wake. So what was lost, came
late, or shared a wake with others is read off afterwards, also of an arm that hangs or was killed: nothing of it is
inferred. What rings is a byte, and the Launcher counts bytes, so each ring is one row, in order.

Everybody's words are 64 bits and have one writer. yardstick/yardstick.h has the same layout in C.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

PUBLISHED = 0
"""The stimulus': how many rings it has sent."""
SERVED = 1
"""The arm's: how many rings it has served."""
WAKES = 2
"""An arm's in C: how many times it served at least one. Python's has its control page."""

HEADER_WORDS = 8
INTENDED, SENT, SERVED_AT, WAKE, SOURCE, IN_VAIN = range(6)
"""A row: when it was due and sent, and when it was served, in ns; in which wake; which source; how many breaks had been
in vain by then."""
ROW_WORDS = 6


class Ledger:
    """One round's ledger, mapped; `close()` it, or use it in a `with`. Each word has one writer."""

    def __init__(self, fd: int) -> None:
        """Map the ledger that `fd` is; the fd stays the caller's."""
        self._mapping = mmap.mmap(fd, os.fstat(fd).st_size)
        self._bytes = memoryview(self._mapping)
        self.words = self._bytes.cast("Q")
        self.rings = (len(self.words) - HEADER_WORDS) // ROW_WORDS

    @staticmethod
    def create(rings: int) -> int:
        """Make a zeroed ledger for so many rings and return its fd, which the caller closes."""
        fd = os.memfd_create("ledger", os.MFD_CLOEXEC)
        os.ftruncate(fd, 8 * (HEADER_WORDS + rings * ROW_WORDS))
        return fd

    def plan(self, offsets_ns: Iterable[int], sources: Iterable[int]) -> None:
        """Write when each ring is to be sent, counted from the start, and which source is to be rung."""
        at = HEADER_WORDS
        for offset_ns, source in zip(offsets_ns, sources, strict=True):
            self.words[at + INTENDED], self.words[at + SOURCE] = offset_ns, source
            at += ROW_WORDS

    def column(self, which: int) -> list[int]:
        """Return one word of every row."""
        return self.words[HEADER_WORDS + which :: ROW_WORDS].tolist()

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._bytes.release()
        self._mapping.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
