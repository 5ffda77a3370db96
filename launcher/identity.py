"""What a Launcher says of itself in its control page, and what others can read there.

There is no register of running Launchers: a file would be left behind by SIGKILL, and be wrong. The page itself is the
register. It is a memfd, so it is there exactly as long as somebody holds it, and /proc shows who does.
"""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import c_uint8, sizeof
from typing import NamedTuple

from launcher.config import RunConfig
from shared.page import Page
from shared.structs import ControlPage, Identity

MAGIC = int.from_bytes(b"launcher", "little")
VERSION = 1
"""Of the layout of the counters; what is newer or older is listed, but not counted."""

_MAGIC_WORD = (ControlPage.identity.offset + Identity.magic.offset) // 8
_CUT = b"..."


class Who(NamedTuple):
    """A Launcher, as it says it is. The texts are a stranger's: show them escaped."""

    version: int
    pid: int
    """In its own pid namespace."""
    process_start: int
    opened_ns: int
    restarts: int
    guest: str
    engine: str
    waker: str


def introduce(page: Page, config: RunConfig, engine: str) -> None:
    """Write into the control page whose it is. The vCPU's thread calls it, once."""
    identity = Identity(
        version=VERSION,
        pid=os.getpid(),
        process_start=process_start("self"),  # whatever pid namespace /proc is of
        opened_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        restarts=config.restarts,
        guest=_text(config.image, Identity.guest.size),
        engine=_text(engine, Identity.engine.size),
        waker=_text(config.waker, Identity.waker.size),
    )
    page.put(ControlPage.identity.offset, bytes(identity))
    page.words[_MAGIC_WORD] = MAGIC  # last: what has it is complete


def read(data: bytes) -> Who | None:
    """Return whose control page begins with `data`; None when it does not say, or not yet."""
    if len(data) < sizeof(Identity):
        return None
    said = Identity.from_buffer_copy(data)
    if said.magic != MAGIC:
        return None
    return Who(
        said.version,
        said.pid,
        said.process_start,
        said.opened_ns,
        said.restarts,
        *(bytes(text).partition(b"\0")[0].decode(errors="replace") for text in (said.guest, said.engine, said.waker)),
    )


def process_start(pid: int | str) -> int:
    """Return when a process began, in ticks since boot (proc(5), field 22 of stat); raise `OSError` when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _text(text: str, size: int) -> ctypes.Array[c_uint8]:
    """Return `text` in so many bytes; of one that is too long its end, which of a path says most."""
    data = os.fsencode(text)
    if len(data) > size:
        data = _CUT + data[len(_CUT) - size :]
    return (c_uint8 * size)(*data)
