"""A byte that KVM reads on entry (kvm_run.immediate_exit), and then a signal for a run that has begun.

This is the other form of the signal: what QEMU and its kin do. The signal is *not* blocked. It ends KVM_RUN, or a
sleep, and its handler does nothing, so one that comes anywhere else leaves no trace: the byte is the kick that stays.
KVM reads it once, on entry, hence the order: flag, byte, signal. And it is cleared after KVM_RUN has returned, never
before it is entered.

What it saves is the change of masks at each entry. What it costs is privilege: the Waker is passed the vCPU's fd. KVM
refuses it every ioctl (EIO: another process), but lets it map kvm_run, and scribble there. `signal` needs two numbers.

A halted vCPU sleeps in a futex on the flag: a break that came before the sleep is seen by the kernel's own look at
the flag, and one that comes later sends a signal, after which the kernel starts the wait anew, with another look.

Taking the kick is Dekker's pattern: the byte is cleared, *then* the flag is read, while the other side sets the flag
and then the byte. Without a fence in between, an x86 may read the flag before its 0 reaches memory, where it wipes
out the 1 of a break that it has not seen. (Of the other side x86 keeps the order: it is two stores.)
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from shared.breaker import KICK_SIGNAL, BreakHandle, ExitFlag, FlagFirst, kick_thread
from shared.errors import UsageError
from shared.linux import fence, futex_wait, handle_by_doing_nothing
from shared.page import Page


class ImmediateBreaker(FlagFirst):
    """The byte stays until it is taken; the signal only interrupts."""

    kind: ClassVar[str] = "immediate"
    shape: ClassVar[tuple[int, int]] = (4, 1)

    def __init__(self, page: Page, pid: int, tid: int, flag: ExitFlag, undo: Callable[[], None]) -> None:
        """Take over `flag.byte`; `undo` is what gives the rest back."""
        super().__init__(page)
        _, self._address = page.break_byte()
        self._pid, self._tid = pid, tid
        self._flag = flag
        self._byte = flag.byte
        self._undo: Callable[[], None] | None = undo

    @classmethod
    def create(cls, page: Page, flag: ExitFlag | None = None) -> ImmediateBreaker:
        """Make the calling thread the vCPU's: the kick is let through, from here to `close`, and handled for good."""
        if flag is None or flag.fd < 0:
            raise UsageError("breaker 'immediate' needs a vCPU with a byte that ends its next run: engine kvm")
        handle_by_doing_nothing(KICK_SIGNAL)
        was_blocked = KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})

        def undo() -> None:
            if was_blocked:
                signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})

        return cls(page, os.getpid(), threading.get_native_id(), flag, undo)

    @classmethod
    def from_handle(cls, page: Page, numbers: Sequence[int], fds: Sequence[int]) -> ImmediateBreaker:
        """Map the byte, and close the fd: the mapping keeps a copy of it."""
        pid, tid, offset, size = numbers
        fd = fds[0]
        try:
            if offset >= size:
                raise UsageError(f"break handle of kind 'immediate': its byte {offset} is outside its {size} bytes")
            mapping = mmap.mmap(fd, size)
        except (OSError, ValueError, OverflowError) as error:
            raise UsageError(f"break handle of kind 'immediate' with {size} bytes cannot be mapped: {error}") from error
        finally:
            os.close(fd)
        with memoryview(mapping) as whole:
            byte = whole[offset : offset + 1]
        return cls(page, pid, tid, ExitFlag(byte, 0), mapping.close)

    def break_out(self) -> None:
        self._set()
        self._byte[0] = 1
        kick_thread(self._pid, self._tid)

    def clear(self) -> None:
        self._byte[0] = 0
        super().clear()

    def wait(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            futex_wait(self._address, 0)

    def take_kick(self) -> None:
        self._byte[0] = 0
        fence()  # before the caller looks at the flag

    def handle(self) -> BreakHandle:
        return BreakHandle(self.kind, (self._pid, self._tid, self._flag.offset, self._flag.size), (self._flag.fd,))

    def close(self) -> None:
        if self._undo is not None:
            self._byte.release()
            self._undo()
            self._undo = None
