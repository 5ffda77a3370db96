"""Every way the laboratory says no: one sentence with the thing, the value and the remedy.

The command line prints the sentence and leaves with `exit_code`; nothing here is ever shown as a traceback.
"""

from __future__ import annotations

EXIT_FINE = 0
EXIT_ERROR = 1
EXIT_REGRESSED = 2
EXIT_UNDECIDED = 3
EXIT_BROKEN_RULE = 4
EXIT_NOTHING_MEASURED = 5
EXIT_CANNOT_RUN_HERE = 77
EXIT_INTERRUPTED = 130

_WORST_FIRST = (
    EXIT_BROKEN_RULE,
    EXIT_INTERRUPTED,
    EXIT_ERROR,
    EXIT_REGRESSED,
    EXIT_UNDECIDED,
    EXIT_CANNOT_RUN_HERE,
    EXIT_NOTHING_MEASURED,
    EXIT_FINE,
)


def worst(*codes: int) -> int:
    """Return the exit code that must not be hidden by the others: what is broken above all, and fine last."""
    return min(codes, key=_WORST_FIRST.index)


class LabError(Exception):
    """Say in one sentence what went wrong; the base of every error raised on purpose."""

    exit_code = EXIT_ERROR


class UsageError(LabError):
    """Refuse what the user asked for."""


class CannotRunError(LabError):
    """Say that nothing on this machine can run what was asked."""

    exit_code = EXIT_CANNOT_RUN_HERE


class Unread(LabError):  # noqa: N818 - an event
    """Say that not all of the data found a reader; what was found decides the exit code all the same."""

    def __init__(self, found: int = EXIT_FINE, why: OSError | None = None) -> None:
        super().__init__(
            "standard output was closed before all was written"
            if why is None or isinstance(why, BrokenPipeError)
            else f"standard output: {why.strerror}: not all was written; make room, or write elsewhere"
        )
        self.exit_code = found or EXIT_ERROR


class BadAddress(LabError):  # noqa: N818 - the design's name
    """Refuse an address that a Guest or a peer gave and that is not Guest memory."""

    def __init__(self, addr: int, length: int, limit: int) -> None:
        super().__init__(
            f"{length} bytes at {addr:#x} end at {addr + length:#x}, past guest memory ({limit:#x})"
            if length >= 0
            else f"{length} bytes at {addr:#x}: a length cannot be negative"
        )
        self.addr, self.length, self.limit = addr, length, limit


class RingError(LabError):
    """Report a malformed ring: the queue is broken from here on, the Launcher lives.

    `reason` is a sentence, or, where there is a descriptor, what that one does: `ends at 0x21000, past ...`.
    """

    def __init__(self, queue: str, descriptor: int | None, reason: str) -> None:
        super().__init__(f"{queue}: {reason}" if descriptor is None else f"{queue}: descriptor {descriptor} {reason}")
        self.queue, self.descriptor, self.reason = queue, descriptor, reason


class MemoryRefused(LabError):  # noqa: N818 - a refusal, named as one
    """Refuse a memory object: private where it must be shared, unsealed, or of the wrong size."""


class WireError(LabError):
    """Refuse a message of the other side, by name; every fd that came with it is closed."""


class SourceRefused(LabError):  # noqa: N818 - a refusal, named as one
    """Say that a strategy cannot watch this source, and which could."""


class WakerError(LabError):
    """Say that a Waker could not be started, or keeps dying."""


class GuestDied(LabError):  # noqa: N818 - an event
    """Say that the Guest crashed, with the reason it gave."""


class Interrupted(BaseException):
    """Say that the user asked to stop. Not an Exception: a Guest in Python must not swallow it, or die of it."""

    exit_code = EXIT_INTERRUPTED


class TimedOut(Interrupted):
    """Say that the Guest ran longer than it was given."""

    exit_code = EXIT_ERROR
