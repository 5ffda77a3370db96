"""Real files of every kind that a Waker meets, each with a way to make it ready and quiet again."""

from __future__ import annotations

import os
import pty
import socket
import tty
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple


class File(NamedTuple):
    """A file that can be watched: `fd`, and what makes it ready, quiet again, or ends it."""

    fd: int
    ring: Callable[[], object]
    quiet: Callable[[], object]
    hang_up: Callable[[], object]


def close(fd: int) -> None:
    """Close it, if nobody has."""
    try:
        os.close(fd)
    except OSError:
        return


def make_pipe(opened: ExitStack) -> File:
    reader, writer = os.pipe()
    opened.callback(close, reader)
    opened.callback(close, writer)
    return File(reader, lambda: os.write(writer, b"!"), lambda: os.read(reader, 99), lambda: os.close(writer))


def make_eventfd(opened: ExitStack) -> File:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    opened.callback(close, fd)
    return File(fd, lambda: os.eventfd_write(fd, 1), lambda: os.eventfd_read(fd), lambda: None)


def make_socket(opened: ExitStack) -> File:
    mine, other = socket.socketpair()
    opened.callback(other.close)
    fd = mine.detach()
    opened.callback(close, fd)
    return File(fd, lambda: other.send(b"!"), lambda: os.read(fd, 99), other.close)


def make_tty(opened: ExitStack) -> File:
    """Make a terminal on which somebody types."""
    keyboard, fd = pty.openpty()
    tty.setraw(fd)
    opened.callback(close, keyboard)
    opened.callback(close, fd)
    return File(fd, lambda: os.write(keyboard, b"!"), lambda: os.read(fd, 99), lambda: os.close(keyboard))


KINDS: dict[str, Callable[[ExitStack], File]] = {
    "pipe": make_pipe,
    "eventfd": make_eventfd,
    "socket": make_socket,
    "tty": make_tty,
}
