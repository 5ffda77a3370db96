"""poll(2): like select, but any fd will do; still O(n) at every wait."""

from __future__ import annotations

import contextlib
import select

_GONE = select.POLLNVAL


def missing() -> str | None:
    """Return None: every Linux has it."""
    return None


class Strategy:
    """One poll object; the kernel is handed the whole list at each wait."""

    TIMEOUT_MS: int | None = None

    def __init__(self) -> None:
        self._poll = select.poll()

    def add(self, fd: int) -> None:
        """Look at `fd`."""
        self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        """Look at `fd` no longer."""
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)

    def wait(self) -> set[int]:
        """Sleep until one is readable, at its end of file, or in error."""
        ready = set()
        for fd, events in self._poll.poll(self.TIMEOUT_MS):
            if events & _GONE:
                self._poll.unregister(fd)  # closed: poll would report nothing else from now on
            else:
                ready.add(fd)
        return ready

    def close(self) -> None:
        """There is nothing in the kernel to free."""
