"""The Waker's bookkeeping: what is watched, by token and by fd. Strategies only ever see fds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import cast

from shared.errors import LabError
from shared.linux import fence, is_open
from shared.memory import GuestMemory
from shared.page import STARVED, WAKES, Page
from waker.api import FdSet, Source, Strategy


class WatchSet:
    """What one Waker watches. Called by the Waker's thread alone."""

    def __init__(self, strategy: FdSet, memory: GuestMemory, page: Page, *, owns_fds: bool = False) -> None:
        """Keep books for `strategy`; with `owns_fds`, an fd is closed when it is no longer watched."""
        self._strategy = strategy
        self._memory, self._page, self._words = memory, page, page.words
        self._owns_fds = owns_fds
        self._by_token: dict[int, Source] = {}
        self._by_fd: dict[int, Source] = {}
        self._rings: list[Source] = []
        self._starved: list[Source] = []  # ready, and left alone: the strategy does not know them meanwhile
        self._words[STARVED] = 0  # another Waker may have died here

    def add_channel(self, fd: int) -> str | None:
        """Look at what brings commands, too, or return why not; it is never a reason to break the Guest."""
        try:
            self._strategy.add(fd)
        except (LabError, OSError) as error:
            return f"its channel: {error if isinstance(error, LabError) else error.strerror}"
        return None

    def add(self, sources: Sequence[tuple[int, Source]]) -> str | None:
        """Watch all of `sources`, or none of them: then return the reason."""
        for at, (token, source) in enumerate(sources):
            try:
                for view in (source.ring, source.room):
                    if view is not None:
                        view.check(self._memory)
                self._strategy.add(source.fd)
            except (LabError, OSError) as error:
                self.remove(token for token, _ in sources[:at])
                for _, refused in sources[at:]:
                    self._let_go(refused)
                return f"{source.name}: {error if isinstance(error, LabError) else error.strerror}"
            self._by_token[token] = self._by_fd[source.fd] = source
            if source.ring is not None:
                self._rings.append(source)
        return None

    def remove(self, tokens: Iterable[int]) -> None:
        """Watch these no longer; a token that is not known is one that a death already forgot."""
        for token in tokens:
            source = self._by_token.pop(token, None)
            if source is None:
                continue
            # Another source may have come under the same number since: then the number is its.
            if self._by_fd.get(source.fd) is source:
                del self._by_fd[source.fd]
                self._strategy.remove(source.fd)
            if source.ring is not None:
                self._rings.remove(source)
            if source in self._starved:
                self._starved.remove(source)
                self._words[STARVED] = len(self._starved)
            self._let_go(source)

    def wait(self) -> set[int]:
        """Sleep until the strategy says that something is ready; not for inline ones, whose caller sleeps elsewhere."""
        ready = cast("Strategy", self._strategy).wait()
        self._words[WAKES] += 1
        return ready

    def is_ready(self, ready: set[int]) -> bool:
        """Whether one of these fds is a reason to break the Guest.

        A doorbell is not: it says where to look, and `has_news` looks. What has no room is not either.
        """
        is_ready = False
        for fd in ready:
            source = self._by_fd.get(fd)
            if source is None:
                continue
            if source.ring is not None:
                source.ring.answer_doorbell(fd, self._memory, self._page)
            elif source.room is None or source.room.has_news(self._memory, self._page) or not self._starve(source):
                is_ready = True
        return is_ready or self.has_news()

    def has_news(self) -> bool:
        """Whether a ring has news, seen through this process' own mapping."""
        if not self._rings:  # asked twice a wake-up, and a generator over nothing costs more than the rest of it
            return False
        return any(source.ring and source.ring.has_news(self._memory, self._page) for source in self._rings)

    def feed(self) -> None:
        """Have the strategy look again at those that have room by now."""
        for source in list(self._starved):
            if source.room and source.room.has_news(self._memory, self._page):
                self._starved.remove(source)
                try:
                    self._strategy.add(source.fd)
                except (LabError, OSError):
                    if is_open(source.fd):
                        raise  # no fd is left, say: a Waker that went on would have lost this file
                    # Closed without a word: it wakes nobody any more.
        self._words[STARVED] = len(self._starved)

    def _starve(self, source: Source) -> bool:
        """Leave this one alone, ready as it is, until it has room; False when it has some after all."""
        self._strategy.remove(source.fd)
        self._starved.append(source)
        self._words[STARVED] = len(self._starved)
        # The mark before the look: else a Guest that gives a buffer and a Launcher that finds no mark could both have
        # come before us, and the buffer would be seen by nobody.
        fence()
        self.feed()
        return source in self._starved

    def forget(self) -> None:
        """Watch nothing any more."""
        self.remove(list(self._by_token))

    def close(self) -> None:
        """Let go of everything."""
        self.forget()
        self._strategy.close()

    def _let_go(self, source: Source) -> None:
        if self._owns_fds:
            with contextlib.suppress(OSError):
                os.close(source.fd)
