"""io_uring by raw system calls: set up a ring, submit requests, take completions. Nothing else is needed here.

A ring is two queues in memory that is shared with the kernel. We write requests (SQEs) and advance the submission
tail; the kernel advances the completion tail; both are free-running 32-bit indices. One system call submits what is
queued, and waits if asked to. A ring belongs to one thread: a poll that fires is completed by *task work*, which the
kernel runs in that thread, on its way back from wherever it is. That is why a ring can be a Waker: the thread may be
inside KVM_RUN, and the kernel takes it out to do the work.

Layouts: `linux/io_uring.h`; meaning: io_uring_setup(2), io_uring_enter(2). PyPI's bindings are not used: the wheel
was built for newer processors than many a machine has.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from struct import Struct

from shared.linux import syscall

_SYS_SETUP = 425  # the same number on every architecture, as all since 424
_SYS_ENTER = 426
_SYS_REGISTER = 427

_OFF_RINGS = 0
_OFF_SQES = 0x10000000
_FEAT_SINGLE_MMAP = 1 << 0
_SETUP_CQSIZE = 1 << 3
_SETUP_CLAMP = 1 << 4
_ENTER_GETEVENTS = 1 << 0
_SQ_CQ_OVERFLOW = 1 << 1

_REGISTER_EVENTFD = 4
_FSYNC_DATASYNC = 1 << 0

_OP_READV = 1
_OP_WRITEV = 2
_OP_FSYNC = 3
_OP_POLL_ADD = 6
_OP_POLL_REMOVE = 7
_OP_RECV = 27

LINK = 1 << 2  # IOSQE_IO_LINK: the next request starts when this one has succeeded
SKIP_SUCCESS = 1 << 6  # IOSQE_CQE_SKIP_SUCCESS: say something only when it fails


def _words(names: str) -> list[tuple[str, type[c_uint32]]]:
    return [(name, c_uint32) for name in names.split()]


class SqOffsets(ctypes.Structure):
    """Where the parts of the submission queue lie (struct io_sqring_offsets). The kernel advances `head`, we `tail`."""

    _fields_ = (
        *_words("head tail ring_mask ring_entries flags dropped array resv"),
        ("user_addr", c_uint64),
    )


class CqOffsets(ctypes.Structure):
    """Where the parts of the completion queue lie (struct io_cqring_offsets). We advance `head`, the kernel `tail`."""

    _fields_ = (
        *_words("head tail ring_mask ring_entries overflow cqes flags resv"),
        ("user_addr", c_uint64),
    )


class Params(ctypes.Structure):
    """What is asked for, and what was made (struct io_uring_params)."""

    _fields_ = (
        *_words("sq_entries cq_entries flags sq_thread_cpu sq_thread_idle features wq_fd"),
        ("resv", c_uint32 * 3),
        ("sq_off", SqOffsets),
        ("cq_off", CqOffsets),
    )


class Sqe(ctypes.Structure):
    """One request (struct io_uring_sqe), as far as polls and reads use it."""

    _fields_ = (
        ("opcode", c_uint8),
        ("flags", c_uint8),
        ("ioprio", c_uint16),
        ("fd", c_int32),
        ("off", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("op_flags", c_uint32),
        ("user_data", c_uint64),
        ("_unused", c_uint16 * 4),
        ("_addr3", c_uint64 * 2),
    )


class Cqe(ctypes.Structure):
    """One completion (struct io_uring_cqe): `res` is the result, or minus the errno."""

    _fields_ = (("user_data", c_uint64), ("res", c_int32), ("flags", c_uint32))


# structs.Sqe and Cqe as numbers: several times as fast here as ctypes structures.
_SQE = Struct("<BBHiQQIIQQQQ")
_CQE = Struct("<Qi4x")


def missing() -> str | None:
    """Return why no ring can be made here (io_uring_disabled, seccomp, RLIMIT_MEMLOCK), or None."""
    try:
        Ring(1, 2).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            return "io_uring is disabled for this process (sysctl kernel.io_uring_disabled, or a seccomp filter)"
        if error.errno == errno.ENOSYS:
            return "this kernel has no io_uring"
        return f"no io_uring can be set up: {error.strerror}"
    return None


class Ring:
    """One ring, used by the thread that made it; `close()` it."""

    def __init__(self, entries: int = 256, completions: int = 1024) -> None:
        """Make a ring that queues `entries` requests; raise `OSError` when the kernel refuses."""
        params = Params(cq_entries=completions, flags=_SETUP_CQSIZE | _SETUP_CLAMP)
        self._fd: int = syscall(_SYS_SETUP, entries, ctypes.addressof(params), name="io_uring_setup")
        os.set_inheritable(self._fd, False)
        sq, cq = params.sq_off, params.cq_off
        size = max(sq.array + 4 * params.sq_entries, cq.cqes + ctypes.sizeof(Cqe) * params.cq_entries)
        try:
            if not params.features & _FEAT_SINGLE_MMAP:
                raise OSError(errno.ENOSYS, "io_uring of this kernel (before 5.4) has no single mapping")
            self._rings = mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_RINGS)
            self._sqes = mmap.mmap(
                self._fd, ctypes.sizeof(Sqe) * params.sq_entries, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQES
            )
        except BaseException:
            os.close(self._fd)
            raise
        self._words = memoryview(self._rings)[: size & ~3].cast("I")
        self._entries = params.sq_entries
        self._sq_tail_at, self._sq_flags_at = sq.tail // 4, sq.flags // 4
        self._cq_head_at, self._cq_tail_at, self._cqes = cq.head // 4, cq.tail // 4, cq.cqes
        self._cq_mask = params.cq_entries - 1
        self._sq_tail = 0
        self._queued = 0
        # The array of indices is an indirection that nobody needs: entry n is request n.
        for n in range(params.sq_entries):
            self._words[sq.array // 4 + n] = n

    def poll_add(self, fd: int, events: int, user_data: int, flags: int = 0) -> None:
        """Queue one poll of `fd`: it completes once, at once if `events` are there already (so: level-triggered)."""
        self._queue(_OP_POLL_ADD, flags, fd, 0, 0, 0, events, user_data)

    def peek(self, sock: int, addr: int, length: int, user_data: int, flags: int = 0) -> None:
        """Queue a copy of the first `length` bytes waiting in a socket to the host address `addr`; they stay there.

        A socket answers at once, in the thread that asks. A read of a file that cannot be asked not to wait (a memfd)
        is given to a worker thread of the kernel, and is done some time later.
        """
        self._queue(_OP_RECV, flags, sock, 0, addr, length, socket.MSG_PEEK, user_data)

    def poll_remove(self, target: int, user_data: int) -> None:
        """Queue the end of the poll whose user data is `target`."""
        self._queue(_OP_POLL_REMOVE, 0, -1, 0, target, 0, 0, user_data)

    def readv(self, fd: int, iovecs: int, count: int, offset: int, user_data: int) -> None:
        """Queue preadv(2): `iovecs` is the host address of `count` of them, which stay until it is done."""
        self._queue(_OP_READV, 0, fd, offset, iovecs, count, 0, user_data)

    def writev(self, fd: int, iovecs: int, count: int, offset: int, user_data: int, rwf_flags: int = 0) -> None:
        """Queue pwritev2(2), as `readv`."""
        self._queue(_OP_WRITEV, 0, fd, offset, iovecs, count, rwf_flags, user_data)

    def fdatasync(self, fd: int, user_data: int) -> None:
        """Queue fdatasync(2): it covers the writes that are done by now."""
        self._queue(_OP_FSYNC, 0, fd, 0, 0, 0, _FSYNC_DATASYNC, user_data)

    def register_eventfd(self, fd: int) -> None:
        """Have every completion count up this eventfd."""
        number = ctypes.c_int32(fd)
        syscall(_SYS_REGISTER, self._fd, _REGISTER_EVENTFD, ctypes.addressof(number), 1, name="io_uring_register")

    def room(self) -> int:
        """How many requests can be queued before the next `submit`."""
        room: int = self._entries - self._queued
        return room

    def submit(self, wait_for: int = 0) -> None:
        """Give the kernel all that is queued, and sleep until `wait_for` completions are there; may return early."""
        words = self._words
        words[self._sq_tail_at] = self._sq_tail & 0xFFFFFFFF
        while True:
            flags = _ENTER_GETEVENTS if wait_for or words[self._sq_flags_at] & _SQ_CQ_OVERFLOW else 0
            try:
                taken = syscall(_SYS_ENTER, self._fd, self._queued, wait_for, flags, 0, 0, name="io_uring_enter")
            except InterruptedError:
                # A signal ended the wait, which begins when all is submitted; its Python handler runs now.
                return
            self._queued -= taken
            # One that the kernel refuses to begin ends the call: those behind it would stay behind for ever.
            if not self._queued or not taken:
                return

    def has_completions(self) -> bool:
        """Whether a completion waits to be taken."""
        words = self._words
        return words[self._cq_head_at] != words[self._cq_tail_at] or bool(words[self._sq_flags_at] & _SQ_CQ_OVERFLOW)

    def take(self) -> list[tuple[int, int]]:
        """Take all completions that are there: of each, its user data, and its result or minus the errno."""
        taken: list[tuple[int, int]] = []
        words = self._words
        while True:
            head, tail = words[self._cq_head_at], words[self._cq_tail_at]
            while head != tail:
                taken.append(_CQE.unpack_from(self._rings, self._cqes + (head & self._cq_mask) * 16))
                head = (head + 1) & 0xFFFFFFFF
            words[self._cq_head_at] = head
            if not words[self._sq_flags_at] & _SQ_CQ_OVERFLOW:
                return taken
            self.submit()  # more had completed than the queue holds: fetch the rest

    def close(self) -> None:
        """End every request, and close the ring; once closed, closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._words.release()
            self._rings.close()
            self._sqes.close()
            os.close(fd)

    def _queue(
        self, opcode: int, flags: int, fd: int, off: int, addr: int, length: int, op_flags: int, user_data: int
    ) -> None:
        if self._queued == self._entries:
            self.submit()
        at = (self._sq_tail & self._entries - 1) * 64
        _SQE.pack_into(self._sqes, at, opcode, flags, 0, fd, off, addr, length, op_flags, user_data, 0, 0, 0)
        self._sq_tail += 1
        self._queued += 1
