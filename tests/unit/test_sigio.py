"""What sigio does to files and to its thread, and takes back."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal

import pytest

from shared.breaker import KICK_SIGNAL, ExitFlag
from waker.strategies.sigio import Inline


def make_inline() -> Inline:
    byte = ctypes.c_ubyte(0)
    return Inline(ExitFlag(memoryview(byte).cast("B"), ctypes.addressof(byte)))


def is_blocked() -> bool:
    return KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def how_it_signals(fd: int) -> tuple[int, int]:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC, fcntl.fcntl(fd, fcntl.F_GETSIG)


def test_a_file_and_the_mask_are_as_they_were_when_it_is_closed() -> None:
    reader, writer = os.pipe()
    inline = make_inline()
    inline.add(reader)
    assert how_it_signals(reader) == (os.O_ASYNC, KICK_SIGNAL)
    assert is_blocked()
    inline.close()
    assert how_it_signals(reader) == (0, 0)
    assert not is_blocked()
    os.write(writer, b"!")
    os.close(reader)
    os.close(writer)


@pytest.mark.usefixtures("kick_may_stay_blocked")
def test_a_copy_of_a_file_that_was_closed_without_a_word_cannot_end_the_process() -> None:
    reader, writer = os.pipe()
    inline = make_inline()
    inline.add(reader)
    copy = os.dup(reader)
    os.close(reader)
    inline.close()
    os.write(writer, b"!")  # it goes on signalling: nobody has a number left to stop it by
    assert KICK_SIGNAL in signal.sigpending()
    assert is_blocked()
    os.close(copy)
    os.close(writer)


@pytest.mark.usefixtures("kick_may_stay_blocked")
def test_another_file_under_the_number_keeps_its_own_ways() -> None:
    reader, writer = os.pipe()
    other, other_writer = os.pipe()
    fcntl.fcntl(other, fcntl.F_SETFL, os.O_NONBLOCK)
    inline = make_inline()
    inline.add(reader)
    os.dup2(other, reader)
    inline.remove(reader)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_NONBLOCK
    inline.close()
    for fd in (reader, writer, other, other_writer):
        os.close(fd)


def test_a_file_that_is_added_is_looked_at_alone() -> None:
    """Ten thousand files would otherwise be looked at ten thousand times."""
    ready, ready_writer = os.pipe()
    quiet, quiet_writer = os.pipe()
    inline = make_inline()
    os.write(ready_writer, b"!")
    inline.add(ready)
    assert inline.is_pending()  # its change was before: nothing else would say so
    assert inline.look() == {ready}
    inline.add(quiet)
    assert not inline.is_pending()  # nor is what has been reported said again
    assert inline.look() == {ready}
    inline.close()
    for fd in (ready, ready_writer, quiet, quiet_writer):
        os.close(fd)
