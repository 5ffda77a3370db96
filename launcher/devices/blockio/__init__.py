"""What moves a disk's bytes while the Guest goes on: a thread, or io_uring. One file each, one seam.

The device hands over jobs, a batch at a time, and is woken through an fd, which the Waker watches like any other. Only
plain values cross: the views are Guest memory, but no back-end ever sees a ring. So a back-end that waits for a slow
disk holds nobody up, and the Virtqueue stays the vCPU's thread's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from launcher.devices.disk import Disk
from shared.chain import Chain
from shared.errors import UsageError

NAMES = ("thread", "uring")
"""What `--block-io` takes, the default first."""

PATIENCE_S = 5.0
"""How long a close waits for a transfer that does not end: a disk that hangs must not keep the Launcher."""

IOV_MAX = 1024
"""How many buffers the kernel takes at a time (UIO_MAXIOV)."""


class Kind(Enum):
    """What a job does."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"


class Job:
    """One transfer between `buffers` and the file at byte `offset`, or a flush. Nobody changes it."""

    __slots__ = ("buffers", "chain", "kind", "length", "offset")

    def __init__(self, kind: Kind, offset: int, buffers: list[memoryview], length: int, chain: Chain) -> None:
        self.kind, self.offset, self.buffers, self.length, self.chain = kind, offset, buffers, length, chain


Outcome = tuple[Job, bool]
"""A job, and whether all of it was done."""


class BlockIO(Protocol):
    """A back-end. The vCPU's thread calls it."""

    fd: int
    """Readable when there are outcomes to take."""

    def submit(self, jobs: list[Job], *, is_durable: bool = False) -> None:
        """Begin these; with `is_durable`, a write is done only when it is on the disk. It does not wait for any."""

    def take(self) -> Sequence[Outcome]:
        """Take what was done since this was last called."""

    def cancel(self) -> None:
        """Forget what has not begun, wait for what has, and drop the outcomes: then nobody touches a buffer.

        It waits for as long as that takes.
        """

    def close(self) -> bool:
        """Cancel, and give back all but the disk, which may then be closed; or say False.

        A transfer that still hangs after `PATIENCE_S` is left alone until the process ends: its buffers stay mapped.
        """


def open_io(name: str, disk: Disk) -> BlockIO:
    """Open the back-end `name` for this disk; raise `UsageError` for one that does not exist or cannot run here."""
    if name == "thread":
        from launcher.devices.blockio.thread import ThreadIO

        return ThreadIO(disk)
    if name == "uring":
        from launcher.devices.blockio.uring import UringIO

        return UringIO(disk)
    raise UsageError(f"block I/O '{name}' does not exist; give --block-io {' or '.join(NAMES)}")


def beyond(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return what is left of these after their first `count` bytes."""
    left = []
    for view in buffers:
        if count < len(view):
            left.append(view[count:])
        count = max(0, count - len(view))
    return left
