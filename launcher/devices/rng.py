"""Entropy: a virtio-rng (VirtIO 1.3, 5.4) that fills what the Guest gives it with random bytes.

They come from getrandom(2), which never waits once the machine has started, or from a file. A file may have to be
waited for (a FIFO, a hardware generator): then it is watched like any input, and the Guest goes on meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from shared.errors import LabError, RingError, UsageError
from shared.virtio import RING_FEATURES, RNG
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

# A request may be answered with less than it has room for (5.4.6.1), and none is to hold the Guest up for long.
_AT_MOST = 65536
_QUEUE_SIZE = 64


class Rng:
    """The entropy device. The vCPU's thread calls it."""

    name = "rng"
    type_id = RNG
    queue_sizes: tuple[int, ...] = (_QUEUE_SIZE,)
    features = RING_FEATURES
    config = b""

    def __init__(self, path: str | None = None) -> None:
        """Take entropy from the file `path`, or from the kernel; raise `UsageError` when it cannot be opened."""
        self._path = path
        self._source: Source | None = None
        if path is not None:
            try:
                mode = os.stat(path).st_mode  # noqa: PTH116 - '' is no path
                if stat.S_ISDIR(mode):
                    raise UsageError(f"rng: '{path}' is a directory; give a file with random bytes")
                # A FIFO that nobody writes to yet would look as if it had ended.
                access = os.O_RDWR if stat.S_ISFIFO(mode) else os.O_RDONLY
                fd = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise UsageError(
                    f"rng: cannot read '{path}': {error.strerror}; give a file that you may read, or --rng"
                ) from error
            self._source = Source(fd, self.name)
        self._queue: Virtqueue | None = None
        self._waiting: Chain | None = None
        self._given = 0

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Have nothing watched: a file is waited for when the Guest wants something of it."""
        return ()

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Take the queue; what the Guest asked for by now is answered at once."""
        (self._queue,) = queues
        return self._answer()

    def on_ready(self, source: Source) -> bool:
        """Go on with a request for which the file had nothing; False when it was the last."""
        return bool(self._answer())

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Answer what the Guest asks for; return the file when it has to be waited for."""
        return () if self._waiting is not None else self._answer()

    def lines(self) -> Sequence[int]:
        """Ask for the interrupt that the Guest wants to have."""
        return (0,) if self._queue is not None and self._queue.needs_interrupt() else ()

    def reset(self) -> None:
        """Forget the queue."""
        self._queue = self._waiting = None

    def close(self) -> None:
        """Close the file."""
        if self._source is not None:
            os.close(self._source.fd)
            self._source = None

    def _answer(self) -> Sequence[Source]:
        """Answer all requests that there are; return the file when one has to wait for it."""
        queue = self._queue
        if queue is None:
            return ()
        queue.disable_notify()
        while True:
            while (chain := self._next(queue)) is not None:
                data = self._entropy(min(chain.writable_bytes, _AT_MOST))
                if data is None:
                    assert self._source is not None
                    self._waiting = chain
                    return (self._source,)
                queue.push(chain, chain.write(data))
            if not queue.enable_notify():
                return ()
            queue.disable_notify()

    def _next(self, queue: Virtqueue) -> Chain | None:
        chain, self._waiting = self._waiting, None
        if chain is None:
            chain = queue.pop()
        if chain is not None and (chain.readable or not chain.writable):
            # 5.4.6.1: the driver places no driver-readable buffers.
            raise RingError(queue.name, chain.head, "is a request for entropy that the device cannot write")
        return chain

    def _entropy(self, count: int) -> bytes | None:
        """Return up to `count` random bytes, at least one; None when the file has none now."""
        if self._source is None:
            return os.getrandom(count)
        try:
            data = os.read(self._source.fd, count)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LabError(f"rng: cannot read '{self._path}': {error.strerror}") from error
        if not data:
            raise LabError(f"rng: '{self._path}' ended after {self._given} bytes; give one that does not end")
        self._given += len(data)
        return data
