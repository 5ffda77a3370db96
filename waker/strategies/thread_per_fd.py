"""A thread sleeps on each fd: what lguest's Launcher came to in the end."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from queue import Empty, SimpleQueue

from shared.errors import SourceRefused

_STACK_SIZE = 64 * 1024
_MAX_THREADS = 1024  # a choice: ten thousand threads start, but take seconds to do so, and to end


def missing() -> str | None:
    """Return None: threads are everywhere."""
    return None


class _Watcher:
    """One thread and its fd. It tells what it saw once, and then waits to be armed again."""

    def __init__(self, fd: int, seen: SimpleQueue[_Watcher]) -> None:
        self.fd = fd
        self.is_wanted = True
        self._seen = seen
        self._own = os.dup(fd)  # the number may be closed and come back while the thread sleeps on it
        try:
            self._end = os.eventfd(0, os.EFD_CLOEXEC)
        except BaseException:
            os.close(self._own)
            raise
        self._poll = select.poll()
        self._poll.register(self._own, select.POLLIN)
        self._armed = threading.Semaphore(1)
        self._thread = threading.Thread(target=self._look, name=f"fd {fd}", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        poll = select.poll()
        poll.register(self._own, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while True:
            self._armed.acquire()
            poll.poll()
            if not self.is_wanted:
                return
            self._seen.put(self)

    def arm(self) -> None:
        """Look again, and say so again if there still is something."""
        self._armed.release()

    def is_ready(self) -> bool:
        """Whether there is something now, on an fd that is still to be looked at."""
        return self.is_wanted and bool(self._poll.poll(0))

    def end(self) -> None:
        """End the thread, and wait for it."""
        self.is_wanted = False
        os.eventfd_write(self._end, 1)
        self._armed.release()
        self._thread.join()
        os.close(self._end)
        os.close(self._own)


class Strategy:
    """As many threads as fds; the one that calls `wait` sleeps in a queue that they fill."""

    def __init__(self) -> None:
        self._seen: SimpleQueue[_Watcher] = SimpleQueue()
        self._watchers: dict[int, _Watcher] = {}
        self._fired: list[_Watcher] = []

    def add(self, fd: int) -> None:
        """Start a thread that looks at `fd`; raise `OSError` when no more can be started."""
        self.remove(fd)
        if len(self._watchers) == _MAX_THREADS:
            raise SourceRefused(
                f"thread_per_fd cannot watch fd {fd}, it has {_MAX_THREADS} threads already; use another strategy"
            )
        before = threading.stack_size(_STACK_SIZE)
        try:
            self._watchers[fd] = _Watcher(fd, self._seen)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            reason = "it needs two more and RLIMIT_NOFILE is reached"
            raise SourceRefused(f"thread_per_fd cannot watch fd {fd}, {reason}; use another strategy") from error
        except RuntimeError as error:  # "can't start new thread"
            raise SourceRefused(f"thread_per_fd cannot watch fd {fd}: {error}; use another strategy") from error
        finally:
            threading.stack_size(before)

    def remove(self, fd: int) -> None:
        """End the thread that looks at `fd`."""
        watcher = self._watchers.pop(fd, None)
        if watcher is not None:
            watcher.end()

    def wait(self) -> set[int]:
        """Have those that fired look again, and sleep until one of all the threads has seen something."""
        for watcher in self._fired:
            watcher.arm()
        self._fired = [self._seen.get()]
        with contextlib.suppress(Empty):
            while True:
                self._fired.append(self._seen.get_nowait())
        # What a thread saw may be over by now: the Waker was held, and the Launcher has read it.
        return {watcher.fd for watcher in self._fired if watcher.is_ready()}

    def close(self) -> None:
        """End all threads."""
        for fd in list(self._watchers):
            self.remove(fd)
