"""Memory that nobody can write to until it is let go: a transfer into it hangs, as on a disk that does not answer."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shared.linux import ioctl, syscall
from tests.support.rescue import PATIENCE_S

_SYS_USERFAULTFD = {"x86_64": 323}.get(os.uname().machine, 282)
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_API, _REGISTER_MODE_MISSING = 0xAA, 1


@contextmanager
def stuck_memory(size: int = mmap.PAGESIZE) -> Iterator[tuple[memoryview, Callable[[], None], Callable[[], None]]]:
    """Give such memory, what waits until somebody is stuck in it, and what lets go; skip where that cannot be had."""
    try:
        fd = syscall(_SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK, name="userfaultfd")
    except OSError as error:
        pytest.skip(f"userfaultfd: {errno.errorcode.get(error.errno or 0)}: needs root or vm.unprivileged_userfaultfd")
    is_open = True

    def wait_until_stuck() -> None:
        faulted = select.poll()
        faulted.register(fd, select.POLLIN)
        assert faulted.poll(PATIENCE_S * 1000), "nobody touched the memory"

    def let_go() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            os.close(fd)

    mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    try:
        for request, content in (
            (_UFFDIO_API, struct.pack("<QQQ", _API, 0, 0)),
            (_UFFDIO_REGISTER, struct.pack("<QQQQ", address, size, _REGISTER_MODE_MISSING, 0)),
        ):
            argument = ctypes.create_string_buffer(content, len(content))
            ioctl(fd, request, ctypes.addressof(argument), name="userfaultfd")
        yield memoryview(mapping), wait_until_stuck, let_go
    finally:
        let_go()
