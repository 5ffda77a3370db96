"""Finds the Launchers that run here, and reads their counters without disturbing them.

Who holds a memfd named as a control page is a Launcher, or a Waker that was handed it; the page says which. It is
opened anew, read-only, through /proc/PID/fd, and mapped: the Launcher and its Guest notice nothing of it. Whether one
may look into a process is the kernel's to say (proc(5), ptrace(2)): of one's own user mostly yes, of another no.

Anybody can make a memfd of this name. So it is believed no further than it must be: it is mapped only if it is sealed
against shrinking (else its owner could kill us with SIGBUS), only the process that it names is taken for a Launcher,
and a pid is compared together with the time at which its process began, so that a recycled one is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import time
from collections.abc import Iterator
from ctypes import sizeof
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from launcher import identity
from launcher.identity import Who
from shared.errors import UsageError
from shared.page import (
    BREAKS,
    DEVICE_INTERRUPTS,
    DEVICE_NOTIFIES,
    DEVICE_SERVICED,
    DEVICE_WORDS,
    DEVICES,
    INTERRUPTS,
    LOOKS,
    NAME,
    NOTIFIES,
    REPLACED,
    SERVICED,
    SPURIOUS,
    STARVED,
    TAKEN,
    WAKES,
)
from shared.structs import DEVICE_SLOTS, ControlPage, DeviceCounts, Identity

COUNTERS = {
    "breaks": BREAKS,
    "taken": TAKEN,
    "spurious": SPURIOUS,
    "serviced": SERVICED,
    "notifies": NOTIFIES,
    "interrupts": INTERRUPTS,
    "wakes": WAKES,
    "looks": LOOKS,
    "starved": STARVED,
    "replaced": REPLACED,
}
"""What there is to count, and where it stands."""

PATIENCE_S = 5.0
"""How long a page is waited for, of a Launcher that starts."""

_AGAIN_S = 0.02  # nothing says when a page is there

_LINK = f"/memfd:{NAME} (deleted)"  # as the kernel shows a memfd, which never had a name to delete


class DeviceStats(NamedTuple):
    """What one device did so far."""

    name: str
    serviced: int
    notifies: int
    interrupts: int


class Running:
    """A Launcher that runs, or did when it was found. `close()` it, or use it in a `with`."""

    def __init__(self, pid: int, who: Who, mapping: mmap.mmap) -> None:
        self.pid = pid
        """As seen from here: in our pid namespace."""
        self.who = who
        self._mapping = mapping
        self._words = memoryview(mapping).cast("Q")

    @property
    def uptime_s(self) -> float:
        """How long its machine has been open."""
        return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.who.opened_ns) / 1e9

    @property
    def is_countable(self) -> bool:
        """Whether its counters stand where ours do."""
        return self.who.version == identity.VERSION

    def counters(self) -> dict[str, int]:
        """Return what was counted so far; each is right by itself, and no two are of the same instant."""
        return {name: self._words[at] for name, at in COUNTERS.items()}

    def devices(self) -> list[DeviceStats]:
        """Return what each device did so far, in the order of the device page."""
        found = []
        for slot in range(DEVICE_SLOTS):
            at = DEVICES + slot * DEVICE_WORDS
            name = bytes(self._words[at:][: DeviceCounts.name.size // 8]).partition(b"\0")[0].decode(errors="replace")
            if name:
                found.append(
                    DeviceStats(
                        name, *(self._words[at + n] for n in (DEVICE_SERVICED, DEVICE_NOTIFIES, DEVICE_INTERRUPTS))
                    )
                )
        return found

    def close(self) -> None:
        """Let go of the page."""
        self._words.release()
        self._mapping.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Found(NamedTuple):
    """The Launchers there are, and whether there may be more among processes that we may not look into."""

    running: list[Running]
    has_skipped: bool


@contextlib.contextmanager
def find_all() -> Iterator[Found]:
    """Find every Launcher that we may look into, the oldest first."""
    with contextlib.ExitStack() as closing:
        running: list[Running] = []
        has_skipped = False
        for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                running += [closing.enter_context(one) for one in _pages_of(pid)]
            except PermissionError:
                has_skipped |= not _has_no_command_line(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
        yield Found(sorted(running, key=lambda one: one.who.opened_ns), has_skipped)


class HasEnded(UsageError):  # noqa: N818 - an event
    """The process that was asked for has ended."""


@contextlib.contextmanager
def open_process(pid: int) -> Iterator[int]:
    """Open a process, and give its pidfd, which stands for no other ever; raise `UsageError` when it is not there."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        raise UsageError(f"process {pid}: is not there; see launcher ps") from error
    try:
        yield pidfd
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def open_one(pid: int, pidfd: int) -> Iterator[Running]:
    """Find the Launcher that is this process; its pidfd was opened before, so what is found is of it, or of none.

    A Launcher has no page while it starts, and one whose Guest restarts starts again and again: so of what was started
    as a Launcher the page is waited for, a little. Raises `UsageError` for a process that is no Launcher or is not ours
    to look into, `HasEnded` for one that is not there any more.
    """
    end = monotonic() + PATIENCE_S
    with contextlib.ExitStack() as closing:
        while True:
            try:
                pages = [closing.enter_context(one) for one in _pages_of(pid)]
                is_coming = not pages and _is_started_as_launcher(pid)
            except PermissionError as error:
                if not _has_no_command_line(pid):
                    raise UsageError(
                        f"process {pid}: this user may not look into it; ask as its own user, or as root"
                    ) from error
                pages, is_coming = [], True  # it is its end that comes
            except (FileNotFoundError, ProcessLookupError) as error:
                raise HasEnded(f"process {pid}: has just ended") from error
            if pages:
                yield pages[0]
                return
            if wait_for_end(pidfd, _AGAIN_S if is_coming else 0):
                raise HasEnded(f"process {pid}: has just ended")
            if not is_coming or monotonic() > end:
                raise UsageError(f"process {pid}: is no Launcher with a Guest; see launcher ps")


