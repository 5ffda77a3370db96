"""How the vCPU is stopped: a flag in the control page, and a kick that ends its sleep or its run.

The danger is the break that lands while the Launcher is servicing devices, or between the vCPU's last look at the
flag and its entry into the Guest: nobody is there to be stopped, and the wake-up is lost for good. The answer has
two halves, and each breaker keeps both:

- *Flag first, then kick.* Whoever is woken by the kick finds the flag.
- *The kick stays until it is taken.* So one that comes too early ends the next sleep, or the next run, instead of
  falling into the gap. An empty handler without a flag is how a well-known VMM lost breaks.

| kind      | what stays                                        | which engine it can stop                            |
|-----------|---------------------------------------------------|-----------------------------------------------------|
| signal    | a signal that is blocked: it is pending           | kvm (KVM_RUN opens the mask by itself) and the rest |
| immediate | a byte in kvm_run that KVM reads on entry         | kvm; the signal after it ends a run that has begun  |
| eventfd   | a count                                           | python, unicorn: they look at the flag as they go    |
| pipe      | a byte                                            | python, unicorn                                     |
| futex     | the flag itself: the kernel compares, then sleeps | python, unicorn                                     |
| semaphore | a count                                           | python, unicorn                                     |
| mqueue    | a message                                         | python, unicorn                                     |

A processor in Guest mode is stopped by nothing but a signal to its thread, or by the kernel: no other kind fits kvm.

A kick can outlive the break it belonged to. That costs one early return of `wait`, never a wake-up.

The Launcher clears the flag after leaving the Guest and *before* servicing: what becomes ready later sets it again.
Holding the Waker until it is released is not the breaker's: a held Waker must still obey watch and unwatch and must
see its Launcher die, so it waits on the one thing that carries all three (waker/serve.py).

A kind is one file, shared/breakers/NAME.py, found by its name: a class `NameBreaker` with what `Breaker` and `Kind`
ask for. It is imported when it is used, so a Waker process carries no other's weight.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from importlib import import_module
from typing import ClassVar, NamedTuple, Protocol, Self

from shared import fault as faults
from shared.errors import UsageError
from shared.linux import IS_WEAKLY_ORDERED, fence, tgkill
from shared.page import BREAK, Page

KICK_SIGNAL = signal.SIGUSR1

INLINE = "inline"
"""The kind of a breaker that is its own Waker (waker/places/inline.py): in none of the lists, no other can use it."""


class BreakHandle(NamedTuple):
    """What another process needs in order to break this vCPU. Each kind knows what its numbers and fds are."""

    kind: str
    numbers: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()


class ExitFlag(NamedTuple):
    """The byte that ends the vCPU's next run at once when it is 1; `address` is where it lies in this process.

    Where others can map it too, it is at `offset` in the first `size` bytes of `fd`.
    """

    byte: memoryview
    address: int
    fd: int = -1
    offset: int = 0
    size: int = 0


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
        """Return what a peer needs to call `break_out`; the fds in it stay ours."""

    def close(self) -> None:
        """Give back what this end opened; once closed, closing again does nothing."""


class Kind(Protocol):
    """How a breaker of one kind comes to be, and what is needed for that."""

    kind: ClassVar[str]
    shape: ClassVar[tuple[int, int]]
    """How many numbers and fds its handle has."""

    def missing(self) -> str | None:
        """Return why this machine has none of it, or None."""

    def create(self, page: Page, flag: ExitFlag | None) -> Breaker:
        """Make the breaker of the calling thread's vCPU; `flag` is the byte that ends its next run, if it has one."""

    def from_handle(self, page: Page, numbers: Sequence[int], fds: Sequence[int]) -> Breaker:
        """Make the peer's end of a handle of the right shape; the fds belong to it, also when this fails."""


class FlagFirst:
    """The half that all kinds share: the flag. What they mostly have in common of the other half is here as well."""

    def __init__(self, page: Page) -> None:
        self._words = page.words

    @staticmethod
    def missing() -> str | None:
        """Return None: every Linux has it."""
        return None

    def is_set(self) -> bool:
        """Look at the flag."""
        return bool(self._words[BREAK])

    def _set(self) -> None:
        if IS_WEAKLY_ORDERED:
            fence()  # the count of breaks before the flag
        self._words[BREAK] = 1

    def clear(self) -> None:
        """Take the flag back."""
        self._words[BREAK] = 0
        # What the Launcher reads next (which break it answers) must not be older than this store: the Waker counts a
        # break first and sets the flag second. Were the load early and the store late, that break would vanish.
        fence()

    def take_kick(self) -> None:
        """Do nothing: a kick left over ends one `wait` early."""

    def close(self) -> None:
        """Do nothing: all there is, is in the control page."""


