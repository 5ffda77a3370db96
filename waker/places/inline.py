"""Nobody waits: the kernel stops the vCPU's thread by itself. Waker and breaker are one.

A strategy that needs no loop arms something on each fd that fires in the vCPU's own thread: an io_uring completion,
a signal. It takes the thread out of KVM_RUN or out of its sleep, and sets a byte that ends the next run, if it came
before the entry. So "is a break asked for?" starts with a look at that byte.

What fired may be no reason to stop: the doorbell of a ring without news, a file that was unwatched meanwhile. Then it
is armed again, and the Guest goes on. What fired for a reason stays silent until the release, which arms it again, at
once firing if it is still ready: held, and level-triggered, as any Waker is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import ClassVar

from shared.breaker import INLINE, BreakHandle, ExitFlag
from shared.errors import SourceRefused, UsageError
from shared.fault import Fault
from shared.memory import GuestMemory
from shared.page import BREAKS, WAKES, Page
from shared.trace import WAKER_LANE, Stage, Trace
from waker.api import InlineStrategy, Source, Unwatch, Watch
from waker.watchset import WatchSet


class InlineWaker:
    """Nobody waits: the kernel stops the vCPU's thread."""

    kind: ClassVar[str] = INLINE

    def __init__(
        self, page: Page, flag: ExitFlag, make: Callable[[ExitFlag], InlineStrategy], fault: Fault | None = None
    ) -> None:
        """Make it in the vCPU's thread; it watches nothing before `begin`."""
        self.pid = os.getpid()
        self._words = page.words
        self._page = page
        self._flag = flag.byte
        self._trace = Trace(page, WAKER_LANE)
        self._strategy = make(flag)
        self._watched: WatchSet | None = None
        self._fired: set[int] = set()
        self._is_asked = False  # by somebody else: a watchdog, a death
        self._is_broken = False
        self._is_held = False
        self._strike = None if fault is None else fault.strikes()

    # What the vCPU asks of its breaker.

    def break_out(self) -> None:
        self._is_asked = True
        self._flag[0] = 1
        self._strategy.kick()

    def is_set(self) -> bool:
        return self._is_broken or bool((self._flag[0] or self._strategy.is_pending()) and self._look())

    def clear(self) -> None:
        self._is_broken = self._is_asked = False
        self._flag[0] = 0

    def wait(self) -> None:
        self._strategy.wait()
        self._flag[0] = 1  # something came: look

    def take_kick(self) -> None:
        self._flag[0] = 1

    def handle(self) -> BreakHandle:
        raise UsageError("an inline Waker breaks only the thread it lives in; it cannot be handed over")

    def close(self) -> None:
        self._strategy.close()
        self._trace.close()
        self._flag.release()

    # What the Launcher asks of its Waker's place.

    def begin(self, memory: GuestMemory, sources: Sequence[tuple[int, Source]]) -> InlineWaker:
        """Begin to watch these; raise `SourceRefused` when one cannot be."""
        self._watched = WatchSet(self._strategy, memory, self._page)
        refusal = self._watched.add(sources)
        if refusal is not None:
            raise SourceRefused(refusal)
        return self

    def change(self, command: Watch | Unwatch) -> str | None:
        assert self._watched is not None
        if isinstance(command, Watch):
            return self._watched.add(command.sources)
        self._watched.remove(command.tokens)
        return None

    def release(self, upto: int) -> None:
        assert self._watched is not None
        fired = self._fired | self._strategy.look()
        self._fired = set()
        self._is_held = False
        self._trace.stamp(Stage.RELEASED)
        self._strategy.rearm(fired)
        if self._watched.has_news():
            self._flag[0] = 1  # a ring is level-triggered, too

    def nudge(self) -> None:
        assert self._watched is not None
        self._watched.feed()

    def is_alive(self) -> bool:
        return True

    def kill(self) -> None:
        raise UsageError("an inline Waker is nobody, and cannot be killed")

    def stop(self) -> None:
        if self._watched is not None:
            self._watched.forget()

    def _look(self) -> bool:
        """Find out whether what set the byte is a reason to stop."""
        self._flag[0] = 0  # first: what fires from here on sets it again
        fired = self._strategy.look()
        self._words[WAKES] += bool(fired)
        if self._watched is not None and self._watched.is_ready(fired):
            self._fired |= fired
            if not self._is_held:
                if self._trace.is_on:
                    self._trace.stamp(Stage.SEEN)
                    self._trace.stamp(Stage.BREAK)
                self._words[BREAKS] += 1
                self._is_held = True
                if self._strike is not None and self._strike():
                    self._is_held = False  # made, and lost: what fired stays silent, and what else fires is a new one
                    return self._is_broken
            self._is_broken = True
        else:
            self._strategy.rearm(fired)
            self._is_broken = self._is_asked
        return self._is_broken
