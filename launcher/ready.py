"""Which sources are ready, asked by the Launcher itself after a break, without waiting.

The Waker only says "look". The Launcher looks with its own eyes (as lguest's did, with a select() of no timeout), so
that a late or mistaken break reads from nothing that would block, and no Waker has to be believed. The set lives in
an epoll of its own, so that a look costs what is ready and not what is watched.
"""

from __future__ import annotations

import select
from collections.abc import Sequence

from shared.linux import is_open
from shared.memory import GuestMemory
from shared.page import Page
from waker import Source

_AT_ONCE = 64  # what is ready besides is still so after the next break


class ReadySet:
    """The sources that the Launcher serves. The vCPU's thread calls it."""

    def __init__(self, memory: GuestMemory, page: Page) -> None:
        self._memory, self._page = memory, page
        self._epoll = select.epoll()
        self._by_fd: dict[int, Source] = {}
        # A regular file is always readable, and epoll refuses it (EPERM) for that.
        self._always: dict[int, Source] = {}
        self._rings: dict[int, Source] = {}
        self._has_rooms = False

    def add(self, source: Source) -> None:
        """Look at this one from now on; adding it twice is adding it once."""
        if source.ring is not None:
            self._rings[source.fd] = source
            return
        if self._by_fd.get(source.fd) is source:
            return
        self._discard(source.fd)
        self._has_rooms |= source.room is not None
        try:
            self._epoll.register(source.fd, select.EPOLLIN)
        except PermissionError:
            self._always[source.fd] = source
        self._by_fd[source.fd] = source

    def remove(self, source: Source) -> None:
        """Look at this one no longer; its file may be closed already."""
        if source.ring is not None:
            self._rings.pop(source.fd, None)
        elif self._by_fd.get(source.fd) is source:
            self._discard(source.fd)

    def ready(self) -> list[Source]:
        """Return what is ready now; one that `is_lost` may be among it, for as long as a Waker has a copy."""
        by_fd, ready = self._by_fd, []
        # A loop, and few at a time: a comprehension and room for 1,023 events cost as much as the system call.
        for fd, _ in self._epoll.poll(0, _AT_ONCE):
            if fd in by_fd:
                ready.append(by_fd[fd])
        if self._always:
            ready += self._always.values()
        if self._has_rooms:  # what has none is left alone here, too
            ready = [s for s in ready if s.room is None or s.room.has_news(self._memory, self._page)]
        if self._rings:  # a generator over nothing costs as much as the system call above
            ready += (s for s in self._rings.values() if s.ring and s.ring.has_news(self._memory, self._page))
        return ready

    def __contains__(self, source: Source) -> bool:
        """Whether this very one is looked at; its number may be another's by now."""
        return (self._by_fd if source.ring is None else self._rings).get(source.fd) is source

    def displaced_by(self, sources: Sequence[Source]) -> list[Source]:
        """Return those whose number one of these has now: their file was closed without a word."""
        known = [(self._by_fd if source.ring is None else self._rings).get(source.fd, source) for source in sources]
        return [old for old, new in zip(known, sources, strict=True) if old is not new]

    def is_lost(self, source: Source) -> bool:
        """Whether it is unwatched, or its file was closed; the number may be open again, as another file."""
        if source.ring is not None:
            return self._rings.get(source.fd) is not source or not is_open(source.fd)
        if self._by_fd.get(source.fd) is not source:
            return True
        if source.fd in self._always:
            return not is_open(source.fd)
        try:
            self._epoll.modify(source.fd, select.EPOLLIN)  # changes nothing, but finds only the file that was added
        except OSError:
            return True
        return False

    def lost(self) -> list[Source]:
        """Return all that are: what a break for nothing may come from."""
        return [source for source in [*self._by_fd.values(), *self._rings.values()] if self.is_lost(source)]

    def close(self) -> None:
        """Close the epoll."""
        self._epoll.close()

    def _discard(self, fd: int) -> None:
        """Forget whatever was known under this number."""
        if self._by_fd.pop(fd, None) is None or self._always.pop(fd, None) is not None:
            return
        try:
            self._epoll.unregister(fd)
        except OSError:
            # The number is closed, or another file by now. The file itself may live on, in the Waker's process; epoll
            # would go on reporting it under this number, with no way left to take it out: begin a new set. Others may
            # be lost, too, and what has their numbers now is not to be looked at.
            known = [source.fd for source in self._by_fd.values() if not self.is_lost(source)]
            self._epoll.close()
            self._epoll = select.epoll()
            for number in known:
                if number not in self._always:
                    self._epoll.register(number, select.EPOLLIN)
