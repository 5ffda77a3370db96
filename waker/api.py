"""The seams of the Waker: what can be watched, the one seam to add a new idea, and what the Launcher may ask.

A Waker is a *place* (who waits), a *strategy* (how readiness is learnt) and a *breaker* (how the vCPU is stopped).
waker/serve.py is the loop in the middle; everything else here is what it talks to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shared.breaker import Breaker
from shared.memory import GuestMemory
from shared.page import Page
from shared.vring import RingView
from shared.wire import PeerGone


class Source:
    """An open file that can be watched: a plain fd, or the doorbell of a vring fd, with the `ring` to look at.

    A plain fd may have a `room`: then it is a reason to break the Guest only while that ring has buffers to read into.
    One object stands for one open file and is told from others by identity: a number that comes back as another
    file is another Source. Whoever closes the file unwatches it first.
    """

    __slots__ = ("fd", "name", "ring", "room")

    def __init__(self, fd: int, name: str, ring: RingView | None = None, room: RingView | None = None) -> None:
        self.fd = fd
        self.name = name
        self.ring = ring
        self.room = room

    def __repr__(self) -> str:
        return f"<{self.name}: fd {self.fd}>"


class FdSet(Protocol):
    """What every strategy is at least: fds go in and out."""

    def add(self, fd: int) -> None:
        """Look at `fd`; raise `SourceRefused` for one that this strategy cannot take."""

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer; it may be closed already."""

    def close(self) -> None:
        """Free what the strategy opened."""


class Strategy(FdSet, Protocol):
    """How readiness is learnt. One thread calls it, so it holds no lock and keeps no books.

    A strategy is a file in waker/strategies/ with a class `Strategy` and a function `missing() -> str | None`, which
    says why it cannot run here. R1: readiness is level-triggered. R2: `wait` may return early and empty, and never
    hangs on a ready fd. R4: a closed or reused number disturbs no other. R5: `close` frees all it opened.
    """

    def add(self, fd: int) -> None:
        """Begin to look at `fd`; raise `SourceRefused` for one that this strategy cannot take."""

    def remove(self, fd: int) -> None:
        """Stop looking at `fd`, which may be closed already."""

    def wait(self) -> set[int]:
        """Sleep until something is ready, and return it."""

    def close(self) -> None:
        """Free what the strategy opened."""


class InlineStrategy(FdSet, Protocol):
    """How the kernel stops the vCPU's thread by itself, without anybody waiting. That thread alone calls it.

    It is the class `Inline` of a strategy's file, made with the byte that ends the vCPU's next run.
    """

    def add(self, fd: int) -> None:
        """Have `fd` stop the vCPU once, as soon as it is ready; raise `SourceRefused` for one that cannot."""

    def remove(self, fd: int) -> None:
        """Have `fd` stop nobody any more."""

    def is_pending(self) -> bool:
        """Whether something has fired that did not set the byte."""

    def look(self) -> set[int]:
        """Return what has fired since the last look, without waiting."""

    def rearm(self, fds: set[int]) -> None:
        """Have these, which fired, fire again; what is ready by now does at once."""

    def wait(self) -> None:
        """Sleep until something fires; may return early."""

    def kick(self) -> None:
        """Stop the vCPU, or end its `wait`: from any thread."""

    def close(self) -> None:
        """Free what the strategy opened."""


class Watch(NamedTuple):
    """Begin to watch; each source comes with the token that names it from now on."""

    generation: int
    sources: Sequence[tuple[int, Source]]


class Unwatch(NamedTuple):
    """Stop watching the sources that these tokens name."""

    generation: int
    tokens: Sequence[int]


class Release(NamedTuple):
    """All that was ready up to break number `upto` is serviced: look again."""

    upto: int


class Nudge(NamedTuple):
    """The Guest may have given buffers: look again at what was left alone for want of one."""


Command = Watch | Unwatch | Release | Nudge


class Channel(Protocol):
    """The Waker's end of what brings it commands; each place has its own."""

    def fileno(self) -> int:
        """Return the fd that is ready when a command has come, or the Launcher has gone."""

    def receive(self) -> Sequence[Command]:
        """Wait for commands and return at least one; raise `PeerGone` when the Launcher is gone.

        After the fd was ready it may return none.
        """

    def answer(self, generation: int, refusal: str | None) -> None:
        """Tell the Launcher that the change is obeyed, or why it is not."""


class Setup(NamedTuple):
    """All that a place needs to start a Waker; `sources` is the watch set it begins with."""

    strategy: str
    memory: GuestMemory
    page: Page
    breaker: Breaker
    sources: Sequence[tuple[int, Source]]


class Outgrown(PeerGone):
    """Say that this Waker cannot see a file that was opened after it was started; another one can."""


class Place(Protocol):
    """The Launcher's end of one running Waker. The vCPU's thread calls it; nothing survives `stop`."""

    pid: int
    """The process in which it runs."""

    def change(self, command: Watch | Unwatch) -> str | None:
        """Have a change obeyed, and return None, or the reason for which it is refused; raise `PeerGone`."""

    def release(self, upto: int) -> None:
        """Let a Waker go on that is held for break `upto` or an earlier one; raise `PeerGone`."""

    def nudge(self) -> None:
        """Have it look again at what it left alone for want of a buffer; raise `PeerGone`."""

    def is_alive(self) -> bool:
        """Whether it still runs; once False, it stays False."""

    def kill(self) -> None:
        """Have it die at once, wherever it is, as by SIGKILL: what `check` does to see that nothing is lost."""

    def stop(self) -> None:
        """End it, wait until it is gone, and close this end."""


class WakerStats(NamedTuple):
    """What a Waker has done: breaks, returns of its strategy, doorbells answered, replacements; where it runs."""

    breaks: int
    wakes: int
    looks: int
    replaced: int
    pid: int
