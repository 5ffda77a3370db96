"""When nothing happens, nothing wakes: an idle machine makes no context switch and uses no CPU time.

All threads of all processes are summed over a window in which somebody else sits out a bounded wait. Start-up takes
its time, so a window that was not quiet is followed by another; only a machine that never comes to rest fails.
"""

from __future__ import annotations

import select
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.sessions import PAIRS, Session, session, skip_unless_it_runs

WINDOW_S = 0.3
WINDOWS = 20


class Spent(NamedTuple):
    """What all threads of a session have used so far."""

    threads: int
    switches: int
    run_ns: int


def spent(at: Session) -> Spent:
    threads = switches = run_ns = 0
    for pid in at.processes():
        for task in Path(f"/proc/{pid}/task").iterdir():
            threads += 1
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            switches += int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
            run_ns += run_time_ns(task)
    return Spent(threads, switches, run_ns)


def run_time_ns(task: Path) -> int:
    if (task / "schedstat").exists():
        return int((task / "schedstat").read_text().split()[0])
    user, system = (task / "stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)  # in ticks: coarser, but 0 is 0


@pytest.mark.parametrize("guest", ["idle", "echo"])
@pytest.mark.parametrize(("waker_name", "engine"), PAIRS)
def test_nothing_moves_while_nothing_happens(waker_name: str, engine: str, guest: str) -> None:
    skip_unless_it_runs(waker_name, engine)
    with session("run", "--waker", waker_name, "--engine", engine, guest) as at:
        at.wait_until_it_runs()
        if guest == "echo":
            at.type(b"?")  # after it was awake, too
            at.expect(b"?")
        windows = []
        for _ in range(WINDOWS):
            before = spent(at)
            select.select([], [], [], WINDOW_S)
            windows.append((before, spent(at)))
            if windows[-1][0] == windows[-1][1]:
                break
        else:
            pytest.fail(f"it never came to rest: {windows}")
        assert before.threads >= 1
        at.process.terminate()
        assert at.finish() == 130
