"""Guest memory: a sealed memfd mapped MAP_SHARED, so that another process can see the same rings.

lguest's Waker of 2007 was forked and held a copy-on-write copy of a private mapping: it went on seeing the
rings as they were at the fork. Three kinds live here:

- `GuestMemory.create`  shared: a memfd (or POSIX shared memory), handed to peers by `fileno()` (writable) or
  `readonly_fd()`. The memfd is sealed against resizing before anybody sees it: a peer that could truncate it
  could kill us with SIGBUS.
- `GuestMemory.attach`  the same memory in another process, through its own mapping.
- `GuestMemory.private` what 2007 had. It has no fd and cannot be handed to anybody but a forked child.

Every address that a Guest or a peer names goes through `view` or `at`, which refuse what lies outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from shared.errors import BadAddress, MemoryRefused

Struct = TypeVar("Struct", bound=ctypes.Structure)

PAGE_SIZE = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Canary(NamedTuple):
    """A word that the owner wrote through its mapping and a peer must find through its own."""

    addr: int
    word: int


class GuestMemory:
    """Guest-physical memory, addresses 0 to `size`; open until `close()`, or use it in a `with`.

    Views may be used by any thread; `close` belongs to whoever opened it, after everybody else has stopped.
    """

    def __init__(self, mapping: mmap.mmap, fd: int | None, backing: str, *, is_writable: bool = True) -> None:
        self._mapping = mapping
        self._fd = fd
        self.size = len(mapping)
        self.backing = backing
        self.is_writable = is_writable
        self._bytes = memoryview(mapping)
        # All of memory as aligned 16-bit words: a ring index must be read and published as one (never bytewise,
        # which can show a half-written index).
        self.u16 = self._bytes.cast("H")

    @classmethod
    def create(cls, size: int, backing: str = "memfd") -> GuestMemory:
        """Make `size` bytes of zeroed shared memory; `backing` is `memfd` or `posix_shm`.

        Raises `MemoryRefused` for a size that is not a positive multiple of the page, `OSError` when the kernel
        has none.
        """
        _check_size(size)
        fd = _memfd(size) if backing == "memfd" else _posix_shm(size)
        try:
            return cls(mmap.mmap(fd, size, mmap.MAP_SHARED), fd, backing)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, canary: Canary | None = None, *, is_writable: bool = False) -> GuestMemory:
        """Map memory that another process passed as `fd`, which now belongs to the result.

        Raises `MemoryRefused`, and closes `fd`, when the canary is not seen through this mapping (the owner's
        is private), or when a memfd is not sealed against shrinking; `BadAddress` for a canary outside it.
        """
        mapping: mmap.mmap | None = None
        try:
            is_memfd = _is_memfd(fd)
            if is_memfd and not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise MemoryRefused("guest memory: the memfd is not sealed against shrinking; use GuestMemory.create")
            size = os.fstat(fd).st_size
            _check_size(size)
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
            mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, prot)
            memory = cls(mapping, fd, "memfd" if is_memfd else "posix_shm", is_writable=is_writable)
        except BaseException:
            if mapping is not None:
                mapping.close()
            os.close(fd)
            raise
        try:
            if canary is not None and (seen := memory._word(canary.addr)) != canary.word:
                raise MemoryRefused(
                    f"guest memory: a private mapping (its owner wrote {canary.word:#x} at {canary.addr:#x}, "
                    f"this process reads {seen:#x}); map it MAP_SHARED, or ask for a fork Waker"
                )
        except BaseException:
            memory.close()
            raise
        return memory

    @classmethod
    def private(cls, size: int) -> GuestMemory:
        """Make memory as in 2007: a forked child gets a copy that goes stale. It has no fd to hand over."""
        _check_size(size)
        return cls(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), None, "private")

    @property
    def is_shared(self) -> bool:
        """Whether another process can be given this memory."""
        return self._fd is not None

    def fileno(self) -> int:
        """Return the fd of the memory, which stays ours; raise `MemoryRefused` for private memory."""
        if self._fd is None:
            raise MemoryRefused("guest memory: a private mapping has no fd to hand over; use GuestMemory.create")
        return self._fd

    def readonly_fd(self) -> int:
        """Open a new fd through which the memory can be read but not written; the caller closes it."""
        return os.open(f"/proc/self/fd/{self.fileno()}", os.O_RDONLY | os.O_CLOEXEC)

    def view(self, addr: int, length: int) -> memoryview:
        """Return `length` bytes at guest-physical `addr`, without copying; raise `BadAddress` for any outside."""
        end = addr + length
        if addr < 0 or length < 0 or end > self.size:
            raise BadAddress(addr, length, self.size)
        return self._bytes[addr:end]

    def at(self, struct: type[Struct], addr: int) -> Struct:
        """Return a ctypes structure laid over guest-physical `addr`; raise `BadAddress` for any outside.

        Only for writable memory: a read-only mapping raises `MemoryRefused` (read it through `view`).
        """
        if addr < 0 or addr + ctypes.sizeof(struct) > self.size:
            raise BadAddress(addr, ctypes.sizeof(struct), self.size)
        if not self.is_writable:
            raise MemoryRefused(f"guest memory: read-only here, so no {struct.__name__} can be laid over it")
        return struct.from_buffer(self._mapping, addr)

    @contextlib.contextmanager
    def canary(self) -> Iterator[Canary]:
        """Leave a random word in the last eight bytes for a peer to find, and take it away again.

        Only while the Guest is not running: the vCPU's thread calls it.
        """
        view = self.view(self.size - 8, 8)
        before = bytes(view)
        word = int.from_bytes(os.urandom(8), "little") | 1
        view[:] = word.to_bytes(8, "little")
        try:
            yield Canary(self.size - 8, word)
        finally:
            view[:] = before

    def address(self) -> int:
        """Return the host virtual address of byte 0, for the kernel; valid until `close`. Writable memory only."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))

    def close(self) -> None:
        """Unmap and close; once closed, closing again does nothing.

        A view that somebody still holds keeps the mapping alive until that view goes; the fd is closed at once.
        """
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        with contextlib.suppress(BufferError):
            self.u16.release()
            self._bytes.release()
            self._mapping.close()

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _word(self, addr: int) -> int:
        return int.from_bytes(self.view(addr, 8), "little")


def _check_size(size: int) -> None:
    if size <= 0 or size % PAGE_SIZE:
        raise MemoryRefused(f"guest memory: {size} bytes is not a positive multiple of {PAGE_SIZE}")


def _memfd(size: int) -> int:
    fd = os.memfd_create("guest-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        os.fchmod(fd, 0o400)  # else whoever has it read-only could open it anew for writing, through /proc
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _posix_shm(size: int) -> int:
    # The name lives only between these two calls, so that even SIGKILL leaves nothing in /dev/shm. Unlike a
    # memfd it cannot be sealed: it is for peers that are trusted not to truncate it.
    import posix_ipc

    shm = posix_ipc.SharedMemory(None, posix_ipc.O_CREX, size=size)
    shm.unlink()
    os.set_inheritable(shm.fd, False)
    fd: int = shm.fd
    return fd


def _is_memfd(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")  # noqa: PTH115 - see child.py
