"""The files of a round: the pipes that a stimulus rings, and as many as there may be."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from typing import NamedTuple

from shared.errors import CannotRunError


class Pipe(NamedTuple):
    """What the stimulus rings: its end and the arm's."""

    reader: int
    writer: int


@contextlib.contextmanager
def open_pipes(count: int) -> Iterator[list[Pipe]]:
    """Open so many; the reading ends do not block."""
    with contextlib.ExitStack() as closing:
        pipes = []
        for _ in range(count):
            reader, writer = os.pipe()
            closing.callback(os.close, reader)
            closing.callback(os.close, writer)
            os.set_blocking(reader, False)
            pipes.append(Pipe(reader, writer))
        yield pipes


@contextlib.contextmanager
def enough_files(wanted: int, what: str) -> Iterator[None]:
    """Let this process and those that it starts open so many files, as far as it may.

    Raises `CannotRunError`, with `what` needs them, where they turn out to be too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        if hard < wanted:
            with contextlib.suppress(ValueError, PermissionError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise CannotRunError(
            f"{what} need up to {wanted} files, and no more than {hard} may be open: raise the hard limit "
            "(ulimit -Hn), or set fewer"
        ) from error
