"""How the vCPU is stopped: a flag in the control page, and a kick that ends its sleep or its run.

The danger is the break that lands while the Launcher is servicing devices, or between the vCPU's last look at the
flag and its entry into the Guest: nobody is there to be stopped, and the wake-up is lost for good. The answer has
two halves, and each breaker keeps both:

- *Flag first, then kick.* Whoever is woken by the kick finds the flag.
- *The kick stays until it is taken.* A signal that is blocked stays pending; an eventfd keeps its count. So a kick
  that comes too early ends the next sleep (or the next KVM_RUN, which opens the signal's mask atomically), instead
  of falling into the gap. No handler runs: an empty handler without a flag is how a well-known VMM lost breaks.

A kick can outlive the break it belonged to. That costs one early return of `wait`, never a wake-up.

The Launcher clears the flag after leaving the Guest and *before* servicing: what becomes ready later sets it again.
Holding the Waker until it is released is not the breaker's: a held Waker must still obey watch and unwatch and must
see its Launcher die, so it waits on the one thing that carries all three (waker/serve.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import ClassVar, NamedTuple, Protocol

from shared.errors import UsageError
from shared.linux import IS_WEAKLY_ORDERED, fence, tgkill
from shared.page import BREAK, Page

KICK_SIGNAL = signal.SIGUSR1

INLINE = "inline"
"""The kind of a breaker that is its own Waker (waker/places/inline.py): in none of the lists, no other can use it."""


class BreakHandle(NamedTuple):
    """What another process needs in order to break this vCPU: the kind, two numbers and at most one fd."""

    kind: str
    pid: int
    tid: int
    fd: int | None


class ExitFlag(NamedTuple):
    """The byte that ends the vCPU's next run at once when it is 1; `address` is where it lies in this process."""

    byte: memoryview
    address: int


class Breaker(Protocol):
    """One vCPU's way of being stopped."""

    kind: ClassVar[str]

    def break_out(self) -> None:
        """Stop the Guest, or its next entry. From any thread or process; doing it twice is doing it once."""

    def is_set(self) -> bool:
        """Whether a break was asked for and not yet taken. From any thread."""

    def clear(self) -> None:
        """Take the break: after leaving the Guest, before servicing. The vCPU's thread only."""

    def wait(self) -> None:
        """Sleep until a kick, and take it; may return early. The vCPU's thread only."""

    def take_kick(self) -> None:
        """Take a kick that may have come, without waiting. The vCPU's thread only."""

    def handle(self) -> BreakHandle:
        """Return what a peer needs to call `break_out`; the fd in it stays ours."""

    def close(self) -> None:
        """Give back what this end opened."""


class _FlagFirst:
    """The half that all kinds share: the flag."""

    def __init__(self, page: Page) -> None:
        self._words = page.words

    def is_set(self) -> bool:
        return bool(self._words[BREAK])

    def _set(self) -> None:
        if IS_WEAKLY_ORDERED:
            fence()  # the count of breaks before the flag
        self._words[BREAK] = 1

    def clear(self) -> None:
        self._words[BREAK] = 0
        # What the Launcher reads next (which break it answers) must not be older than this store: the Waker counts a
        # break first and sets the flag second. Were the load early and the store late, that break would vanish.
        fence()


class SignalBreaker(_FlagFirst):
    """A signal to the vCPU's thread, blocked there except inside KVM_RUN: the least a Waker must be allowed."""

    kind: ClassVar[str] = "signal"

    def __init__(self, page: Page, pid: int, tid: int) -> None:
        super().__init__(page)
        self._pid, self._tid = pid, tid
        self._was_blocked: bool | None = None

    @classmethod
    def create(cls, page: Page) -> SignalBreaker:
        """Make the calling thread the vCPU's: the kick is blocked in it from here to `close`."""
        breaker = cls(page, os.getpid(), threading.get_native_id())
        breaker._was_blocked = KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        return breaker

    def break_out(self) -> None:
        self._set()
        with contextlib.suppress(ProcessLookupError):  # the Launcher has gone; its Waker is about to hear of it
            tgkill(self._pid, self._tid, KICK_SIGNAL)

    def wait(self) -> None:
        signal.sigwaitinfo({KICK_SIGNAL})

    def take_kick(self) -> None:
        signal.sigtimedwait({KICK_SIGNAL}, 0)

    def handle(self) -> BreakHandle:
        return BreakHandle(self.kind, self._pid, self._tid, None)

    def close(self) -> None:
        if self._was_blocked is None:
            return
        # Standard signals coalesce: at most one kick is left, and unblocked it would kill us.
        self.take_kick()
        if not self._was_blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
        self._was_blocked = None


class EventfdBreaker(_FlagFirst):
    """An eventfd that a halted vCPU reads. It stops an engine that looks at the flag by itself while computing."""

    kind: ClassVar[str] = "eventfd"

    def __init__(self, page: Page, fd: int) -> None:
        super().__init__(page)
        self._fd = fd

    @classmethod
    def create(cls, page: Page) -> EventfdBreaker:
        """Make one for a vCPU of this process."""
        return cls(page, os.eventfd(0, os.EFD_CLOEXEC))

    def break_out(self) -> None:
        self._set()
        os.eventfd_write(self._fd, 1)

    def wait(self) -> None:
        os.read(self._fd, 8)  # os.eventfd_read would fail with EINTR when a signal's handler has run (PEP 475)

    def take_kick(self) -> None:
        """Do nothing: a kick left over ends one `wait` early."""

    def handle(self) -> BreakHandle:
        return BreakHandle(self.kind, 0, 0, self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


KINDS: tuple[str, ...] = (SignalBreaker.kind, EventfdBreaker.kind)


def create(kind: str, page: Page) -> Breaker:
    """Make the breaker of the calling thread's vCPU; raise `UsageError` for a kind that does not exist."""
    if kind == SignalBreaker.kind:
        return SignalBreaker.create(page)
    if kind == EventfdBreaker.kind:
        return EventfdBreaker.create(page)
    raise UsageError(f"breaker '{kind}' is not known; there are {', '.join(KINDS)}")


def from_handle(handle: BreakHandle, page: Page) -> Breaker:
    """Make the peer's end, which can only `break_out`; a passed fd belongs to the result."""
    if handle.kind == SignalBreaker.kind:
        return SignalBreaker(page, handle.pid, handle.tid)
    if handle.kind == EventfdBreaker.kind and handle.fd is not None:
        return EventfdBreaker(page, handle.fd)
    raise UsageError(f"break handle of kind '{handle.kind}' is not known; there are {', '.join(KINDS)}")
