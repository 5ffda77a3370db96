"""A Waker that stands still at one point of its life, for as long as a test wants, and then goes on or dies.

No hook in the Waker is needed: waker/serve.py is handed everything it touches, so what it is handed is wrapped. What
stands still is real: a process stops itself by SIGSTOP, a thread sleeps on an event. A fork carries the wrapping along;
a process Waker is started as this module instead of as `waker`, and wraps by itself (it runs without site-packages, so
nothing here may import pytest).
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from shared.breaker import Breaker
from shared.child import spawn
from shared.page import Page
from tests.support.until import until
from waker.api import Channel
from waker.places import process
from waker.serve import serve
from waker.watchset import WatchSet

if TYPE_CHECKING:
    import pytest

    from waker import Waker

Serve = Callable[[Channel, WatchSet, Breaker, Page], None]


class Point(Enum):
    """Where a Waker can stand still. Each is passed at every break; it stands the first time."""

    BEFORE_WAIT = "one break is over, and it is about to look again"
    SEEN = "its strategy has returned something that is no command"
    LOOKING = "a doorbell's ring is taken, the ring's index is not yet read"
    ANSWERED = "it knows that there is a reason to break, and has told nobody"
    COUNTED = "the break is counted, the flag is not set"
    FLAGGED = "the flag is set, the kick has not gone out"
    KICKED = "the kick has gone out, and it is not yet held"


class _Wrapper:
    """Hands on what it does not know."""

    def __init__(self, inner: Any, point: Point, stand: Callable[[], None]) -> None:
        self._inner, self._point, self._stand = inner, point, stand

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Watched(_Wrapper):
    def __init__(self, inner: WatchSet, point: Point, stand: Callable[[], None], commands: int) -> None:
        super().__init__(inner, point, stand)
        self._commands, self._has_broken = commands, False

    def wait(self) -> set[int]:
        if self._point is Point.BEFORE_WAIT and self._has_broken:
            self._stand()
        ready: set[int] = self._inner.wait()
        if self._point is Point.SEEN and ready - {self._commands}:
            self._stand()
        return ready

    def is_ready(self, ready: set[int]) -> bool:
        memory = self._inner._memory
        if self._point is Point.LOOKING and ready:
            self._inner._memory = _Memory(memory, self._point, self._stand)
        return self._tell(self._inner.is_ready(ready))

    def has_news(self) -> bool:
        return self._tell(self._inner.has_news())

    def _tell(self, is_ready: bool) -> bool:
        self._has_broken = self._has_broken or is_ready
        if self._point is Point.ANSWERED and is_ready:
            self._stand()
        return is_ready


class _Memory(_Wrapper):
    @property
    def u16(self) -> Any:
        self._stand()
        return self._inner.u16


class _Breaker(_Wrapper):
    def __init__(self, inner: Breaker, point: Point, stand: Callable[[], None]) -> None:
        # A copy: in a thread, it is the Launcher's own.
        super().__init__(copy.copy(inner), point, stand)
        if point is Point.FLAGGED:
            self._inner._words = _Words(self._inner._words, point, stand)

    def break_out(self) -> None:
        if self._point is Point.COUNTED:
            self._stand()
        self._inner.break_out()
        if self._point is Point.KICKED:
            self._stand()


class _Words(_Wrapper):
    def __getitem__(self, at: int) -> int:
        word: int = self._inner[at]
        return word

    def __setitem__(self, at: int, word: int) -> None:
        self._inner[at] = word
        self._stand()


def serve_and_stand(
    point: Point,
    stand: Callable[[], None],
    channel: Channel,
    watched: WatchSet,
    breaker: Breaker,
    page: Page,
    serve: Serve = serve,
) -> None:
    """Be a Waker that calls `stand` once, at `point`."""
    has_stood = False

    def stand_once() -> None:
        nonlocal has_stood
        if not has_stood:
            has_stood = True
            stand()

    serve(
        channel,
        _Watched(watched, point, stand_once, channel.fileno()),  # type: ignore[arg-type]
        _Breaker(breaker, point, stand_once),
        page,
    )


class Standstill:
    """Has the next Waker that is started stand still at `point`."""

    def __init__(self, patch: pytest.MonkeyPatch, point: Point, serve: Serve = serve) -> None:
        """Wrap what is started from here on; `serve` takes the place of the loop, for sabotage (not in a process)."""
        self._serve = serve
        self._following: Point | None
        self.arm(point)
        patch.setattr("waker.places.fork.serve", self._serve_in_fork)
        patch.setattr("waker.places.thread.serve", self._serve_in_thread)
        patch.setattr("waker.places.process.spawn", self._spawn)

    def arm(self, point: Point | None) -> None:
        """Say where the next Waker that is started stands still."""
        self._point = point
        self._stands, self._may_go = threading.Event(), threading.Event()
        self._dies, self._following = False, None

    def wait(self, waker: Waker) -> None:
        """Return once the Waker stands there; those that are started later do not."""
        self._point = None
        if waker.stats().pid == os.getpid():
            until(self._stands.is_set, "the Waker does not come to where it is to stand")
        else:
            pid = waker.stats().pid
            until(lambda: os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG), f"Waker {pid} was not stopped")

    def go_on(self, waker: Waker) -> None:
        """Have it go on."""
        if waker.stats().pid == os.getpid():
            self._may_go.set()
        else:
            os.kill(waker.stats().pid, signal.SIGCONT)

    def die(self, waker: Waker, following: Point | None = None) -> None:
        """Have it die where it stands; the next one stands still at `following`."""
        self._following = following
        if waker.stats().pid == os.getpid():
            self._dies = True
            self._may_go.set()
        else:
            self.arm(following)
            waker.kill()

    def _serve_in_fork(self, channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
        self._serve_or_stand(lambda: os.kill(os.getpid(), signal.SIGSTOP), channel, watched, breaker, page)

    def _serve_in_thread(self, channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
        from waker.places.thread import _Killed

        def stand() -> None:
            may_go = self._may_go
            self._stands.set()
            may_go.wait()
            if self._dies:
                self.arm(self._following)
                raise _Killed

        self._serve_or_stand(stand, channel, watched, breaker, page)

    def _serve_or_stand(self, stand: Callable[[], None], *rest: Any) -> None:
        if self._point is None:
            self._serve(*rest)
        else:
            serve_and_stand(self._point, stand, *rest, serve=self._serve)

    def _spawn(self, module: str, theirs: Any, *titles: str) -> int:
        if self._point is None:
            return spawn(module, theirs, *titles)
        return spawn("tests.support.standstill", theirs, *titles, self._point.name)


@contextmanager
def let_go_at_the_end(still: Standstill) -> Iterator[None]:
    """Have a thread that still stands there go on, so that it can be joined; a process is killed."""
    try:
        yield
    finally:
        still._may_go.set()


if __name__ == "__main__":
    _point = Point[sys.argv[-1]]
    process.serve = lambda *given: serve_and_stand(_point, lambda: os.kill(os.getpid(), signal.SIGSTOP), *given)  # type: ignore[assignment]
    sys.exit(process.live_as_process(0))
