"""epoll(7) with EPOLLONESHOT: one that fired is silent until it is armed again."""

from __future__ import annotations

import contextlib
import select

from waker.strategies import epoll

missing = epoll.missing

_ONESHOT = select.EPOLLIN | select.EPOLLONESHOT


class Strategy(epoll.Strategy):
    """An epoll set in which each wait arms again what fired at the one before: one system call for each of those."""

    EVENTS = _ONESHOT

    def __init__(self) -> None:
        super().__init__()
        self._fired: set[int] = set()

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer."""
        self._fired.discard(fd)
        super().remove(fd)

    def wait(self) -> set[int]:
        """Arm again what fired, which fires at once if it is still ready; then sleep."""
        for fd in self._fired:
            with contextlib.suppress(OSError):  # closed since: nothing to arm
                self._epoll.modify(fd, _ONESHOT)
        ready = super().wait()
        self._fired = ready - self._always
        return ready
