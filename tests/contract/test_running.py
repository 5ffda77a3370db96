"""`ps`, `stats`, `stop`: a Launcher that runs is found, read without being disturbed, and stopped; nobody else is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.sessions import (
    LAUNCHER,
    PATIENCE_S,
    environment,
    only_sentence,
    run_launcher,
    session,
    skip_unless_it_runs,
)
from tests.support.until import until


def listed() -> dict[int, dict[str, Any]]:
    """Return what `ps --json` says, by pid, of those that it lists once.

    There may be Launchers of neighbouring tests in it, also two that a test has opened in one process.
    """
    done = run_launcher("ps", "--json")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    times = Counter(row["pid"] for row in rows)
    return {row["pid"]: row for row in rows if times[row["pid"]] == 1}


def stats_of(pid: int) -> dict[str, Any]:
    done = run_launcher("stats", str(pid), "--json")
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads(done.stdout)
    return row


@pytest.mark.parametrize("name", ["fork/select", "process/select", "thread/select", "inline/uring"])
def test_a_launcher_is_listed_while_it_runs_and_its_waker_never(name: str) -> None:
    skip_unless_it_runs(name, "python")
    with session("run", "--engine=python", f"--waker={name}", "idle") as at:
        at.wait_until_it_runs()
        rows = listed()
        row = rows[at.process.pid]
        assert (row["guest"], row["engine"], row["waker"], row["restarts"]) == ("idle", "python", name, 0)
        assert 0 < row["uptime_s"] < 2 * PATIENCE_S
        assert not {child.pid for child in at.children()} & set(rows)
        at.process.kill()
        at.finish()
        assert at.process.pid not in listed()
        until(lambda: not at.processes(), "its Waker is still there")
        at.put_back()


def test_without_json_it_is_a_table() -> None:
    with session("run", "--engine=python", "idle") as at:
        at.wait_until_it_runs()
        heading, *lines = run_launcher("ps").stdout.decode().splitlines()
        assert heading.split() == ["pid", "guest", "engine", "waker", "uptime", "restarts", "breaks", "wakes"]
        (mine,) = [line.split() for line in lines if line.split()[0] == str(at.process.pid)]
        assert mine[1:4] == ["idle", "python", "process/select"]
        at.process.terminate()
        assert at.finish() == 130


def test_a_restart_begins_its_time_and_counts_anew_and_is_counted_itself() -> None:
    with session("run", "--engine=python", "restart") as at:
        at.expect(b"up\r\n")
        at.type(b"r")
        at.expect(b"up\r\n")
        assert listed()[at.process.pid]["restarts"] == 1
        at.type(b"s")
        assert at.finish() == 0


# ---- stats ----


@pytest.mark.parametrize("engine", ["python", "kvm"])
def test_what_each_device_does_is_counted_live(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    with session("run", f"--engine={engine}", "--rng", "echo") as at:
        at.wait_until_it_runs()
        for _ in range(3):
            at.type(b"x")
            at.expect(b"x")
        row = stats_of(at.process.pid)
        console, rng = row["devices"]
        assert (console["name"], rng["name"]) == ("console", "rng")
        assert console["serviced"] == 3
        assert console["notifies"] >= 3
        assert console["interrupts"] >= 1
        assert (rng["serviced"], rng["interrupts"]) == (0, 0)
        # The totals are those of the devices together.
        assert row["serviced"] == 3
        assert row["notifies"] == console["notifies"] + rng["notifies"]
        assert row["interrupts"] == console["interrupts"]
        assert row["breaks"] == row["taken"] == 3
        assert row["wakes"] >= 3
        assert (row["spurious"], row["replaced"]) == (0, 0)
        at.process.terminate()
        assert at.finish() == 130


def test_a_waker_that_was_replaced_is_counted() -> None:
    with session("run", "--engine=python", "echo") as at:
        at.wait_until_it_runs()
        first = at.wait_for_child()
        at.type(b"x")
        at.expect(b"x")
        first.kill()
        at.wait_for_child(other_than=first.pid)
        assert stats_of(at.process.pid)["replaced"] == 1
        at.process.terminate()
        assert at.finish() == 130


@pytest.mark.parametrize("engine", ["python", "kvm"])
def test_reading_its_counters_does_not_disturb_it(engine: str) -> None:
    """A halted Guest is not woken: neither Launcher nor Waker gets a turn, and no counter moves."""
    skip_unless_it_runs("process/select", engine)
    with session("run", f"--engine={engine}", "idle") as at:
        at.wait_until_it_runs()
        processes = [psutil.Process(at.process.pid), *at.children()]
        until(lambda: all(one.status() == psutil.STATUS_SLEEPING for one in processes), "they do not sleep")
        stats_of(at.process.pid)
        before = [one.num_ctx_switches().voluntary for one in processes], stats_of(at.process.pid)
        run_launcher("ps")
        after = [one.num_ctx_switches().voluntary for one in processes], stats_of(at.process.pid)
        assert before[0] == after[0]
        assert before[1] | {"uptime_s": 0} == after[1] | {"uptime_s": 0}
        at.process.terminate()
        assert at.finish() == 130


def test_watching_goes_on_until_it_has_ended() -> None:
    with session("run", "--engine=python", "idle") as at:
        at.wait_until_it_runs()
        with subprocess.Popen(
            [*LAUNCHER, "stats", str(at.process.pid), "--watch=0.01", "--json"],
            stdout=subprocess.PIPE,
            env=environment(),
        ) as watching:
            assert watching.stdout is not None
            rows = [json.loads(watching.stdout.readline()) for _ in range(3)]
            assert [row["pid"] for row in rows] == [at.process.pid] * 3
            at.process.terminate()
            assert at.finish() == 130
            watching.stdout.read()
            assert watching.wait(PATIENCE_S) == 0


def test_a_guest_that_restarts_for_ever_is_found_watched_and_stopped_at_any_moment() -> None:
    """Half of the time there is no machine to look into."""
    with session("run", "--engine=python", "--waker=thread/select", "restart", "for ever") as at:
        at.wait_until_it_runs()
        pid = at.process.pid
        with subprocess.Popen(
            [*LAUNCHER, "stats", str(pid), "--watch=0.01", "--json"], stdout=subprocess.PIPE, env=environment()
        ) as watching:
            assert watching.stdout is not None
            lives = set()
            while len(lives) < 4:
                lives.add(json.loads(watching.stdout.readline())["restarts"])
            assert run_launcher("stop", str(pid)).returncode == 0
            assert at.finish() == 130
            watching.stdout.read()
            assert watching.wait(PATIENCE_S) == 0


def test_without_json_it_says_who_and_has_a_line_for_each_device() -> None:
    with session("run", "--engine=python", "--rng", "idle") as at:
        at.wait_until_it_runs()
        who, names, counts, heading, *devices = run_launcher("stats", str(at.process.pid)).stdout.decode().splitlines()
        assert who.startswith("guest idle, engine python, waker process/select, up ")
        assert len(names.split()) == len(counts.split())
        assert heading.split() == ["device", "serviced", "notifies", "interrupts"]
        assert [line.split()[0] for line in devices] == ["console", "rng"]
        at.process.terminate()
        assert at.finish() == 130


# ---- stop ----


@pytest.mark.parametrize("guest", ["idle", "spin"])
def test_stop_stops_it_in_order_and_waits_until_it_is_gone(guest: str) -> None:
    with session("run", "--engine=python", guest) as at:
        at.wait_until_it_runs()
        done = run_launcher("stop", str(at.process.pid))
        assert (done.returncode, done.stdout) == (0, b"")
        assert only_sentence(done.stderr) == f"launcher {at.process.pid} (guest {guest}) has stopped"
        assert at.finish() == 130
        assert at.sentence() == "stopped by SIGTERM"


def test_stop_insists_on_a_guest_in_python_that_never_yields(tmp_path: Path) -> None:
    guest = tmp_path / "stubborn.py"
    guest.write_text("def run(cpu):\n    while True: pass\n    yield\n")
    with session("run", str(guest)) as at:
        at.wait_until_it_runs()
        assert run_launcher("stop", str(at.process.pid)).returncode == 0
        assert at.finish() == 130


def test_one_that_does_not_come_is_said_to_run_still_and_can_be_killed() -> None:
    with session("run", "--engine=python", "idle") as at:
        at.wait_until_it_runs()
        pid = at.process.pid
        at.process.send_signal(signal.SIGSTOP)
        done = run_launcher("stop", str(pid), "--patience=0.1")
        assert done.returncode == 1
        assert only_sentence(done.stderr) == (
            f"launcher {pid} (guest idle): still runs 0.1 s after SIGTERM; --kill ends it at once"
        )
        assert run_launcher("stop", "--kill", str(pid)).returncode == 0
        assert at.finish() == -signal.SIGKILL
        until(lambda: not at.processes(), "its Waker is still there")
        at.put_back()


def refused(*args: str) -> str:
    done = run_launcher(*args)
    assert (done.returncode, done.stdout) == (1, b"")
    return only_sentence(done.stderr)


@pytest.mark.parametrize("command", ["stop", "stats"])
def test_what_is_no_launcher_is_left_alone(command: str) -> None:
    me = os.getpid()
    assert refused(command, str(me)) == f"process {me}: is no Launcher with a Guest; see launcher ps"
    assert "invalid int value: 'echo'" in refused(command, "echo")


def test_its_waker_is_no_launcher() -> None:
    with session("run", "--engine=python", "idle") as at:
        at.wait_until_it_runs()
        assert "is no Launcher" in refused("stop", str(at.wait_for_child().pid))
        at.process.terminate()
        assert at.finish() == 130


def test_a_launcher_in_a_pid_namespace_is_listed_under_the_pid_it_has_here() -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "", "--pid", "--fork", "true"]
    if unshare is None or subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("unshare --pid is missing or not allowed")
    with subprocess.Popen(
        [unshare, "--pid", "--fork", "--kill-child", *LAUNCHER, "run", "--engine=python", "idle"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"launcher: guest idle")
        (launcher,) = psutil.Process(process.pid).children()
        assert listed()[launcher.pid]["guest"] == "idle"
        assert run_launcher("stop", str(launcher.pid)).returncode == 0
        assert process.wait(PATIENCE_S) == 130
