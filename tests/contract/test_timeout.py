"""`run --timeout`: a Guest that still runs is stopped in one sentence, whatever it does and whoever would wake."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import engines
from tests.support.sessions import run_launcher, skip_unless_it_runs


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("guest", ["idle", "spin"])
@pytest.mark.parametrize("name", ["process/select", "thread/epoll", "fork/poll", "inline/uring", "inline/sigio"])
def test_a_guest_that_still_runs_is_stopped(name: str, guest: str, engine: str) -> None:
    skip_unless_it_runs(name, engine)
    done = run_launcher("run", f"--engine={engine}", f"--waker={name}", "--timeout=0.3", guest, input=b"")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[1:] == ["launcher: the Guest still ran after 0.3 s (--timeout)"]


def test_a_guest_that_ends_in_time_is_not() -> None:
    done = run_launcher("run", "--engine=python", "--timeout=60", input=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")


def test_a_guest_in_python_that_never_yields_is_stopped_all_the_same(tmp_path: Path) -> None:
    guest = tmp_path / "stubborn.py"
    guest.write_text("def run(cpu):\n    yield from ()\n    while True:\n        pass\n")
    done = run_launcher("run", "--timeout=0.3", str(guest))
    assert done.returncode == 1
    assert b"still ran after 0.3 s" in done.stderr


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    done = run_launcher("run", f"--timeout={text}")
    assert done.returncode == 1
    assert done.stderr.startswith(b"launcher: argument --timeout: ")
    assert done.stderr.count(b"\n") == 1
