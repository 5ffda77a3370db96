"""A byte in a pipe that a halted vCPU reads: the self-pipe trick, which every Unix can do.

The end that is written to does not block: a pipe that is full holds 65,536 kicks that nobody has taken yet, and one
more would say nothing new. The end that is read does, and one read takes all that has gathered.
"""

from __future__ import annotations

import contextlib
import os
from typing import ClassVar

from shared.breaker import ExitFlag, KickedByFd
from shared.page import Page

_CAPACITY = 65_536


class PipeBreaker(KickedByFd):
    """What is written stays until it is read."""

    kind: ClassVar[str] = "pipe"

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> PipeBreaker:
        """Make one for a vCPU of this process."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        return cls(page, writer, reader)

    def break_out(self) -> None:
        self._set()
        # Full: the kick is there. Broken: the Launcher has gone, and its Waker is about to hear of it.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._writer, b"!")

    def wait(self) -> None:
        os.read(self._reader, _CAPACITY)
