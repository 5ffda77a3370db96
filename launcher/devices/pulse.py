"""The pulse: files that a stimulus rings, and nothing behind them. What checks and benchmarks wake.

Serving one means taking what was rung, so that it is quiet again; the Guest gets an interrupt for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from shared.errors import UsageError
from shared.virtio import PULSE
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

KINDS = ("eventfd", "pipe")


class Pulse:
    """`count` sources of one kind. `ring` may be called by any thread; the rest by the vCPU's."""

    name = "pulse"
    type_id = PULSE
    queue_sizes: tuple[int, ...] = ()
    features = 0
    config = b""

    def __init__(self, count: int = 1, kind: str = "eventfd") -> None:
        """Open `count` eventfds or pipes; raise `UsageError` for another kind."""
        if kind not in KINDS:
            raise UsageError(f"pulse: kind '{kind}' is not known; there are {', '.join(KINDS)}")
        self._kind = kind
        self.ring_size = 8 if kind == "eventfd" else 1
        """How many bytes, the number 1 little-endian, make one ring."""
        self._writers: dict[Source, int] = {}
        self.sources: list[Source] = []
        self.is_serving = True
        """Set to False to leave what was rung unread: a source that stays ready."""
        self.rung = 0
        """How many rings were taken."""
        self._wants_interrupt = False
        for _ in range(count):
            self.open()

    def open(self) -> Source:
        """Open one more; it is not watched until somebody says so."""
        return self._add(*self._open_file())

    def replace(self, source: Source) -> Source:
        """Close this one and open another under its number, which so comes back whatever other numbers are free."""
        reader, writer = self._open_file()
        old_writer = self._forget(source)
        os.dup2(reader, source.fd, inheritable=False)  # closes what was there
        os.close(reader)
        if old_writer != source.fd:
            os.close(old_writer)
        return self._add(source.fd, source.fd if writer == reader else writer)

    def ring(self, at: int = 0) -> None:
        """Make source `at` ready."""
        self.ring_source(self.sources[at])

    def ring_source(self, source: Source) -> None:
        """Make this source ready."""
        os.write(self._writers[source], (1).to_bytes(8, "little") if self._kind == "eventfd" else b"!")

    def writer(self, at: int = 0) -> int:
        """Return the fd that makes source `at` ready when written: 8 bytes little-endian 1, or any byte for a pipe."""
        return self._writers[self.sources[at]]

    def close_source(self, source: Source) -> None:
        """Close one of them."""
        writer = self._forget(source)
        os.close(source.fd)
        if writer != source.fd:
            os.close(writer)

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Have all sources watched."""
        return self.sources

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Do nothing: there are no queues."""
        return ()

    def on_ready(self, source: Source) -> bool:
        """Take what was rung."""
        if self.is_serving:
            data = os.read(source.fd, 4096)
            self.rung += int.from_bytes(data, "little") if self._kind == "eventfd" else len(data)
            self._wants_interrupt = True
        return True

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Do nothing: there are no queues."""
        return ()

    def lines(self) -> Sequence[int]:
        """Ask for an interrupt when something was rung."""
        wants, self._wants_interrupt = self._wants_interrupt, False
        return (0,) if wants else ()

    def reset(self) -> None:
        """Do nothing: a Guest cannot change a pulse."""

    def close(self) -> None:
        """Close every file."""
        for source in list(self.sources):
            self.close_source(source)

    def _open_file(self) -> tuple[int, int]:
        """Open a file of this kind; return the fd that is read, and the one that is written, which may be the same."""
        if self._kind == "eventfd":
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return fd, fd
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def _add(self, reader: int, writer: int) -> Source:
        source = Source(reader, f"pulse {len(self._writers)}")
        self.sources.append(source)
        self._writers[source] = writer
        return source

    def _forget(self, source: Source) -> int:
        self.sources.remove(source)
        return self._writers.pop(source)
