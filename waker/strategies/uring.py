"""io_uring: one poll request for each fd; inline, the kernel itself is the Waker.

In a loop, what fired is armed again in the same call that sleeps.

Inline, each poll is linked to a peek into a socket, in which one byte, 1, waits to be copied into the byte that ends
the vCPU's next run. The poll completes in the vCPU's own thread: it leaves KVM_RUN, or its sleep, to run the
completion; and if it was about to enter, the byte ends the run. No thread, no second process, no signal handler.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from shared import uring
from shared.breaker import ExitFlag
from waker.polls import IGNORED, Polls

missing = uring.missing


class Strategy(Polls):
    """Polls of a thread that sleeps in the ring."""

    def __init__(self) -> None:
        super().__init__()
        self._fired: list[int] = []

    def wait(self) -> set[int]:
        """Arm again what fired, now or since the last wait; sleep until one is ready."""
        # What has completed by now may be long over: the Waker was held, and the Launcher has read it. Only a poll
        # that is armed now tells how things are now.
        self.arm_again(self._fired + self.take())
        self.ring.submit(wait_for=1)
        self._fired = self.take()
        return set(self._fired)


class Inline(Polls):
    """Polls of the vCPU's thread. Each, when it fires, also sets the byte that ends the next run."""

    def __init__(self, flag: ExitFlag) -> None:
        super().__init__()
        self._flag_addr = flag.address
        self._one, other = socket.socketpair()
        other.send(b"\1")
        other.close()
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.add(self._kick)

    def add(self, fd: int) -> None:
        """Have `fd` stop the vCPU when it is ready."""
        super().add(fd)
        self.ring.submit()

    def is_pending(self) -> bool:
        """Return False: what fires sets the byte."""
        return False

    def look(self) -> set[int]:
        """Return what has fired."""
        fired = set(self.take())
        if self._kick in fired:
            fired.remove(self._kick)
            os.eventfd_read(self._kick)
            self.rearm([self._kick])
        return fired

    def rearm(self, fds: Iterable[int]) -> None:
        """Arm all of these again, in one system call."""
        self.arm_again(fds)
        self.ring.submit()

    def wait(self) -> None:
        """Sleep in the ring until a poll fires."""
        self.ring.submit(wait_for=1)

    def kick(self) -> None:
        """Make the eventfd ready that is polled for this."""
        os.eventfd_write(self._kick, 1)

    def close(self) -> None:
        """Close the ring, and with it every poll."""
        super().close()
        self._one.close()
        os.close(self._kick)

    def arm(self, fd: int, flags: int = uring.LINK) -> None:
        """Queue the poll of `fd`, and what sets the byte after it."""
        if self.ring.room() < 2:
            self.ring.submit()  # a link must not be cut
        super().arm(fd, flags)
        self.ring.peek(self._one.fileno(), self._flag_addr, 1, IGNORED, uring.SKIP_SUCCESS)
