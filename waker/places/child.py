"""A Waker in a process of its own, and the thread that waits for its end: what fork and process share.

A process that dies must be noticed even while the Guest halts for ever and nobody polls. So a thread sleeps in
waitid(2), costs nothing while it sleeps, and breaks the Guest when it returns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from shared.errors import WakerError


class Child:
    """A Waker's process, and the thread that waits for its end."""

    def __init__(self, pid: int, on_death: Callable[[], None]) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._on_death = on_death
        self._has_ended = threading.Event()
        self._watcher = threading.Thread(target=self._wait, name=f"death of {pid}", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError as error:
            self.kill()
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            raise WakerError(f"the Waker needs a thread to wait for its end: {error}") from error

    def _wait(self) -> None:
        with contextlib.suppress(ChildProcessError):  # somebody else reaped it: gone all the same
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._has_ended.set()
        self._on_death()

    def is_alive(self) -> bool:
        return not self._has_ended.is_set()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, hang_up: Callable[[], None], patience_s: float = 2.0) -> None:
        """Have it end by `hang_up`, and wait until it has; enforce that when it does not come."""
        self._on_death = do_nothing  # before it can die of it: this death is no reason to break the Guest
        hang_up()
        if not self._has_ended.wait(patience_s):
            self.kill()
        self._watcher.join()
        os.close(self._pidfd)


def do_nothing() -> None:
    """What is done about a death that was asked for."""
