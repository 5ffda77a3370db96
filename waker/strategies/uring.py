"""io_uring: a poll request for each fd; what fired is armed again in the same system call that sleeps."""

from __future__ import annotations

import select
from itertools import count

from shared import uring

missing = uring.missing

_IGNORED = 0  # user data of requests whose outcome is of no interest


class Strategy:
    """One ring, one single-shot poll an fd. A poll is known by a number of its own: fds come back, numbers do not."""

    def __init__(self) -> None:
        self._ring = uring.Ring()
        self._polls = count(1)
        self._fd_of: dict[int, int] = {}
        self._poll_of: dict[int, int] = {}
        self._fired: list[int] = []

    def add(self, fd: int) -> None:
        """Look at `fd`."""
        self.remove(fd)
        self._arm(fd)

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer; a poll that has fired meanwhile is known by nobody any more."""
        poll = self._poll_of.pop(fd, None)
        if poll is not None and self._fd_of.pop(poll, None) is not None:
            self._ring.poll_remove(poll, _IGNORED)
            self._ring.submit()  # now: the poll keeps the file open

    def wait(self) -> set[int]:
        """Arm again what fired, now or since the last wait; sleep until one is ready."""
        # What has completed by now may be long over: the Waker was held, and the Launcher has read it. Only a poll
        # that is armed now tells how things are now.
        for fd in self._fired + self._take():
            if fd in self._poll_of:
                self._arm(fd)
        self._ring.submit(wait_for=1)
        self._fired = self._take()
        return set(self._fired)

    def close(self) -> None:
        """Close the ring, and with it every poll."""
        self._ring.close()

    def _arm(self, fd: int) -> None:
        poll = next(self._polls)
        self._fd_of[poll] = fd
        self._poll_of[fd] = poll
        self._ring.poll_add(fd, select.POLLIN, poll)

    def _take(self) -> list[int]:
        """Take what has fired; a poll that is known by nobody was removed meanwhile."""
        fired = []
        for poll, result in self._ring.take():
            fd = self._fd_of.pop(poll, None)
            if fd is None:
                continue
            if result < 0:
                del self._poll_of[fd]  # closed when it was to be armed again
            else:
                fired.append(fd)
        return fired
