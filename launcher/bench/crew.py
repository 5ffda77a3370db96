"""The processes of a round: the arm at the other end of a socket, the stimulus, and the pipes between them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launcher.bench.arm import GIVE_UP, STOPS
from launcher.bench.ledger import PUBLISHED, SERVED, Ledger
from shared.errors import EXIT_CANNOT_RUN_HERE, CannotRunError, LabError

ROOT = Path(__file__).resolve().parents[2]

OK, HUNG = "ok", "hung"

_START_S = 60.0
_REPORT_S = 5.0
_CANNOT = (3, EXIT_CANNOT_RUN_HERE)  # the yardstick's, the arm's
_MAX_FDS = 4


class ArmFailed(LabError):  # noqa: N818 - an event
    """Say how an arm, or the stimulus, ended that should have run."""


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
def uninterrupted() -> Iterator[None]:
    """Let ^C wait while a process is started: one that nobody knows of yet would be left behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def raise_fd_limit(wanted: int) -> None:
    """Let this process and those that it starts open so many files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard < wanted:
            with contextlib.suppress(ValueError, PermissionError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
                return
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


class Arm:
    """An arm's process. It speaks on a socket that is its standard input and output; use it in a `with`."""

    def __init__(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                pass_fds=fds,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_until_ready(self) -> tuple[list[str], list[int]]:
        """Wait until its Waker watches; return what it says of its ring, if anything, and the fds that came with it.

        Raises `CannotRunError` when it cannot run here, `ArmFailed` when it ends otherwise, or never begins.
        """
        self._socket.settimeout(_START_S)
        try:
            said, fds, _, _ = socket.recv_fds(self._socket, 256, _MAX_FDS)
        except TimeoutError:
            raise ArmFailed(f"it was not ready within {_START_S:.0f} s") from None
        except OSError:
            said, fds = b"", []
        if said[:1] == b"r":
            return said[1:].decode().split(), fds
        code, last = self._end()
        if code in _CANNOT:
            raise CannotRunError(last)
        raise ArmFailed(f"it left with {code} before it was ready: {last}")

    def begin(self) -> None:
        """Tell one that waits for it."""
        self._socket.send(b"g")

    def wait_until_done(self, stimulus: Stimulus | None, ledger: Ledger, patience_s: float) -> str:
        """Wait until all is served; return `ok`, `hung`, or how it died."""
        self._socket.settimeout(None)
        before = -1
        while True:
            if select.select([self._socket], [], [], patience_s)[0]:
                try:
                    said = self._socket.recv(1)
                except OSError:
                    said = b""
                if said == b"d":
                    return OK
                code, last = self._end()
                return f"died: {last or f'it left with {code}'}"
            if stimulus is not None:
                stimulus.expect_alive()
            served, published = ledger.words[SERVED], ledger.words[PUBLISHED]
            if served == before and served < published:
                return HUNG
            if served >= ledger.rings:  # it adds up
                patience_s = max(patience_s, _REPORT_S)
                if served == before:
                    return HUNG
            before = served

    def report(self, ended: str) -> dict[str, Any]:
        """Have it report and go; one that does not even do that is killed, and has nothing to say."""
        if ended == HUNG:
            self._process.send_signal(GIVE_UP)
        with contextlib.suppress(OSError, ValueError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_REPORT_S)
            said = b""
            while part := self._socket.recv(1 << 16):
                said += part
            report: dict[str, Any] = json.loads(said.removeprefix(b"d"))
            return report
        return {}

    def _end(self) -> tuple[int, str]:
        """Have it go, by itself if it can; return its exit code and its last words."""
        self._socket.close()
        try:
            _, said = self._process.communicate(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, said = self._process.communicate()
        lines = said.decode(errors="replace").strip().splitlines()
        return self._process.returncode, lines[-1] if lines else ""

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # ^C, say: its Waker dies with it, of the end of its socket.
            self._process.kill()
        if self._process.returncode is None:
            self._end()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Stimulus:
    """The stimulus' process; use it in a `with`."""

    def __init__(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "launcher.bench.stimulus", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it could begin; raise `ArmFailed` when it ends instead."""
        assert self._process.stdout is not None
        if os.read(self._process.stdout.fileno(), 1) != b"r":
            raise ArmFailed(f"the stimulus left with {self._process.wait()}")

    def begin(self) -> None:
        """Have it ring."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"g")
        self._process.stdin.flush()

    def expect_alive(self) -> None:
        """Raise `ArmFailed` when it has ended: it should stay until it is told to go."""
        if self._process.poll() is not None:
            raise ArmFailed(f"the stimulus left with {self._process.returncode}")

    def __enter__(self) -> Stimulus:
        return self

    def finish(self) -> None:
        """Let it go, and wait until it has looked at what came back; raise `ArmFailed` when that is not right."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(_REPORT_S)
        except subprocess.TimeoutExpired:
            raise ArmFailed(f"the stimulus did not come to its end within {_REPORT_S:.0f} s") from None
        if code:
            raise ArmFailed(f"the stimulus left with {code}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0 if kind is not None else 0.2)  # it may still be ringing what nobody reads
            self._process.kill()
            self._process.wait()
