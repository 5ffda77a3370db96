"""The control page: what Launcher and Waker tell each other without a message.

A memfd of its own, because the Waker must write it (break word, counters, stamps) and must not be able to write
Guest memory. It is mapped shared even for a forked Waker: only *Guest memory* was private in 2007; the break went
through the kernel, which both saw.

`words[BREAK]` reads and writes one aligned 64-bit word at once. Each word has one writer; see structs.ControlPage.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os

from shared.errors import MemoryRefused
from shared.memory import PAGE_SIZE
from shared.structs import TRACE_LANES, ControlPage, DeviceCounts, TraceLane

_WORD = ctypes.sizeof(ctypes.c_uint64)

BREAK = ControlPage.break_word.offset // _WORD
BREAKS = ControlPage.breaks.offset // _WORD
WAKES = ControlPage.wakes.offset // _WORD
LOOKS = ControlPage.looks.offset // _WORD
STARVED = ControlPage.starved.offset // _WORD
TAKEN = ControlPage.taken.offset // _WORD
SPURIOUS = ControlPage.spurious.offset // _WORD
NOTIFIES = ControlPage.notifies.offset // _WORD
INTERRUPTS = ControlPage.interrupts.offset // _WORD
SERVICED = ControlPage.serviced.offset // _WORD
REPLACED = ControlPage.replaced.offset // _WORD
IS_TRACING = ControlPage.is_tracing.offset // _WORD
TAKEN_IDX = ControlPage.taken_idx.offset // _WORD
LOOKED_IDX = ControlPage.looked_idx.offset // _WORD

# A device's slot begins here, has so many words, and of these its counts are the ones with these numbers.
DEVICES = ControlPage.devices.offset // _WORD
DEVICE_SERVICED = DeviceCounts.serviced.offset // _WORD
DEVICE_NOTIFIES = DeviceCounts.notifies.offset // _WORD
DEVICE_INTERRUPTS = DeviceCounts.interrupts.offset // _WORD
DEVICE_WORDS = ctypes.sizeof(DeviceCounts) // _WORD

NAME = "control-page"

_LANE_SIZE = ctypes.sizeof(TraceLane)
_CONTROL_SIZE = PAGE_SIZE
SIZE = _CONTROL_SIZE + TRACE_LANES * _LANE_SIZE


class Page:
    """The control page of one Launcher; `close()` it, or use it in a `with`."""

    def __init__(self, fd: int) -> None:
        """Map the page that `fd` is; the fd belongs to the result, and is closed when this fails."""
        try:
            if os.fstat(fd).st_size != SIZE:
                raise MemoryRefused(f"control page: {os.fstat(fd).st_size} bytes, but this version has {SIZE}")
            self._mapping = mmap.mmap(fd, SIZE, mmap.MAP_SHARED)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._bytes = memoryview(self._mapping)
        self.words = self._bytes.cast("Q")

    @classmethod
    def create(cls) -> Page:
        """Make a zeroed page that can be passed to a Waker by its `fileno()`."""
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes that nobody looks at yet: those of the identity, a device's name."""
        self._bytes[offset : offset + len(data)] = data

    def fileno(self) -> int:
        """Return the fd, which stays ours."""
        return self._fd

    def break_byte(self) -> tuple[memoryview, int]:
        """Return the low byte of the break word, and its host address."""
        at = BREAK * _WORD
        return self._bytes[at : at + 1], self._address_of(at)

    def semaphore_address(self) -> int:
        """Return the host address of the room for a semaphore."""
        return self._address_of(ControlPage.semaphore.offset)

    def lane(self, number: int) -> memoryview:
        """Return the 64-bit words of one trace lane (structs.TraceLane)."""
        start = _CONTROL_SIZE + number * _LANE_SIZE
        return self._bytes[start : start + _LANE_SIZE].cast("Q")

    def close(self) -> None:
        """Unmap and close; once closed, closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        with contextlib.suppress(BufferError):
            self.words.release()
            self._bytes.release()
            self._mapping.close()

    def _address_of(self, at: int) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._mapping, at))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
