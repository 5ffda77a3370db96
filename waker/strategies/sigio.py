"""O_ASYNC: the kernel signals the vCPU's thread when a file becomes ready.

F_SETSIG makes it the kick signal and F_SETOWN_EX sends it to the one thread, so that it ends KVM_RUN, or a sleep,
as a Waker's kick would. It comes once for each *change*, so what is left unread has to be looked for: that is one
poll(2) of everything at each look and each release.

O_ASYNC belongs to the open file, not to the number: whoever shares it (a shell its terminal) shares the flag. So it is
taken away again, with owner and signal. Files that send none are refused: the kernel would just take the flag.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import struct
import threading

from shared.breaker import KICK_SIGNAL, ExitFlag
from shared.errors import SourceRefused
from shared.linux import is_open, tgkill

_F_SETOWN_EX, _F_GETOWN_EX = 15, 16
_OWNER, _TID = struct.Struct("ii"), 0  # struct f_owner_ex: type, pid


def missing() -> str | None:
    """Return None: every Linux has it."""
    return None


class Inline:
    """Signals from the files themselves, blocked in the vCPU's thread except where it may be stopped."""

    def __init__(self, flag: ExitFlag) -> None:
        self._pid, self._tid = os.getpid(), threading.get_native_id()
        self._stays_blocked = KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        self._poll = select.poll()
        self._before: dict[int, tuple[int, int, bytes]] = {}

    def add(self, fd: int) -> None:
        """Have `fd` signal; raise `SourceRefused` for a file that does not do that."""
        self.remove(fd)
        if (kind := _why_silent(fd)) is not None:
            raise SourceRefused(f"sigio cannot watch fd {fd}: {kind} sends no SIGIO; use another strategy")
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._before[fd] = flags, fcntl.fcntl(fd, fcntl.F_GETSIG), fcntl.fcntl(fd, _F_GETOWN_EX, bytes(_OWNER.size))
        fcntl.fcntl(fd, fcntl.F_SETSIG, KICK_SIGNAL)
        fcntl.fcntl(fd, _F_SETOWN_EX, _OWNER.pack(_TID, self._tid))
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
        self._poll.register(fd, select.POLLIN)
        alone = select.poll()  # with all of them each time, 10,000 took five seconds
        alone.register(fd, select.POLLIN)
        if alone.poll(0):  # what is ready already changes no more
            self.kick()

    def remove(self, fd: int) -> None:
        """Have `fd` signal no more, and put back how it was."""
        if (before := self._before.pop(fd, None)) is None:
            return
        self._poll.unregister(fd)
        flags, signo, owner = before
        if not _is_ours(fd):  # a copy of it may signal for ever, and unblocked that would end the process
            self._stays_blocked = True
            return
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        fcntl.fcntl(fd, fcntl.F_SETSIG, signo)
        fcntl.fcntl(fd, _F_SETOWN_EX, owner)

    def is_pending(self) -> bool:
        """Whether a signal has come that was not taken."""
        return KICK_SIGNAL in signal.sigpending()

    def look(self) -> set[int]:
        """Take the signal, and return all that is ready."""
        signal.sigtimedwait({KICK_SIGNAL}, 0)
        ready = set()
        for fd, events in self._poll.poll(0):
            if events & select.POLLNVAL:
                self.remove(fd)
            else:
                ready.add(fd)
        return ready

    def rearm(self, fds: set[int]) -> None:
        """Signal at once if anything is ready: the next change may never come."""
        if self._poll.poll(0):
            self.kick()

    def wait(self) -> None:
        """Sleep until a signal comes."""
        signal.sigwaitinfo({KICK_SIGNAL})

    def kick(self) -> None:
        """Send what a file would send."""
        tgkill(self._pid, self._tid, KICK_SIGNAL)

    def close(self) -> None:
        """Put every file back as it was, and the signal mask, if none is lost."""
        for fd in list(self._before):
            self.remove(fd)
        signal.sigtimedwait({KICK_SIGNAL}, 0)
        if not self._stays_blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})


def _is_ours(fd: int) -> bool:
    """Whether this still is the file that was added: it may be closed, or another by now."""
    return is_open(fd) and fcntl.fcntl(fd, fcntl.F_GETSIG) == KICK_SIGNAL


def _why_silent(fd: int) -> str | None:
    """Return what kind of file this is, when it is none of those that send SIGIO."""
    mode = os.fstat(fd).st_mode
    name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - see shared/child.py
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd) or name == "/dev/net/tun":
        return None
    return "a regular file" if stat.S_ISREG(mode) else name
