"""io_uring: one poll request for each fd; inline, the kernel itself is the Waker.

In a loop, what fired is armed again in the same call that sleeps.

Inline, each poll is linked to a peek into a socket, in which one byte, 1, waits to be copied into the byte that ends
the vCPU's next run. The poll completes in the vCPU's own thread: it leaves KVM_RUN, or its sleep, to run the
completion; and if it was about to enter, the byte ends the run. No thread, no second process, no signal handler.
"""

from __future__ import annotations

import os
import select
import socket
from itertools import count

from shared import uring
from shared.breaker import ExitFlag

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
            # Armed already, if it was removed and added since: of two polls, a removal would find only one.
            if fd in self._poll_of and self._poll_of[fd] not in self._fd_of:
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


class Inline:
    """A ring of the vCPU's thread. Each poll, when it fires, also sets the byte that ends the next run."""

    def __init__(self, flag: ExitFlag) -> None:
        self._flag_addr = flag.address
        self._ring = uring.Ring()
        self._polls = count(1)
        self._fd_of: dict[int, int] = {}
        self._poll_of: dict[int, int] = {}
        self._one, other = socket.socketpair()
        other.send(b"\1")
        other.close()
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.add(self._kick)

    def add(self, fd: int) -> None:
        """Have `fd` stop the vCPU when it is ready."""
        self.remove(fd)
        self._arm(fd)
        self._ring.submit()

    def remove(self, fd: int) -> None:
        """Have `fd` stop nobody any more: its poll ends, and what had fired is known by nobody."""
        poll = self._poll_of.pop(fd, None)
        if poll is not None and self._fd_of.pop(poll, None) is not None:
            self._ring.poll_remove(poll, _IGNORED)
            self._ring.submit()

    def is_pending(self) -> bool:
        """Return False: what fires sets the byte."""
        return False

    def look(self) -> set[int]:
        """Return what has fired."""
        fired = set()
        for poll, result in self._ring.take():
            fd = self._fd_of.pop(poll, None)
            if fd is None:
                continue
            if fd == self._kick:
                os.eventfd_read(fd)
                self._arm(fd)
                self._ring.submit()
            elif result < 0:
                del self._poll_of[fd]  # closed when it was to be armed again
            else:
                fired.add(fd)
        return fired

    def rearm(self, fds: set[int]) -> None:
        """Arm all of these again, in one system call."""
        # One that was removed and added since is armed already: of two polls, a removal would find only one.
        silent = [fd for fd in fds if fd in self._poll_of and self._poll_of[fd] not in self._fd_of]
        for fd in silent:
            self._arm(fd)
        if silent:
            self._ring.submit()

    def wait(self) -> None:
        """Sleep in the ring until a poll fires."""
        self._ring.submit(wait_for=1)

    def kick(self) -> None:
        """Make the eventfd ready that is polled for this."""
        os.eventfd_write(self._kick, 1)

    def close(self) -> None:
        """Close the ring, and with it every poll."""
        self._ring.close()
        self._one.close()
        os.close(self._kick)

    def _arm(self, fd: int) -> None:
        if self._ring.room() < 2:
            self._ring.submit()  # a link must not be cut
        poll = next(self._polls)
        self._fd_of[poll] = fd
        self._poll_of[fd] = poll
        self._ring.poll_add(fd, select.POLLIN, poll, uring.LINK)
        self._ring.peek(self._one.fileno(), self._flag_addr, 1, _IGNORED, uring.SKIP_SUCCESS)
