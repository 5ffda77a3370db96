"""select(2), as in 2007: the whole set at every wait, and no fd above 1023."""

from __future__ import annotations

import errno
import select

from shared.errors import SourceRefused
from shared.linux import is_open

FD_SETSIZE = 1024  # <sys/select.h>; the kernel has no such limit, the bit set has


def missing() -> str | None:
    """Return None: every Linux has it."""
    return None


class Strategy:
    """The set of fds, handed over anew at each wait: O(n), but nothing to keep in step with the kernel."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def add(self, fd: int) -> None:
        """Look at `fd`; raise `SourceRefused` where its bit would lie outside an fd_set."""
        if fd >= FD_SETSIZE:
            raise SourceRefused(
                f"select cannot watch fd {fd}, its sets end at FD_SETSIZE ({FD_SETSIZE}); use another strategy"
            )
        self._fds.add(fd)

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer."""
        self._fds.discard(fd)

    def wait(self) -> set[int]:
        """Sleep until one is readable, at its end of file, or in error."""
        try:
            return set(select.select(self._fds, (), ())[0])
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # One closed fd fails the whole call. Its neighbours must not suffer for it.
            self._fds = {fd for fd in self._fds if is_open(fd)}
            return set()

    def close(self) -> None:
        """Forget the set; there is nothing in the kernel to free."""
        self._fds.clear()
