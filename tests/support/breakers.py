"""Breakers without an engine: what a test must have so that any kind can be made, and a kick without its flag."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest

from shared import breaker as breakers
from shared.breaker import Breaker, BreakHandle, ExitFlag, from_handle
from shared.linux import Semaphore, futex_wake
from shared.page import Page

_SIZE = 4096
_AT = 1  # where kvm_run has it


@contextlib.contextmanager
def exit_flag() -> Iterator[ExitFlag]:
    """Yield a byte that ends nobody's run, in a file of its own that stands in for kvm_run."""
    fd = os.memfd_create("run", os.MFD_CLOEXEC)
    os.ftruncate(fd, _SIZE)
    mapping = mmap.mmap(fd, _SIZE)
    byte = memoryview(mapping)[_AT : _AT + 1]
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping, _AT))
    try:
        yield ExitFlag(byte, address, fd, _AT, _SIZE)
    finally:
        byte.release()
        mapping.close()
        os.close(fd)


@contextlib.contextmanager
def open_breaker(kind: str, page: Page) -> Iterator[Breaker]:
    """Make a breaker of the calling thread, and close it; skip where there is none of this kind."""
    skip_what_is_missing(kind)
    with exit_flag() as flag:
        breaker = breakers.create(kind, page, flag)
        try:
            yield breaker
        finally:
            breaker.close()


def skip_what_is_missing(kind: str) -> None:
    if reason := breakers.missing(kind):
        pytest.skip(f"breaker {kind}: {reason}")


def passed_on(handle: BreakHandle) -> BreakHandle:
    """Return the handle as a peer gets it, with fds of its own."""
    return handle._replace(fds=tuple(map(os.dup, handle.fds)))


def kick(breaker: Breaker, page: Page) -> None:
    """Kick without setting the flag, as a break does that was taken while it was under way."""
    if breaker.kind == "futex":
        futex_wake(page.break_byte()[1])
    elif breaker.kind == "semaphore":
        Semaphore(page.semaphore_address()).post()
    else:
        with Page.create() as elsewhere:
            peer = from_handle(passed_on(breaker.handle()), elsewhere)
            peer.break_out()
            peer.close()
