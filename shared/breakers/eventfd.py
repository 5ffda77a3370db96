"""An eventfd that a halted vCPU reads: a counter in the kernel, which cannot be missed and cannot fill up.

It stops an engine that looks at the flag by itself while it computes.
"""

from __future__ import annotations

import os
from typing import ClassVar

from shared.breaker import ExitFlag, KickedByFd
from shared.page import Page


class EventfdBreaker(KickedByFd):
    """What is added stays until it is read; one read takes it all."""

    kind: ClassVar[str] = "eventfd"

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> EventfdBreaker:
        """Make one for a vCPU of this process."""
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        return cls(page, fd, fd)

    def break_out(self) -> None:
        self._set()
        os.eventfd_write(self._writer, 1)

    def wait(self) -> None:
        os.read(self._reader, 8)  # os.eventfd_read would fail with EINTR when a signal's handler has run (PEP 475)
