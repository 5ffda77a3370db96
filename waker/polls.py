"""Polls in an io_uring: what both forms of the strategy `uring` have in common, the loop's and the inline one."""

from __future__ import annotations

import select
from collections.abc import Iterable
from itertools import count

from shared.uring import Ring

IGNORED = 0  # user data of requests whose outcome is of no interest


class Polls:
    """One ring, one single-shot poll an fd. A poll is known by a number of its own: fds come back, numbers do not."""

    def __init__(self) -> None:
        self.ring = Ring()
        self._polls = count(1)
        self._fd_of: dict[int, int] = {}
        self._poll_of: dict[int, int] = {}

    def add(self, fd: int) -> None:
        """Look at `fd`."""
        self.remove(fd)
        self.arm(fd)

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer; a poll that has fired meanwhile is known by nobody any more."""
        poll = self._poll_of.pop(fd, None)
        if poll is not None and self._fd_of.pop(poll, None) is not None:
            self.ring.poll_remove(poll, IGNORED)
            self.ring.submit()  # now: the poll keeps the file open

    def close(self) -> None:
        """Close the ring, and with it every poll."""
        self.ring.close()

    def arm(self, fd: int, flags: int = 0) -> None:
        """Queue the poll of `fd`."""
        poll = next(self._polls)
        self._fd_of[poll] = fd
        self._poll_of[fd] = poll
        self.ring.poll_add(fd, select.POLLIN, poll, flags)

    def arm_again(self, fds: Iterable[int]) -> None:
        """Queue a poll for each of these that fired, unless it was removed meanwhile."""
        for fd in fds:
            # Armed already, if it was removed and added since: of two polls, a removal would find only one.
            if fd in self._poll_of and self._poll_of[fd] not in self._fd_of:
                self.arm(fd)

    def take(self) -> list[int]:
        """Take what has fired; a poll that is known by nobody was removed meanwhile."""
        fired = []
        for poll, result in self.ring.take():
            fd = self._fd_of.pop(poll, None)
            if fd is None:
                continue
            if result < 0:
                del self._poll_of[fd]  # closed when it was to be armed again
            else:
                fired.append(fd)
        return fired
