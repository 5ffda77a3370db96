"""What the Launcher holds: one Waker, whoever waits for it, replaced when it dies.

A Waker may die at any moment, by SIGKILL too. Nothing is lost by that: readiness is level-triggered, so a new Waker
that is given the same watch set sees all that the old one left unsaid. So death is handled in one place, here, at
each moment at which the Launcher speaks to its Waker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic

from shared.errors import SourceRefused, WakerError
from shared.linux import is_open
from shared.page import BREAKS, LOOKS, REPLACED, STARVED, WAKES, Page
from shared.wire import PeerGone
from waker.api import Outgrown, Place, Source, Unwatch, WakerStats, Watch

# More deaths than this within so long are no accident. (A process takes tens of milliseconds to die and be replaced.)
_MANY_DEATHS = 20
_CRASH_LOOP_S = 10.0

StartPlace = Callable[[Sequence[tuple[int, Source]]], Place]


class _DiedEarlyError(WakerError):
    """Say that a Waker was gone before it watched anything."""


class Waker:
    """A running Waker. The vCPU's thread alone calls it; `stop()` it, or use it in a `with`."""

    def __init__(self, name: str, start: StartPlace, page: Page, sources: Sequence[Source]) -> None:
        self.name = name
        self._start_place = start
        self._page = page
        self._serial = count(1)
        self._tokens = {source: next(self._serial) for source in sources}
        self._generation = 0
        self._released = page.words[BREAKS]
        self._deaths: deque[float] = deque(maxlen=_MANY_DEATHS)
        self._is_stopped = False
        self._place = self._start()

    def watch(self, *sources: Source) -> None:
        """Have these watched: what is readable from now on, or already is, breaks the Guest.

        When it returns the Waker looks at all of them. Raises `SourceRefused`, and watches none of them, when its
        strategy cannot take one. A source that is watched already stays so.
        """
        new = [source for source in dict.fromkeys(sources) if source not in self._tokens]
        if not new:
            return
        for source in new:
            if not is_open(source.fd):
                raise SourceRefused(f"{self.name}: {source.name}: fd {source.fd} is not open")
        self._generation += 1
        for source in new:
            self._tokens[source] = next(self._serial)
        try:
            refusal = self._place.change(Watch(self._generation, [(self._tokens[source], source) for source in new]))
        except Outgrown:
            self._start_again(new)
        except PeerGone:
            self._replace()
        else:
            if refusal is not None:
                self._forget(new)
                raise SourceRefused(f"{self.name}: {refusal}")

    def unwatch(self, *sources: Source) -> None:
        """Have these watched no longer; when it returns, none of them can break the Guest and all may be closed."""
        tokens = [self._tokens.pop(source) for source in sources if source in self._tokens]
        if not tokens:
            return
        self._generation += 1
        try:
            self._place.change(Unwatch(self._generation, tokens))
        except PeerGone:
            self._replace()

    def held(self) -> int:
        """Return the number of the break for which the Waker is held: ask before servicing, release it after."""
        return self._page.words[BREAKS]

    def release(self, held: int) -> None:
        """Let the Waker look again, or start another if it died: all that was ready up to break `held` is serviced."""
        if not self._place.is_alive():
            self._replace()
        elif held != self._released:
            try:
                self._place.release(held)
            except PeerGone:
                self._replace()
        self._released = held

    def nudge(self) -> None:
        """Have the Waker look at what it left alone for want of a buffer: the Guest may have given one."""
        if self._page.words[STARVED]:
            try:
                self._place.nudge()
            except PeerGone:
                self._replace()

    def alive(self) -> bool:
        """Whether the Waker runs."""
        return self._place.is_alive()

    def stats(self) -> WakerStats:
        """Return what has been done so far, by all the Wakers that had this place."""
        words = self._page.words
        return WakerStats(words[BREAKS], words[WAKES], words[LOOKS], words[REPLACED], self._place.pid)

    def kill(self) -> None:
        """Have the Waker die at once: for those who want to see what happens then."""
        self._place.kill()

    def stop(self) -> None:
        """End the Waker; once stopped, stopping again does nothing."""
        if not self._is_stopped:
            self._is_stopped = True
            self._place.stop()

    def __enter__(self) -> Waker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> Place:
        # A file that was closed without a word cannot be passed on; nobody can be woken by it either.
        self._tokens = {source: token for source, token in self._tokens.items() if is_open(source.fd)}
        try:
            return self._start_place([(token, source) for source, token in self._tokens.items()])
        except SourceRefused as refusal:
            raise SourceRefused(f"{self.name}: {refusal}") from refusal
        except PeerGone as error:
            raise _DiedEarlyError(f"{self.name}: the Waker died while it started") from error

    def _replace(self) -> None:
        """Start another Waker in place of the dead one, with the same watch set; one that dies of it, too."""
        for _ in range(_MANY_DEATHS):
            now = monotonic()
            self._deaths.append(now)
            if len(self._deaths) == _MANY_DEATHS and now - self._deaths[0] < _CRASH_LOOP_S:
                raise WakerError(f"{self.name}: the Waker died {_MANY_DEATHS} times within {_CRASH_LOOP_S:.0f} s")
            self._page.words[REPLACED] += 1
            try:
                return self._begin_anew()
            except _DiedEarlyError:
                continue
        raise WakerError(f"{self.name}: the Waker died {_MANY_DEATHS} times in a row before it watched anything")

    def _start_again(self, new: list[Source]) -> None:
        """Fork again, for sources that the child cannot know."""
        try:
            self._begin_anew()
        except SourceRefused:
            self._forget(new)
            self._begin_anew()
            raise

    def _begin_anew(self) -> None:
        self.stop()
        self._place = self._start()
        self._is_stopped = False

    def _forget(self, sources: list[Source]) -> None:
        for source in sources:
            del self._tokens[source]
