"""epoll(7), level-triggered: the kernel keeps the set; a wait costs what is ready."""

from __future__ import annotations

import contextlib
import select

from shared.linux import is_open


def missing() -> str | None:
    """Return None: every Linux has it."""
    return None


class Strategy:
    """One epoll set, and the files that it refuses because they are always ready."""

    EVENTS = select.EPOLLIN

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fds: set[int] = set()
        self._always: set[int] = set()

    def add(self, fd: int) -> None:
        """Look at `fd`; a number that was closed and came back is another file, and is taken anew."""
        if fd in self._fds:
            self.remove(fd)
        try:
            self._epoll.register(fd, self.EVENTS)
        except PermissionError:  # a regular file: always readable
            self._always.add(fd)
        except FileExistsError:  # the number is still known, by a copy of the file that had it before
            self._begin_anew()
            self._epoll.register(fd, self.EVENTS)
        self._fds.add(fd)

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer; it may be closed, and its file live on in a copy."""
        self._fds.discard(fd)
        if fd in self._always:
            self._always.remove(fd)
            return
        try:
            self._epoll.unregister(fd)
        except OSError:
            # Closed, and perhaps open elsewhere: then epoll reports it for ever under a number that means nothing,
            # and offers no way to take it out. (epoll(7), questions 6 and 9.)
            self._begin_anew()

    def wait(self) -> set[int]:
        """Sleep until one is readable, at its end of file, or in error."""
        ready = {fd for fd, _ in self._epoll.poll(0 if self._always else -1) if fd in self._fds}
        return ready | self._always if self._always else ready

    def close(self) -> None:
        """Close the set."""
        self._epoll.close()

    def _begin_anew(self) -> None:
        self._epoll.close()
        self._epoll = select.epoll()
        for fd in [fd for fd in self._fds - self._always if is_open(fd)]:
            with contextlib.suppress(OSError):
                self._epoll.register(fd, self.EVENTS)