def wait_for_end(pidfd: int, timeout_s: float) -> bool:
    """Wait until the process has ended, or so long; return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _pages_of(pid: int) -> Iterator[Running]:
    """Yield the control pages of this process, if it is the Launcher that they name."""
    folder = f"/proc/{pid}/fd"
    seen = set()  # several fds may be the same page: a mapping of Python's keeps one, too
    for name in os.listdir(folder):  # noqa: PTH208 - a hundred thousand of them, maybe
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(f"{folder}/{name}") == _LINK:  # noqa: PTH115
                inode = os.stat(f"{folder}/{name}").st_ino  # noqa: PTH116
                if inode not in seen and (running := _open(pid, f"{folder}/{name}")) is not None:
                    seen.add(inode)
                    yield running


def _open(pid: int, path: str) -> Running | None:
    """Map what is said to be a control page, if it is one and is this process's."""
    # It may have become another file since: one that must not be waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != _LINK:  # noqa: PTH115
            return None
        size = os.fstat(fd).st_size
        if size < sizeof(ControlPage) or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return None
        who = identity.read(os.pread(fd, sizeof(Identity), ControlPage.identity.offset))
        if who is None or who.pid != _innermost_pid(pid) or who.process_start != identity.process_start(pid):
            return None
        return Running(pid, who, mmap.mmap(fd, sizeof(ControlPage), mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(fd)


def _innermost_pid(pid: int) -> int:
    """Return the pid that this process knows itself by: of its own pid namespace, when it is in a container."""
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return pid  # a kernel without pid namespaces


def _is_started_as_launcher(pid: int) -> bool:
    """Whether its command line is that of `launcher run`, or empty: in the middle of its execve, or just before
    the process ends.

    Anybody's may be: it is only waited for.
    """
    args = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return args == [b""] or (b"run" in args and any(os.path.basename(arg) == b"launcher" for arg in args))  # noqa: PTH119


def _has_no_command_line(pid: int) -> bool:
    """Whether this is a thread of the kernel's, or a process that is ending, what is left of which is root's alone."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # gone
