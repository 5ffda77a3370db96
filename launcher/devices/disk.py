"""The file behind a block device: what it may be, how large it is, and that nobody else writes to it.

The lock is the kernel's and belongs to the open file (an OFD lock, fcntl(2)): it goes when the last descriptor of it
is closed, by SIGKILL too, so none is ever left behind. It is advisory: it stops another Launcher, and whoever else
asks (QEMU does), but no cp. So the size is looked at again before each write, which else would let a file grow that
somebody cut.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass

from shared.errors import UsageError

SECTOR = 512
"""The unit of all that a block device counts (VirtIO 1.3, 5.2.4)."""

_READ_ONLY = "ro:"
_WHOLE_FILE = (os.SEEK_SET, 0, 0, 0)
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length (0: to the end), pid (0 for OFD locks)


@dataclass(frozen=True, slots=True)
class Disk:
    """An open, locked file; `close()` it."""

    path: str
    fd: int
    size: int
    is_read_only: bool
    is_regular: bool

    def is_cut(self, end: int) -> bool:
        """Whether somebody cut the file so short that a write up to byte `end` would make it grow."""
        return self.is_regular and os.fstat(self.fd).st_size < end

    def close(self) -> None:
        """Close the file; the lock goes with it."""
        os.close(self.fd)


def open_disk(text: str) -> Disk:
    """Open and lock what `--block` names: a file or a block device, after `ro:` for reading only.

    Raises `UsageError` for what cannot be opened, is no disk, or is in use.
    """
    path = text.removeprefix(_READ_ONLY)
    is_read_only = path != text
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - '' is no path; first: to open a FIFO could wait for ever
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise UsageError(f"block: '{path}' is neither a file nor a block device; give one of these")
        fd = os.open(path, (os.O_RDONLY if is_read_only else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"block: cannot open '{path}' for reading{'' if is_read_only else ' and writing'}: {error.strerror}"
        ) from error
    try:
        _lock(fd, path, is_read_only=is_read_only)
        size = os.lseek(fd, 0, os.SEEK_END)
        if size % SECTOR:
            raise UsageError(
                f"block: '{path}' has {size} bytes, which are no whole sectors of {SECTOR}; "
                f"fill it up (truncate -s %{SECTOR})"
            )
    except BaseException:
        os.close(fd)
        raise
    return Disk(path, fd, size, is_read_only, stat.S_ISREG(mode))


def _lock(fd: int, path: str, *, is_read_only: bool) -> None:
    """Refuse a second writer, and a writer beside readers."""
    kind = fcntl.F_RDLCK if is_read_only else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, *_WHOLE_FILE))
    except BlockingIOError as error:
        raise UsageError(
            f"block: '{path}' is in use, and only readers (ro:{path}) may share it; stop the other, or copy the file"
        ) from error
    except OSError as error:
        raise UsageError(f"block: cannot lock '{path}': {error.strerror}; copy it to another file system") from error
