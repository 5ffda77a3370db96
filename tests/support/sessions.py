"""The program as a user has it: a process, a real pseudo-terminal, and a look at what it leaves behind."""

from __future__ import annotations

import functools
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import IO

import psutil
import pytest

import waker
from launcher import engines

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = (sys.executable, "-m", "launcher")
PATIENCE_S = 30.0
"""How long a failure takes. Nothing that holds depends on it."""

# A whole session takes a second. The rules are tried on every Waker (tests/contract/test_wakers.py); here it is the way
# in and out that is tested, which differs by place. (sigio refuses regular files: what a test has for input.)
SESSION_WAKERS = ["fork/select", "thread/select", "process/select", "process/epoll", "inline/uring"]
PAIRS = [(name, engine) for name in SESSION_WAKERS for engine in engines.names()]
"""Every Waker on every engine; `skip_unless_it_runs` says which of them run here."""

# What engine unicorn adds is its vCPU, which does not know one strategy from another: one or two of each place.
ON_UNICORN = ("fork/select", "thread/select", "process/select", "process/epoll", "inline/sigio", "inline/uring")


def wakers_to_try(engine: str) -> list[str]:
    """Return the Wakers that are tried on this engine."""
    return [name for name in waker.names() if engine != "unicorn" or name in ON_UNICORN]


# Makes the terminal the controlling one, as a login does, then becomes the program.
_LOGIN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


@functools.cache
def why_not(waker_name: str, engine: str) -> str | None:
    reason = waker.why_not(waker_name)
    return reason or engines.get(engine).why_not()


def skip_unless_it_runs(waker_name: str, engine: str) -> None:
    if reason := why_not(waker_name, engine):
        pytest.skip(f"{waker_name} on {engine}: {reason}")


def environment(**more: str) -> dict[str, str]:
    """Return an environment without what would change the output, wherever the tests are started."""
    changing = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LAUNCHER_PROGRAM", "PYTHONUNBUFFERED")
    kept = {name: text for name, text in os.environ.items() if name not in changing}
    return kept | {"TERM": "xterm", "PYTHONPATH": str(ROOT)} | more


