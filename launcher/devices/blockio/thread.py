"""Block I/O in a thread of its own, as lguest had it: it waits for the disk, and the Guest goes on.

One thread a disk does one transfer after the other. What it has done it hands over with one ring of a bell (a pipe,
because every strategy can wait for one): at the end of a batch, and meanwhile, so that the first of many slow
transfers does not wait for the last.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from queue import SimpleQueue
from time import monotonic

from launcher.devices.blockio import IOV_MAX, PATIENCE_S, Job, Kind, Outcome, beyond
from launcher.devices.disk import Disk
from shared.vring import PIPE_SIZE, open_doorbell, ring_doorbell

_HAND_OVER_S = 0.001

_Order = tuple[list[Job], bool] | threading.Event
"""Jobs, and whether their writes are to be durable; or: say that you are idle."""


class ThreadIO:
    """The thread and the queue to it. It is started by the first job: a forked Waker is to be there by then."""

    def __init__(self, disk: Disk) -> None:
        """Open the bell."""
        self._disk = disk
        self.fd = open_doorbell()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._done: deque[Outcome] = deque()
        self._thread: threading.Thread | None = None
        self._is_cancelling = False

    def submit(self, jobs: list[Job], *, is_durable: bool = False) -> None:
        """Give these to the thread."""
        if self._thread is None:
            # A daemon: one that hangs in a read must not keep the process from leaving.
            self._thread = threading.Thread(target=self._work, name=f"block {self._disk.path}", daemon=True)
            self._thread.start()
        self._orders.put((jobs, is_durable))

    def take(self) -> list[Outcome]:
        """Take what the thread has done; the bell first, so that what comes later rings again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, PIPE_SIZE)
        done, taken = self._done, []
        while done:
            taken.append(done.popleft())
        return taken

    def cancel(self) -> None:
        """Wait until the thread is idle."""
        self._become_idle(None)

    def close(self, patience_s: float = PATIENCE_S) -> bool:
        """End the thread, and close the bell; False when the thread hangs, and may ring it yet."""
        if not self._become_idle(patience_s):
            return False
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None
        os.close(self.fd)
        return True

    def _become_idle(self, timeout_s: float | None) -> bool:
        if self._thread is None:
            return True
        idle = threading.Event()
        self._is_cancelling = True
        self._orders.put(idle)
        if not idle.wait(timeout_s):
            return False
        self._is_cancelling = False
        self.take()
        return True

    def _work(self) -> None:
        """Do what is ordered until told to end: the thread's life."""
        while (order := self._orders.get()) is not None:
            if isinstance(order, threading.Event):
                order.set()
                continue
            jobs, is_durable = order
            due = monotonic() + _HAND_OVER_S
            done: list[Outcome] = []
            for job in jobs:
                if self._is_cancelling:
                    break
                done.append((job, self._do(job, os.RWF_DSYNC if is_durable else 0)))
                if monotonic() > due:
                    self._hand_over(done)
                    done, due = [], monotonic() + _HAND_OVER_S
            self._hand_over(done)

    def _hand_over(self, done: list[Outcome]) -> None:
        if done:
            self._done.extend(done)
            ring_doorbell(self.fd)

    def _do(self, job: Job, write_flags: int) -> bool:
        """Do one job; False when the disk failed, or was cut short, before all was done."""
        fd, offset, buffers, left = self._disk.fd, job.offset, job.buffers, job.length
        try:
            if job.kind is Kind.FLUSH:
                os.fdatasync(fd)
                return True
            while True:
                # One call mostly: the kernel stops short of 2 GiB, at a full disk, and at the end of the file.
                some = buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX]
                if job.kind is Kind.READ:
                    count = os.preadv(fd, some, offset)
                elif self._disk.is_cut(offset + left):
                    return False
                else:
                    count = os.pwritev(fd, some, offset, write_flags)
                left -= count
                if not left or not count:
                    return not left
                offset += count
                buffers = beyond(buffers, count)
        except OSError:
            return False
