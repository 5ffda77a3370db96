"""SIGINT, SIGTERM, SIGHUP, SIGQUIT and the end of `--timeout` as one more source that the Waker watches.

A Python signal handler runs between two bytecodes. A signal that comes after the last one before KVM_RUN has set a
flag that nobody looks at until the Guest leaves by itself: a lost wake-up, of all places here. So the handler does
nothing the first time, and the interpreter's C code writes the signal's number into a socket at once
(signal.set_wakeup_fd). That socket is watched like any device, and a break that must not be lost is a Waker's trade.
"""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType

from shared.errors import Interrupted, TimedOut
from waker import Source

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


_INSIST_S = 1.0  # the alarm comes again, for a Guest that lets nobody take the first


class StopRequests:
    """Catches the signals from its making to `close`; the main thread's, use it in a `with`."""

    def __init__(self, timeout_s: float | None = None, *, is_continued: bool = False) -> None:
        """Begin to catch; after `timeout_s` SIGALRM comes, and is taken as `TimedOut`.

        One that `is_continued` takes up what the program before this one held back: signals, and the rest of its time.
        """
        self._timeout_s = timeout_s
        self._count = 0
        self._is_taken = False
        self._socket, self._writer = socket.socketpair()
        self._socket.setblocking(False)
        self._writer.setblocking(False)
        self.source = Source(self._socket.fileno(), "signals")
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # One that is ignored on purpose (nohup) stays ignored.
        self._before = {
            signo: signal.signal(signo, self._insist)
            for signo in (*_SIGNALS, *([signal.SIGALRM] if timeout_s is not None else []))
            if signal.getsignal(signo) is not signal.SIG_IGN or signo == signal.SIGALRM
        }
        if timeout_s is not None and not (is_continued and signal.getitimer(signal.ITIMER_REAL)[0]):
            signal.setitimer(signal.ITIMER_REAL, timeout_s, _INSIST_S)
        self._is_holding = False
        if is_continued:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)

    def take(self) -> None:
        """Raise `Interrupted` when one of the signals has come, `TimedOut` when it was the alarm's."""
        try:
            numbers = self._socket.recv(64)
        except BlockingIOError:
            return
        for number in numbers:
            if number in self._before:
                self._is_taken = True
                raise self._reason(number)

    def hold_back(self) -> None:
        """Let no signal in from here on: it is for who comes after an execv. Raises as `take` does for one before."""
        self._is_holding = True
        signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        while select.select([self._socket], [], [], 0)[0]:
            self.take()

    def close(self) -> None:
        """Put back what was."""
        if self._timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signo, handler in self._before.items():
            signal.signal(signo, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        if self._is_holding:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        self._socket.close()
        self._writer.close()

    def __enter__(self) -> StopRequests:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insist(self, signo: int, _frame: FrameType | None) -> None:
        """Raise on the second signal, when nobody took the first: a Guest in Python that never yields keeps us here.

        Once one was taken, or raised, everything is being closed, and no later one disturbs that.
        """
        self._count += 1
        if self._count > 1 and not self._is_taken:
            self._is_taken = True
            raise self._reason(signo, ", sent twice")

    def _reason(self, signo: int, how: str = "") -> Interrupted:
        if signo == signal.SIGALRM:
            return TimedOut(f"the Guest still ran after {self._timeout_s:g} s (--timeout)")
        return Interrupted(f"stopped by {signal.Signals(signo).name}{how}")
