"""Reads a file that a user named, once, without ever waiting for it."""

from __future__ import annotations

import os
import stat

from shared.errors import UsageError


def read(what: str, path: str, limit: int) -> bytes:
    """Return what is in the file; `what` begins the sentence that refuses it, as in `initrd`.

    Raises `UsageError` for anything that is no regular file of at most `limit` bytes.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{what} {path}: is not a regular file; give the file of an {what}")
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        remedy = "`launcher list guests` names the built-in ones" if what == "image" else f"give the file of an {what}"
        raise UsageError(f"{what} {path}: no such file; {remedy}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{what} {path}: is a directory; give the file of an {what}") from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{what} {path!r}: {error}; give the file of an {what}") from error
    except OSError as error:
        raise UsageError(f"{what} {path}: not readable ({error.strerror}); give a file that you may read") from error
    if len(content) > limit:
        raise UsageError(f"{what} {path}: over {limit >> 20} MiB, {_MOST[what]}")
    return content


_MOST = {"image": "the most that is read; strip it", "initrd": "all of the memory there is; give more with --memory"}


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO would wait for its writer, before we could see that it is no file.
    return os.open(path, flags | os.O_NONBLOCK)
