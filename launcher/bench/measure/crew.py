"""The processes of a round: the arm at the other end of a socket, and the stimulus."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Self

from launcher.bench.measure.ledger import PUBLISHED, SERVED, Ledger
from launcher.bench.measure.spec import GIVE_UP, ROOT, STOPS
from launcher.bench.store.records import DIED, HUNG, OK, WRONG
from shared.errors import EXIT_BROKEN_RULE, EXIT_CANNOT_RUN_HERE, CannotRunError, LabError

_START_S = 60.0
_REPORT_S = 5.0
_END_S = 10.0
"""What a process may take to close all that it has: a Waker that must be killed takes 2 s of it."""
_MAX_FDS = 4
_MOST_WORDS = 1 << 16


class ArmFailed(LabError):  # noqa: N818 - an event
    """Say how an arm, or the stimulus, ended that should have run."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let ^C wait while a process is started: one that nobody knows of yet would be left behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Member(ABC):
    """One process of the crew, in a session of its own; use it in a `with`, at whose end it is gone.

    It is told to go by the end of what it reads. What it has started goes with it, whether that likes to or not.
    """

    def __init__(self, argv: Sequence[str], fds: Sequence[int], stdin: int, stdout: int, **env: str) -> None:
        # A file, not a pipe: nobody reads it before the end, and nobody is to be held up by one that is full.
        self._said = os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=self._said,
                pass_fds=fds,
                env=os.environ | env,
                start_new_session=True,
            )
            self.pid = self._process.pid
            try:
                self.pidfd = os.pidfd_open(self.pid)
            except BaseException:
                self._process.kill()
                self._process.wait()
                raise
        except BaseException:
            os.close(self._said)
            raise

    @abstractmethod
    def hang_up(self) -> None:
        """End what it reads."""

    def how_it_ended(self, patience_s: float = 0.0) -> str:
        """Return `ok`, or in words how it ended; one that does not within this time is killed."""
        code = self._process.returncode
        if code is None:
            is_late = not _is_readable(self.pidfd, patience_s)
            # Before it is waited for: until then nobody else can have its number.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._process.wait()
            if is_late:
                return f"it did not come to its end within {patience_s:g} s"
        if code == 0:
            return OK
        if code < 0:
            return f"it was killed by {_name(-code)}"
        said = os.pread(self._said, _MOST_WORDS, max(0, os.fstat(self._said).st_size - _MOST_WORDS))
        words = said.decode(errors="replace").strip().splitlines()
        return words[-1] if words else f"it left with {code}"

    def death(self, whose: str, how: str) -> str:
        """Return what a round says of how it ended when this one has, and how: it died, or says that all is wrong."""
        kind = WRONG if self._process.returncode == EXIT_BROKEN_RULE else DIED
        return f"{kind}{whose}{'it left without a word' if how == OK else how}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self.how_it_ended()
        os.close(self.pidfd)
        os.close(self._said)


