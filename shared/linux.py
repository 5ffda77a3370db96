"""System calls that the standard library lacks, and the one memory fence.

Everything goes through one `CDLL`: it lets go of the GIL during a call and returns EINTR instead of retrying
(`fcntl.ioctl` retries from Python 3.14 on, so `KVM_RUN` could never be broken out of).
"""

from __future__ import annotations

import ctypes
import os
import sys
from _thread import allocate_lock
from errno import EAGAIN, EINTR, EOVERFLOW

from shared.errors import CannotRunError

if sys.platform != "linux":
    raise CannotRunError(f"the waker laboratory needs Linux (memfd, eventfd, KVM); this is {sys.platform}")

_libc = ctypes.CDLL(None, use_errno=True)
_ioctl = _libc.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_ioctl.restype = ctypes.c_int
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_set_handler = _libc.signal
_set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
_set_handler.restype = ctypes.c_void_p

_MACHINE = os.uname().machine
_IS_X86 = _MACHINE in ("x86_64", "i686", "i386")
_SYS_TGKILL = ctypes.c_long({"x86_64": 234, "i686": 270, "i386": 270}.get(_MACHINE, 131))
_SYS_FUTEX = {"x86_64": 202, "i686": 240, "i386": 240}.get(_MACHINE, 98)
_SYS_MQ_TIMEDSEND = {"x86_64": 242, "i686": 279, "i386": 279}.get(_MACHINE, 182)
_SYS_MQ_TIMEDRECEIVE = _SYS_MQ_TIMEDSEND + 1
_SYS_MEMBARRIER = ctypes.c_long({"x86_64": 324, "i686": 375, "i386": 375}.get(_MACHINE, 283))
_MEMBARRIER_GLOBAL_EXPEDITED = ctypes.c_long(1 << 1)
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1
_ALL = (1 << 31) - 1


def raise_errno(call: str) -> None:
    """Raise `OSError` for the errno of the last call made here, naming the call."""
    errno = ctypes.get_errno()
    raise OSError(errno, f"{call}: {os.strerror(errno)}")


def ioctl(fd: int, request: int, arg: int = 0, *, name: str = "ioctl") -> int:
    """Do one ioctl and return its result; raise `OSError` naming it. Lets go of the GIL; EINTR is raised too."""
    result: int = _ioctl(fd, request, arg)
    if result < 0:
        raise_errno(name)
    return result


def ioctl_or_errno(fd: int, request: int, arg: int = 0) -> int:
    """Do one ioctl and return its result, or minus the errno: the form for a hot path."""
    result: int = _ioctl(fd, request, arg)
    return result if result >= 0 else -ctypes.get_errno()


def syscall(number: int, *args: int, name: str) -> int:
    """Do one system call with integer arguments and return its result; raise `OSError` naming it."""
    result: int = _syscall(number, *map(ctypes.c_long, args))
    if result < 0:
        raise_errno(name)
    return result