class FaultyBreaker:
    """A breaker as its Waker has it, with a fault on the way (shared/fault.py): it breaks late, or not at all."""

    kind: ClassVar[str] = "faulty"

    def __init__(self, breaker: Breaker, fault: faults.Fault) -> None:
        self._breaker, self._fault = breaker, fault
        self._strike = fault.strikes()

    def break_out(self) -> None:
        """Stop the Guest, unless this break is one that is dropped."""
        if not self._strike():
            self._breaker.break_out()

    def handle(self) -> BreakHandle:
        """Return what a peer needs to be as faulty."""
        handle = self._breaker.handle()
        return handle._replace(kind=f"{handle.kind}+{self._fault}")

    def is_set(self) -> bool:
        """Look at the flag."""
        return self._breaker.is_set()

    def clear(self) -> None:
        """Take the break."""
        self._breaker.clear()

    def wait(self) -> None:
        """Sleep until a kick."""
        self._breaker.wait()

    def take_kick(self) -> None:
        """Take a kick that may have come."""
        self._breaker.take_kick()

    def close(self) -> None:
        """Close the breaker."""
        self._breaker.close()


class KickedInPage(FlagFirst):
    """A kick that goes through the control page, which both sides have: nothing to pass, nothing to close."""

    kind: ClassVar[str]
    shape: ClassVar[tuple[int, int]] = (0, 0)

    @classmethod
    def from_handle(cls, page: Page, _numbers: Sequence[int], _fds: Sequence[int]) -> Self:
        """Make the peer's end."""
        return cls(page)

    def handle(self) -> BreakHandle:
        """Return the kind's name: that is all."""
        return BreakHandle(self.kind)


class KickedByFd(FlagFirst):
    """A kick that goes through a file: one fd to write it, which can be passed on, and one to read it."""

    kind: ClassVar[str]
    shape: ClassVar[tuple[int, int]] = (0, 1)

    def __init__(self, page: Page, writer: int, reader: int | None = None) -> None:
        """Take over the fds, which may be one and the same; a peer has no `reader`."""
        super().__init__(page)
        self._writer = writer
        self._reader = -1 if reader is None else reader

    @classmethod
    def from_handle(cls, page: Page, _numbers: Sequence[int], fds: Sequence[int]) -> Self:
        """Make the peer's end, which writes."""
        return cls(page, fds[0])

    def handle(self) -> BreakHandle:
        """Return the fd that is written to."""
        return BreakHandle(self.kind, (), (self._writer,))

    def close(self) -> None:
        """Close both."""
        fds = {self._writer, self._reader} - {-1}
        self._writer = self._reader = -1
        for fd in fds:
            os.close(fd)


def kick_thread(pid: int, tid: int) -> None:
    """Send a vCPU's thread the kick signal, if it is still there: else its Waker is about to hear of it."""
    with contextlib.suppress(ProcessLookupError):
        tgkill(pid, tid, KICK_SIGNAL)


def _kinds() -> tuple[str, ...]:
    # No pathlib: a Waker process that is to be there in 30 ms comes by here.
    folder = os.path.join(os.path.dirname(__file__), "breakers")  # noqa: PTH118, PTH120
    files = os.listdir(folder)  # noqa: PTH208
    return tuple(sorted(name.removesuffix(".py") for name in files if name.endswith(".py") and name[0] != "_"))


KINDS: tuple[str, ...] = _kinds()
"""All kinds that there are: the files in shared/breakers/."""


def missing(kind: str) -> str | None:
    """Return why a breaker of this kind cannot work on this machine, or None when it can."""
    return _load(kind, "breaker").missing()


def description(kind: str) -> str:
    """Return what a breaker of this kind is, in one line: the first of its file."""
    _load(kind, "breaker")
    return (import_module(f"shared.breakers.{kind}").__doc__ or "").split("\n", 1)[0]


def create(kind: str, page: Page, flag: ExitFlag | None = None) -> Breaker:
    """Make the breaker of the calling thread's vCPU, whose next run `flag` ends, where it has such a byte.

    Raises `UsageError` for a kind that does not exist or needs a flag that is not there, `CannotRunError` for one
    that this machine lacks.
    """
    return _load(kind, "breaker").create(page, flag)


def from_handle(handle: BreakHandle, page: Page) -> Breaker:
    """Make the peer's end, which can only `break_out`; the passed fds belong to it, and are closed when this fails."""
    with contextlib.ExitStack() as refused:
        for fd in handle.fds:
            refused.callback(os.close, fd)
        name, *options = handle.kind.split("+")
        kind = _load(name, "break handle of kind")
        fault = faults.parse(options)
        if (len(handle.numbers), len(handle.fds)) != kind.shape:
            raise UsageError(
                f"break handle of kind '{name}' has {kind.shape[0]} numbers and {kind.shape[1]} fds, "
                f"not {len(handle.numbers)} and {len(handle.fds)}"
            )
        refused.pop_all()
    breaker = kind.from_handle(page, handle.numbers, handle.fds)
    return breaker if fault is None else FaultyBreaker(breaker, fault)


def _load(kind: str, what: str) -> Kind:
    if kind not in KINDS:
        raise UsageError(f"{what} '{kind}' is not known; there are {', '.join(KINDS)}")
    found: Kind = getattr(import_module(f"shared.breakers.{kind}"), f"{kind.capitalize()}Breaker")
    return found