class Arm(_Member):
    """An arm's process. It speaks on a socket that is its standard input and output."""

    def __init__(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                super().__init__(argv, fds, theirs.fileno(), theirs.fileno())
        except BaseException:
            self._socket.close()
            raise

    def wait_until_ready(self) -> tuple[list[str], list[int]]:
        """Wait until its Waker watches; return what it says of its ring, if anything, and the fds that came with it.

        Raises `CannotRunError` when it cannot run here, `ArmFailed` when it ends otherwise, or never begins.
        """
        self._socket.settimeout(_START_S)
        try:
            said, fds, _, _ = socket.recv_fds(self._socket, 256, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise ArmFailed(f"it was not ready within {_START_S:.0f} s") from None
        except OSError:
            said, fds = b"", []
        if said[:1] == b"r":
            return said[1:].decode().split(), fds
        words = self.leave()
        if self._process.returncode == EXIT_CANNOT_RUN_HERE:
            raise CannotRunError(words)
        raise ArmFailed(f"before it was ready: {words}")

    def begin(self) -> None:
        """Tell one that waits for it. One that is gone is found out when it is waited for."""
        with contextlib.suppress(OSError):
            self._socket.send(b"g")

    def wait_until_done(
        self, stimulus: Stimulus | None, ledger: Ledger, patience_s: float, all_due_s: float = math.inf
    ) -> str:
        """Wait until all is served; return `ok`, `hung`, or who died and how.

        It hangs when a ring that was outstanding so long ago still is, and none was served since: not when one happens
        to be on its way at two looks. Without a stimulus it is its own turn all the time. With one, all is to have been
        rung after so long (`all_due_s`), or it stands still.
        """
        poll = select.poll()
        for fd in (self._socket.fileno(), self.pidfd, *([] if stimulus is None else [stimulus.pidfd])):
            poll.register(fd, select.POLLIN)
        before, was_waiting, end_s = -1, False, monotonic() + all_due_s
        while True:
            ready = dict(poll.poll(patience_s * 1e3))
            if self._socket.fileno() in ready:
                return OK if self._is_done() else self.death("", self.leave())
            if self.pidfd in ready:
                return self.death("", self.leave())
            if stimulus is not None and ready:
                return stimulus.death("the stimulus: ", stimulus.how_it_ended())
            words = ledger.words
            served, published = words[SERVED], words[PUBLISHED]
            if served == before and was_waiting:
                return HUNG
            if stimulus is not None and served == before and monotonic() > end_s + patience_s:
                return f"{DIED}the stimulus: it stands still"
            before = served
            was_waiting = stimulus is None or served < published or served >= ledger.rings

    def report(self, *, gives_up: bool) -> dict[str, Any]:
        """Have it report: what it counted, or nothing where it does not within some seconds.

        One that `gives_up` is told first that nobody believes in it any more.
        """
        if gives_up:
            with contextlib.suppress(ProcessLookupError):  # not Popen's: that would wait for one that has just died
                signal.pidfd_send_signal(self.pidfd, GIVE_UP)
        said = b""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_REPORT_S)
            while not said.endswith(b"\n") and (part := self._socket.recv(1 << 16)):
                said += part
        with contextlib.suppress(ValueError):
            report: dict[str, Any] = json.loads(said.removeprefix(b"d"))
            return report
        return {}

    def leave(self) -> str:
        """Have it close all that it has, and go; return `ok`, or how it ended instead."""
        self.hang_up()
        return self.how_it_ended(_END_S)

    def hang_up(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _is_done(self) -> bool:
        self._socket.settimeout(None)
        try:
            return self._socket.recv(1) == b"d"
        except OSError:
            return False


class Stimulus(_Member):
    """The stimulus' process."""

    def __init__(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        argv = [sys.executable, "-S", "-P", "-m", "launcher.bench.measure.stimulus", *argv]
        super().__init__(argv, fds, subprocess.PIPE, subprocess.PIPE, PYTHONPATH=str(ROOT))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def wait_until_ready(self) -> None:
        """Wait until it could begin; raise `ArmFailed` when it ends instead, or is not ready for long."""
        if not _is_readable(self._output.fileno(), _START_S):
            raise ArmFailed(f"the stimulus was not ready within {_START_S:.0f} s")
        if os.read(self._output.fileno(), 1) != b"r":
            self.hang_up()
            raise ArmFailed(f"the stimulus, before it was ready: {self.how_it_ended(_END_S)}")

    def begin(self) -> None:
        """Have it ring. One that is gone is found out when it is waited for."""
        with contextlib.suppress(OSError):
            os.write(self._input.fileno(), b"g")

    def finish(self) -> str:
        """Let it go when all was rung; return `ok`, or what was not right with what came back."""
        self.hang_up()
        words = self.how_it_ended(_END_S)
        return OK if words == OK else self.death("the stimulus: ", words)

    def hang_up(self) -> None:
        """Close its standard input."""
        self._input.close()

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._output.close()


def _is_readable(fd: int, patience_s: float) -> bool:
    poll = select.poll()  # not select: with many sources this is no small number
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience_s * 1e3))


def _name(signo: int) -> str:
    try:
        return signal.Signals(signo).name
    except ValueError:
        return f"signal {signo}"
