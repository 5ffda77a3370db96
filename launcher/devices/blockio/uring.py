"""Block I/O by io_uring: one system call begins a batch, and no thread of ours waits for it.

What lies in the page cache is copied within that call; for the rest the kernel works on. An eventfd that is registered
with the ring is readable when something is done. (So `inline/sigio`, which cannot watch eventfds, refuses it.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from time import monotonic

from launcher.devices.blockio import IOV_MAX, PATIENCE_S, Job, Kind, Outcome, beyond
from launcher.devices.disk import Disk
from shared import uring
from shared.errors import UsageError


class _Iovec(ctypes.Structure):
    """One buffer (struct iovec): host address, length."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Running:
    """A job in the ring, as far as it has come. The views in it keep Guest memory mapped."""

    __slots__ = ("buffers", "is_durable", "job", "left", "offset", "vector")

    vector: ctypes.Array[_Iovec]

    def __init__(self, job: Job, *, is_durable: bool) -> None:
        self.job, self.is_durable = job, is_durable
        self.offset, self.left, self.buffers = job.offset, job.length, job.buffers


class UringIO:
    """A ring of the vCPU's thread's own."""

    def __init__(self, disk: Disk) -> None:
        """Set the ring up; raise `UsageError` where none can be had."""
        if reason := uring.missing():
            raise UsageError(f"block I/O 'uring' cannot run here: {reason}; give --block-io thread")
        self._disk = disk
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self.fd)
            self._ring = uring.Ring()
            undo.callback(self._ring.close)
            self._ring.register_eventfd(self.fd)
            undo.pop_all()
        self._running: dict[int, _Running] = {}
        self._serial = 0
        self._failed: list[Outcome] = []

    def submit(self, jobs: list[Job], *, is_durable: bool = False) -> None:
        """Give these to the kernel in one system call."""
        for job in jobs:
            self._begin(_Running(job, is_durable=is_durable))
        self._ring.submit()
        if self._failed:
            os.eventfd_write(self.fd, 1)

    def take(self) -> list[Outcome]:
        """Take what is done; what the kernel did in part goes on. The eventfd first: what comes later, counts anew."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        done, self._failed = self._failed, []
        has_more = False
        for serial, result in self._ring.take():
            running = self._running.pop(serial)
            if result == running.left:
                done.append((running.job, True))
            elif result <= 0:  # an error, or the end of a file that somebody cut
                done.append((running.job, False))
            else:
                running.offset += result
                running.left -= result
                running.buffers = beyond(running.buffers, result)
                self._begin(running)
                has_more = True
        if has_more:
            self._ring.submit()
            done += self._failed
            self._failed = []
        return done

    def cancel(self) -> None:
        """Wait until nothing is in the ring."""
        self._become_idle(None)

    def close(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait, then close ring and eventfd; False when something hangs in the ring."""
        if not self._become_idle(patience_s):
            return False
        self._ring.close()
        os.close(self.fd)
        return True

    def _begin(self, running: _Running) -> None:
        """Queue a job, or the rest of one."""
        job, fd, serial = running.job, self._disk.fd, self._serial
        if job.kind is Kind.WRITE and self._disk.is_cut(running.offset + running.left):
            self._failed.append((job, False))
            return
        self._serial += 1
        self._running[serial] = running
        if job.kind is Kind.FLUSH:
            self._ring.fdatasync(fd, serial)
            return
        some = running.buffers[:IOV_MAX]
        running.vector = (_Iovec * len(some))(*(_Iovec(_address_of(view), len(view)) for view in some))
        at, count = ctypes.addressof(running.vector), len(some)
        if job.kind is Kind.READ:
            self._ring.readv(fd, at, count, running.offset, serial)
        else:
            self._ring.writev(fd, at, count, running.offset, serial, os.RWF_DSYNC if running.is_durable else 0)

    def _become_idle(self, timeout_s: float | None) -> bool:
        end = None if timeout_s is None else monotonic() + timeout_s
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while self._running:
            left_ms = None if end is None else (end - monotonic()) * 1000
            if left_ms is not None and left_ms < 0:
                return False
            poll.poll(left_ms)
            self.take()
        self.take()  # what failed before it began: nobody is to hear of it any more
        return True


def _address_of(view: memoryview) -> int:
    """Return where a view of Guest memory lies in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
