"""The programs in C, started by hand: what no ordinary round brings them, and how they say that they failed."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from launcher.bench.measure import yardstick
from launcher.bench.measure.crew import Arm, ArmFailed, Pipe, open_pipes, raise_fd_limit
from launcher.bench.measure.ledger import PUBLISHED, SERVED, Ledger
from shared.errors import CannotRunError
from tests.support.sessions import skip_unless_it_runs

PATIENCE_S = 10.0
SLEEPERS = [name for name in yardstick.PROGRAMS if name.endswith(("direct", "thread_select"))]
"""Those that give the fd itself to select()."""


@contextmanager
def started(
    program: str, rings: int, idle: int = 0, reader_from: int = 0, prefix: Sequence[str] = ()
) -> Iterator[tuple[Arm, Ledger, Pipe]]:
    """Start a program on a pipe whose reading end is a copy, numbered `reader_from` or higher."""
    if program.startswith("kvm_"):
        skip_unless_it_runs("thread/select", "kvm")
    try:
        folder = yardstick.build()
    except CannotRunError as reason:
        pytest.skip(str(reason))
    with open_pipes(1) as (pipe,):
        reader = fcntl.fcntl(pipe.reader, fcntl.F_DUPFD_CLOEXEC, reader_from)
        ledger_fd = Ledger.create(rings)
        try:
            argv = [*prefix, str(folder / program), str(reader), str(ledger_fd), str(rings), str(idle)]
            with Ledger(ledger_fd) as ledger, Arm(argv, [reader, ledger_fd]) as arm:
                yield arm, ledger, Pipe(reader, pipe.writer)
        finally:
            os.close(ledger_fd)
            os.close(reader)


@pytest.mark.parametrize("program", yardstick.PROGRAMS)
def test_more_rings_than_are_read_at_once_are_served(program: str) -> None:
    with started(program, 5000) as (arm, ledger, pipe):
        arm.wait_until_ready()
        ledger.words[PUBLISHED] = 5000
        os.write(pipe.writer, b"!" * 5000)  # and nothing comes after it
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"
        assert ledger.words[SERVED] == 5000


@pytest.mark.parametrize("program", SLEEPERS)
def test_an_fd_that_select_has_no_room_for_is_refused(program: str) -> None:
    raise_fd_limit(1200)
    with (
        started(program, 1, reader_from=1100) as (arm, _, _),
        pytest.raises(CannotRunError, match="cannot watch fd 11"),
    ):
        arm.wait_until_ready()


def test_a_waker_in_c_that_fails_is_a_failure() -> None:
    few_files = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    with started("process_select", 1, idle=100, prefix=few_files) as (arm, _, _):
        with pytest.raises(ArmFailed, match="eventfd: Too many open files"):
            arm.wait_until_ready()


def test_a_waker_in_c_that_is_refused_what_it_needs_cannot_run_here() -> None:
    raise_fd_limit(1300)
    with started("process_select", 1, idle=1100) as (arm, _, _):
        with pytest.raises(CannotRunError, match="cannot watch fd 1024"):
            arm.wait_until_ready()


def test_a_waker_in_c_that_is_killed_is_a_round_that_died() -> None:
    with started("process_select", 1) as (arm, ledger, _):
        arm.wait_until_ready()
        (child,) = psutil.Process(arm.pid).children()
        child.send_signal(signal.SIGKILL)
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "died: process_select: its Waker was killed"


def test_a_waker_in_c_that_is_only_stopped_goes_on() -> None:
    with started("process_select", 1) as (arm, ledger, pipe):
        arm.wait_until_ready()
        (child,) = psutil.Process(arm.pid).children()
        child.suspend()
        child.resume()
        ledger.words[PUBLISHED] = 1
        os.write(pipe.writer, b"!")
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"
