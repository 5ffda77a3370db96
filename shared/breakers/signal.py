"""A signal to the vCPU's thread, blocked there except inside KVM_RUN: the least a Waker must be allowed.

A blocked signal stays pending, and KVM_RUN opens the mask and closes it again by itself (KVM_SET_SIGNAL_MASK), so
a kick that came too early ends it before the first instruction. No handler runs. All that a peer needs is two numbers,
and the right to send this process a signal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import ClassVar

from shared.breaker import KICK_SIGNAL, BreakHandle, ExitFlag, FlagFirst, kick_thread
from shared.page import Page


class SignalBreaker(FlagFirst):
    """What is sent stays pending until `wait` or `take_kick` takes it."""

    kind: ClassVar[str] = "signal"
    shape: ClassVar[tuple[int, int]] = (2, 0)

    def __init__(self, page: Page, pid: int, tid: int) -> None:
        super().__init__(page)
        self._pid, self._tid = pid, tid
        self._was_blocked: bool | None = None

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> SignalBreaker:
        """Make the calling thread the vCPU's: the kick is blocked in it from here to `close`."""
        breaker = cls(page, os.getpid(), threading.get_native_id())
        breaker._was_blocked = KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        return breaker

    @classmethod
    def from_handle(cls, page: Page, numbers: Sequence[int], _fds: Sequence[int]) -> SignalBreaker:
        pid, tid = numbers
        return cls(page, pid, tid)

    def break_out(self) -> None:
        self._set()
        kick_thread(self._pid, self._tid)

    def wait(self) -> None:
        signal.sigwaitinfo({KICK_SIGNAL})

    def take_kick(self) -> None:
        signal.sigtimedwait({KICK_SIGNAL}, 0)

    def handle(self) -> BreakHandle:
        return BreakHandle(self.kind, (self._pid, self._tid))

    def close(self) -> None:
        if self._was_blocked is None:
            return
        # Standard signals coalesce: at most one kick is left, and unblocked it would kill us.
        self.take_kick()
        if not self._was_blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
        self._was_blocked = None
