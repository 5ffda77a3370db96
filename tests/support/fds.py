"""What this process has open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def open_fds() -> dict[str, str]:
    """Return every open fd of this process with what it is, after what is garbage was collected."""
    gc.collect()
    # The directory's own fd is listed and gone when it is looked up.
    return {link.name: str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@contextmanager
def no_new_fds() -> Iterator[None]:
    """Fail when the block leaves an fd open that was not open before."""
    before = open_fds()
    yield
    assert open_fds() == before


@contextmanager
def plugged_below(number: int) -> Iterator[None]:
    """Have no number below this one free, so that it is the next to be given out once it is closed."""
    with ExitStack() as plugs:
        while (plug := os.eventfd(0, os.EFD_CLOEXEC)) < number:
            plugs.callback(os.close, plug)
        os.close(plug)
        yield