def is_open(fd: int) -> bool:
    """Whether this number is an open file in this process."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def tgkill(pid: int, tid: int, signo: int) -> None:
    """Send a signal to one thread of one process (tgkill(2)); raise `OSError` when it is gone.

    Both numbers must match, so a recycled tid of another process is never hit. From any thread or process.
    """
    if _syscall(_SYS_TGKILL, ctypes.c_long(pid), ctypes.c_long(tid), ctypes.c_long(signo)) < 0:
        raise_errno("tgkill")


def handle_by_doing_nothing(signo: int) -> None:
    """Have a signal end KVM_RUN, and do nothing else, for as long as this process lives.

    A handler in Python is not nothing: the interpreter notes the signal, writes to the fd of `set_wakeup_fd`, and
    runs it in the main thread. So it is abs(3), which any C library has: given the signal's number, it returns it.
    signal(3) sets SA_RESTART: a read goes on as if nothing were, a futex wait looks at its word again (signal(7)).
    It is not undone: another thread's vCPU may count on it, and what was there before ends the process.
    """
    _set_handler(signo, ctypes.cast(_libc.abs, ctypes.c_void_p))


def futex_wait(address: int, value: int) -> None:
    """Sleep until somebody wakes the 32-bit word at `address`, in whatever process: if it is `value` (futex(2)).

    Raises `BlockingIOError` when it is not, `InterruptedError` after a handler without SA_RESTART has run.
    """
    syscall(_SYS_FUTEX, address, _FUTEX_WAIT, value, 0, name="futex")


def futex_wake(address: int) -> None:
    """Wake all who sleep on the word that is mapped at `address`, in whatever process."""
    syscall(_SYS_FUTEX, address, _FUTEX_WAKE, _ALL, name="futex")


def mq_send(fd: int, message: bytes) -> None:
    """Put a message into a queue (mq_send(3)); raise `BlockingIOError` when it is full and the fd does not block."""
    syscall(_SYS_MQ_TIMEDSEND, fd, _address_of(message), len(message), 0, 0, name="mq_send")


def mq_receive(fd: int, size: int) -> bytes:
    """Wait for a message of at most `size` bytes, which is the queue's (mq_receive(3)); raise `InterruptedError`."""
    message = ctypes.create_string_buffer(size)
    length = syscall(_SYS_MQ_TIMEDRECEIVE, fd, ctypes.addressof(message), size, 0, 0, name="mq_receive")
    return message.raw[:length]


class Semaphore:
    """A POSIX semaphore without a name (sem_overview(7)) at `address`, in memory that processes share."""

    def __init__(self, address: int) -> None:
        self._address = ctypes.c_void_p(address)

    def begin(self) -> None:
        """Make it, with a count of 0, before anybody else uses it."""
        if _libc.sem_init(self._address, 1, 0) < 0:
            raise_errno("sem_init")

    def post(self) -> None:
        """Count up, and wake one who waits; a count that cannot go higher stays."""
        if _libc.sem_post(self._address) < 0 and ctypes.get_errno() != EOVERFLOW:
            raise_errno("sem_post")

    def wait(self) -> bool:
        """Sleep until the count is not 0, and count down; False when a signal's handler has run instead."""
        if _libc.sem_wait(self._address) == 0:
            return True
        if ctypes.get_errno() != EINTR:
            raise_errno("sem_wait")
        return False

    def try_wait(self) -> bool:
        """Count down, if the count is not 0."""
        if _libc.sem_trywait(self._address) == 0:
            return True
        if ctypes.get_errno() not in (EAGAIN, EINTR):
            raise_errno("sem_trywait")
        return False


def _address_of(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def _fence_by_locked_instruction() -> None:
    # A fresh lock is always free, so taking it always executes `lock cmpxchg`, which on x86 drains the store
    # buffer like mfence. A lock shared between threads would not do: a failed try may stop at a plain load.
    allocate_lock().acquire(False)


def _fence_by_membarrier() -> None:
    # membarrier(2) is a full barrier for its caller on every architecture; with no process registered for
    # the global kind it interrupts nobody.
    _syscall(_SYS_MEMBARRIER, _MEMBARRIER_GLOBAL_EXPEDITED, ctypes.c_long(0), ctypes.c_long(0))


# fence(): order every earlier store of this thread before every later load of it, as seen by other processes.
#
# "I publish my index, then I read whether the other side wants to be told" is Dekker's pattern: without a full
# fence both sides can read the old value and both go to sleep. Python has no fence, and the interpreter's own
# instructions between two bytecodes are none: on the machine this was written on, 1 to 3 % of 200,000 tries went
# wrong without it and none with it (tests/unit/test_fence.py repeats that). Cost: about 60 ns on x86.
fence = _fence_by_locked_instruction if _IS_X86 else _fence_by_membarrier

# Whether "the entry, then the index" needs a fence too: x86 keeps two stores in order, and two loads; others do not.
IS_WEAKLY_ORDERED = not _IS_X86
