"""A Guest asks for a restart: the same process, nothing left open, and whoever wants out gets out at any moment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import waker
from launcher import engines
from launcher.restart import take_count
from shared.breaker import KICK_SIGNAL
from tests.support.sessions import (
    LAUNCHER,
    PATIENCE_S,
    SESSION_WAKERS,
    Session,
    environment,
    run_launcher,
    session,
    skip_unless_it_runs,
)

every_engine = pytest.mark.parametrize("engine", engines.names())
FOR_EVER = ["restart", "for ever"]


def arguments(waker_name: str, engine: str, *guest: str) -> list[str]:
    skip_unless_it_runs(waker_name, engine)
    return ["run", "--waker", waker_name, "--engine", engine, *guest]


def open_files(pid: int) -> list[str]:
    """Return what a process has open, sorted, without the numbers that tell one pipe from another."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sorted(re.sub(r"\d+", "N", os.readlink(link)) for link in links)  # noqa: PTH115


def signals_and_threads(pid: int) -> list[int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    masks = [int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")]
    masks[0] &= ~(1 << (KICK_SIGNAL - 1))  # KVM lets it in and shuts it out again, by turns
    return [*masks, int(status["Threads"])]


@every_engine
@pytest.mark.parametrize(("letters", "lives", "code"), [(b"rr", 3, 0), (b"rrxc", 3, 1)])
def test_every_life_begins_anew_with_the_input_that_is_left(engine: str, letters: bytes, lives: int, code: int) -> None:
    done = run_launcher(*arguments("process/select", engine, "restart"), input=letters)
    assert (done.returncode, done.stdout) == (code, b"up\n" * lives)
    said = done.stderr.decode().splitlines()
    assert [line.partition(", restart ")[2] for line in said[:lives]] == ["", "1", "2"][:lives]
    assert said[lives:] == (["launcher: guest restart died: restart: was told to crash"] if code else [])


@pytest.mark.parametrize(
    ("waker_name", "engine"),
    [*((name, "python") for name in SESSION_WAKERS), ("process/select", "kvm"), ("inline/uring", "kvm")],
)
def test_it_stays_the_same_process_with_the_same_files_open(waker_name: str, engine: str) -> None:
    with session(*arguments(waker_name, engine, "restart")) as at:
        seen = []
        for life in range(3):
            at.expect(b"up\r\n")
            assert at.is_raw()
            has_process = waker.parse(waker_name).place in ("fork", "process")
            assert len(at.children()) == has_process
            seen.append((open_files(at.process.pid), signals_and_threads(at.process.pid)))
            at.type(b"r" if life < 2 else b"s")
        assert at.finish() == 0
        assert seen[0] == seen[1] == seen[2]


def stop_at(at: Session, lives: int, signo: signal.Signals) -> None:
    at.wait_until_it_said(b"launcher: guest ", times=lives)
    at.process.send_signal(signo)
    assert at.finish() == 130
    assert at.said.decode().splitlines()[-1] == f"launcher: stopped by {signo.name}"


@every_engine
@pytest.mark.parametrize(
    ("waker_name", "signo", "lives"),
    [("process/select", signal.SIGTERM, 1), ("thread/select", signal.SIGINT, 2), ("inline/uring", signal.SIGHUP, 3)],
)
def test_a_guest_that_restarts_for_ever_is_stopped_by_one_signal(
    waker_name: str, signo: signal.Signals, lives: int, engine: str
) -> None:
    with session(*arguments(waker_name, engine, *FOR_EVER)) as at:
        stop_at(at, lives, signo)


def test_a_guest_that_restarts_at_once_is_stopped_between_two_lives_too(tmp_path: Path) -> None:
    """Its lives are so short that most of the time there is no machine, and often no Python yet."""
    guest = tmp_path / "hasty.py"
    guest.write_text("from launcher.api import Restart\ndef run(cpu):\n    yield Restart()\n")
    for lives in range(1, 5):
        with session("run", "--waker", "thread/select", str(guest)) as at:
            stop_at(at, lives, signal.SIGTERM)


def test_a_guest_that_restarts_for_ever_is_stopped_by_ctrl_c() -> None:
    with session(*arguments("thread/select", "python", *FOR_EVER)) as at:
        at.wait_until_it_runs()
        while at.process.poll() is None:  # a raw terminal takes three, one that is cooked for a moment takes one
            at.type(b"\x03")
            at.look()
        assert at.finish() in (130, -signal.SIGINT)  # the latter: one more came when it was on its way out


@every_engine
def test_the_time_that_it_is_given_is_for_all_lives_together(engine: str) -> None:
    done = run_launcher(*arguments("thread/select", engine, "--timeout=0.8", *FOR_EVER))
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[-1] == "launcher: the Guest still ran after 0.8 s (--timeout)"
    assert "restart 1" in lines[1]


def test_time_that_is_not_used_up_stops_nobody() -> None:
    done = run_launcher(*arguments("thread/select", "python", "--timeout=60", "restart"), input=b"rrs")
    assert (done.returncode, done.stdout) == (0, b"up\nup\nup\n")


def test_what_a_restart_says_to_itself_is_said_to_nobody_else() -> None:
    with session(*arguments("process/select", "python", "restart")) as at:
        at.expect(b"up\r\n")
        at.type(b"r")
        at.expect(b"up\r\n")
        (child,) = at.children()
        assert b"LAUNCHER_RESTARTS" not in Path(f"/proc/{child.pid}/environ").read_bytes()
        at.type(b"s")
        assert at.finish() == 0


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("", 0), ("-1", 0), ("x", 0), ("9" * 99, 0), ("٣", 0)])
def test_a_count_that_is_none_is_no_restart(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_RESTARTS", text)
    assert take_count() == count
    assert take_count() == 0


@pytest.mark.parametrize("how", ["module", "options", "script", "config"])
def test_it_is_started_anew_as_it_was_started(how: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('image = "restart"\nengine = "python"\nwaker = "thread/select"\n')
    script = Path(sys.executable).parent / "launcher"
    if how == "script" and not script.exists():
        pytest.skip(f"{script} is not installed")
    program = {
        "module": [*LAUNCHER],
        "options": [sys.executable, "-P", "-X", "utf8", "-W", "error", "-m", "launcher"],
        "script": [str(script)],
        "config": [*LAUNCHER],
    }[how]
    args = [str(config)] if how == "config" else arguments("thread/select", "python", "restart")[1:]
    done = subprocess.run(
        [*program, "run", *args], input=b"rs", capture_output=True, timeout=PATIENCE_S, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (0, b"up\nup\n")
    assert done.stderr.count(b"\n") == 2


# ---- Out while the Waker is replaced ----


@every_engine
@pytest.mark.parametrize("waker_name", ["fork/select", "process/select"])
def test_a_signal_while_the_waker_is_replaced_still_stops_it(waker_name: str, engine: str) -> None:
    with session(*arguments(waker_name, engine, "idle")) as at:
        at.wait_until_it_runs()
        at.wait_for_child().kill()
        at.process.send_signal(signal.SIGTERM)
        assert at.finish() == 130
        assert at.sentence() == "stopped by SIGTERM"