def run_launcher(*args: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    """Run one command line to its end; standard input is empty unless `input` or `stdin` is given."""
    if "input" not in more:
        more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("env", environment())
    return subprocess.run([*LAUNCHER, *args], capture_output=True, timeout=PATIENCE_S, check=False, **more)  # type: ignore[call-overload,no-any-return]


def only_sentence(stderr: bytes) -> str:
    """Return the one line that standard error holds, without the program's name."""
    text = stderr.decode()
    assert text.startswith("launcher: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.removeprefix("launcher: ").rstrip("\n")


def last_sentence(stderr: bytes) -> str:
    """Return what follows the line that says which Guest runs, which must be one line."""
    first, _, rest = stderr.decode().partition("\n")
    assert first.startswith("launcher: guest "), stderr.decode()
    return only_sentence(rest.encode())


def processes_of_session(sid: int) -> list[int]:
    """Return the pids of all processes of this session, zombies too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[3]) == sid:
                found.append(int(entry.name))
    return found


def wait_until_gone(sid: int) -> None:
    """Wait until no process of this session is left: the children of one that was interrupted end by themselves."""
    end = monotonic() + PATIENCE_S
    while left := processes_of_session(sid):
        assert monotonic() < end, f"left behind: {left}"
        select.select([], [], [], 0.01)


def names_in_shm() -> set[str]:
    """Return the names in the two file systems in which one can be left behind."""
    found = set()
    for folder in ("/dev/shm", "/dev/mqueue"):
        if Path(folder).is_dir():
            found |= {str(path) for path in Path(folder).iterdir()}
    return found


@contextmanager
def no_new_names() -> Iterator[None]:
    """Fail when the block leaves a name behind. One that goes by itself is that of a neighbouring test."""
    before = names_in_shm()
    yield
    left, end = names_in_shm() - before, monotonic() + PATIENCE_S
    while left and monotonic() < end:
        select.select([], [], [], 0.05)
        left &= names_in_shm()
    assert not left


class Session:
    """`launcher ARGS` on a terminal of its own; standard error comes apart. Use it in a `with`."""

    def __init__(self, *args: str, output: int | None = None, env: dict[str, str] | None = None) -> None:
        self._master, self._terminal = pty.openpty()
        self.attributes_before = self.attributes()
        self.shown = b""
        """All that came out on the terminal so far."""
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _LOGIN, *LAUNCHER, *args],
            stdin=self._terminal,
            stdout=self._terminal if output is None else output,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env or environment(),
            cwd=ROOT,
        )
        self.said = b""
        """All that came out on standard error so far."""

    @property
    def stderr(self) -> IO[bytes]:
        assert self.process.stderr is not None
        return self.process.stderr

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._terminal)

    def is_raw(self) -> bool:
        return not int(str(self.attributes()[3])) & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait_until_it_runs(self) -> None:
        """Wait for the line that says what runs; the terminal is raw from then on."""
        self._read_until(lambda: self.said.startswith(b"launcher: guest ") and b"\n" in self.said)

    def wait_until_it_said(self, text: bytes, times: int = 1) -> None:
        """Wait until standard error holds `text` so often."""
        self._read_until(lambda: self.said.count(text) >= times)

    def look(self) -> None:
        """Read what there is by now, and wait a moment if there is nothing."""
        self._read(0.02)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def type_without_reading(self, most: int) -> None:
        """Type until the terminal takes no more, for nobody reads what is shown; or `most` bytes."""
        for _ in range(0, most, 256):
            if not select.select([], [self._master], [], 0.02)[1]:
                return
            os.write(self._master, b"x" * 256)

    def expect(self, text: bytes) -> None:
        """Wait until the terminal has shown `text` since this was last called."""
        self._read_until(lambda: text in self.shown)
        self.shown = self.shown.partition(text)[2]

    def put_back(self) -> None:
        """Put the terminal back as it was, for a Launcher that was killed and could not."""
        termios.tcsetattr(self._terminal, termios.TCSANOW, self.attributes_before)  # type: ignore[arg-type]

    def hang_up(self) -> None:
        """Pull the plug: all that is left of the terminal closes."""
        os.close(self._terminal)
        os.close(self._master)
        self._master = self._terminal = -1

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for_child(self, other_than: int = 0) -> psutil.Process:
        """Wait until it has a child process, not the one of that pid, and return it."""
        end = monotonic() + PATIENCE_S
        while not (children := [child for child in self.children() if child.pid != other_than]):
            assert monotonic() < end, f"no child was started; on standard error: {self.said!r}"
            select.select([], [], [], 0.01)
        (child,) = children
        return child

    def processes(self) -> list[int]:
        return processes_of_session(self.process.pid)

    def finish(self) -> int:
        """Wait for its end, and return the exit code; what it said is in `said`, what is on the screen in `shown`."""
        if self.process.poll() is None:
            pidfd = os.pidfd_open(self.process.pid)
            try:
                self._read_until(lambda: bool(select.select([pidfd], [], [], 0)[0]), also=pidfd)
            finally:
                os.close(pidfd)
        while self._read(0):
            pass
        return self.process.wait()

    def sentence(self) -> str:
        """Return the one sentence that was said after the line that says what runs."""
        return last_sentence(self.said)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():  # of a test that failed: whatever is still there
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.stderr.close()
        if self._master >= 0:
            os.close(self._master)
            os.close(self._terminal)

    def _read_until(self, is_enough: Callable[[], bool], also: int | None = None) -> None:
        end = monotonic() + PATIENCE_S
        while not is_enough():
            left = end - monotonic()
            assert left > 0, f"waited in vain; on the terminal: {self.shown!r}; on standard error: {self.said!r}"
            self._read(left, [] if also is None else [also])

    def _read(self, timeout_s: float, also: Sequence[int] = ()) -> bool:
        mine = [fd for fd in (self._master, self.stderr.fileno()) if fd >= 0 and not self._is_at_end(fd)]
        ready = select.select([*mine, *also], [], [], timeout_s)[0]
        for fd in ready:
            if fd == self._master:
                self.shown += os.read(fd, 65536)
            elif fd == self.stderr.fileno():
                self.said += os.read(fd, 65536)
        return bool(ready)

    def _is_at_end(self, fd: int) -> bool:
        # A pipe whose writers have all gone is readable for ever.
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))


@contextmanager
def session(*args: str, output: int | None = None, env: dict[str, str] | None = None) -> Iterator[Session]:
    """Run one that must put its terminal back, and leave no process and no name behind."""
    with no_new_names(), Session(*args, output=output, env=env) as opened:
        yield opened
        assert opened.process.poll() is not None, "the test did not finish its session"
        assert opened.processes() == []
        if opened._terminal >= 0:
            assert opened.attributes() == opened.attributes_before
