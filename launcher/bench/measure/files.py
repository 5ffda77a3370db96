"""The files of a round: the pipes that a stimulus rings, and that there may be as many as it takes."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from typing import NamedTuple

from shared.errors import CannotRunError

TOO_MANY = "raise the hard limit (ulimit -Hn; fs.file-max), or set fewer sources"
"""What helps where files run out."""


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
    """Let this process and those that it starts open so many files from now on, as far as it may.

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
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise CannotRunError(
            f"{what}: {error.strerror} (here {soft}, up to {hard} when asked for); {TOO_MANY}"
        ) from error
