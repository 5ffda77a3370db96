"""`launcher bench` as a user has it: a table, receipts that survive, exit codes, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.bench.measure import namespace, yardstick
from launcher.bench.measure.cases import CASES
from launcher.bench.store import receipts
from launcher.cli import make_parser
from tests.support.sessions import (
    LAUNCHER,
    PATIENCE_S,
    environment,
    only_sentence,
    run_launcher,
    session,
)
from tests.support.until import until

QUICK = ("bench", "--engine=python", "--samples=20", "--set=warmup=0")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Give an environment whose state and cache are the test's own; what is compiled once is everybody's."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return environment(XDG_STATE_HOME=str(tmp_path / "state"), XDG_CACHE_HOME=cache)


def stored(env: dict[str, str]) -> receipts.Receipts:
    """Return what the one bench of this test wrote, where nobody said where to."""
    (path,) = (Path(env["XDG_STATE_HOME"]) / "lguest-launcher" / "receipts").iterdir()
    return receipts.read(path)


def test_it_prints_a_row_for_each_arm_and_keeps_the_rounds(env: dict[str, str]) -> None:
    done = run_launcher(*QUICK, "--waker=thread/poll", "--waker=inline/s*", "--seed=7", env=env)
    assert done.returncode == 0, done.stderr
    table = done.stdout.decode()
    assert "\x1b" not in table
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert {"thread/poll", "inline/sigio", "spin/direct"} <= rows.keys()
    assert rows["thread/poll"][1] == "20"
    assert rows["thread/poll"][-1] == "0"
    assert "p99" not in table.splitlines()[0]  # twenty rings cannot say
    assert table.splitlines()[-1].startswith("next: launcher duel ")
    read = stored(env)
    assert (read.run.kind, read.run.host["seed"]) == ("bench", 7)
    assert {"kernel", "cpu", "nested", "governor", "steal_percent", "load", "gil", "git"} <= read.run.host.keys()
    assert set(read.arms()) >= {"thread/poll", "inline/sigio", "spin/direct"}
    assert all(len(round_.latencies_ns) == 20 for round_ in read.rounds)


def test_the_table_can_be_printed_again_from_the_rounds(env: dict[str, str]) -> None:
    first = run_launcher(*QUICK, "--waker=thread/poll", "-o", "rounds.jsonl", env=env, cwd=env_folder(env))
    again = run_launcher("bench", "--show", str(env_folder(env) / "rounds.jsonl"), env=env)
    assert (first.returncode, again.returncode, again.stderr) == (0, 0, b"")
    assert again.stdout == first.stdout


def env_folder(env: dict[str, str]) -> Path:
    folder = Path(env["XDG_STATE_HOME"])
    folder.mkdir(exist_ok=True)
    return folder


def test_json_is_an_object_for_each_arm_and_one_at_the_end(env: dict[str, str]) -> None:
    args = (*QUICK, "--waker=thread/poll", "--set=idle_us=100,300,100", "--seed=7", "--json")
    done = run_launcher(*args, env=env | {"CC": "/no/such/cc"})
    *arms, last = [json.loads(line) for line in done.stdout.splitlines()]
    named = [arm for arm in arms if arm["waker"] == "thread/poll"]
    assert sorted(arm["arm"] for arm in named) == ["thread/poll@idle_us=100", "thread/poll@idle_us=300"]
    assert all(arm["n"] == 20 and arm["lost"] == [] for arm in arms)
    assert sorted(last.pop("front")) == sorted(arm["arm"] for arm in named)  # a front for each setting
    assert sorted(make_parser().parse_args(shlex.split(last.pop("next"))[1:]).wakers) == [
        "thread/poll@idle_us=100",
        "thread/poll@idle_us=300",
    ]
    (path,) = (Path(env["XDG_STATE_HOME"]) / "lguest-launcher" / "receipts").iterdir()
    assert last == {
        "kind": "bench",
        "case": "wake",
        "engines": ["python"],
        "engine_reason": "asked for",
        "seed": 7,
        "receipts": str(path),
        "left_out": {"the yardstick in C": "there is no C compiler (/no/such/cc); install one, or name it in CC"},
        "failed": {},
        "interrupted": False,
        "exit_code": 0,
    }


def test_a_lost_wake_up_is_4_with_what_it_takes_to_replay_it(env: dict[str, str]) -> None:
    done = run_launcher(*QUICK, "--waker=process/select+drop=1", "--patience=1", "--seed=7", env=env)
    assert done.returncode == 4
    said = done.stderr.decode()
    assert "LOST: process/select+drop=1: ring 0 and 19 more woke nobody" in said
    assert f"seed {stored(env).of_arm('process/select+drop=1')[0].seed}" in said
    assert "--seed 7" in said
    done = run_launcher("bench", "--show", str(next(Path(env["XDG_STATE_HOME"]).rglob("*.jsonl"))), "--json")
    *arms, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, last["exit_code"], last["seed"]) == (4, 4, 7)
    (lost,) = [arm["lost"] for arm in arms if arm["lost"]]
    assert lost[0] == {"block": 0, "seed": stored(env).of_arm("process/select+drop=1")[0].seed, "number": 0}


def test_a_waker_that_is_only_slow_is_not_lost(env: dict[str, str]) -> None:
    # Far enough apart: a ring within another one's delay is served by the break of that one, and sooner.
    done = run_launcher(*QUICK, "--waker=process/select+delay=300", "--set=idle_us=2000", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (arm,) = [json.loads(line) for line in done.stdout.splitlines() if b"delay" in line and b'"arm"' in line[:20]]
    assert arm["quantiles_ns"]["p50"] > 300_000


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM])
def test_stopped_on_a_terminal_it_prints_what_was_measured(env: dict[str, str], signo: signal.Signals) -> None:
    args = ("bench", "--engine=python", "--waker=thread/poll", "--samples=2000000", "--seed=1", "--json")
    with session(*args, env=env) as at:
        until(lambda: receipts_lines(env) > 3, "no rounds")
        if signo == signal.SIGINT:
            at.type(b"\x03")
        else:
            at.process.send_signal(signo)
        assert at.finish() == 130
        assert b'"kind": "arm"' in at.shown
        assert b'"interrupted": true' in at.shown
        assert b'"exit_code": 130' in at.shown
        assert b"interrupted" in at.said
    assert len(stored(env).rounds) >= 3


def test_what_was_lost_before_somebody_had_enough_is_lost(env: dict[str, str]) -> None:
    args = ("bench", "--engine=python", "--waker=process/select+drop=1", "--samples=2000000", "--patience=0.1")
    with session(*args, env=env | {"CC": "/no/such/cc"}) as at:
        until(lambda: receipts_lines(env) > 3, "no rounds")
        at.type(b"\x03")
        while at.process.poll() is None:  # as a key that repeats itself, which would drop what is on its way to us
            at.process.send_signal(signal.SIGINT)
            at.look()
        assert at.finish() == 4
        assert b"process/select+drop=1 " in at.shown  # the table
        assert b"LOST: process/select+drop=1: ring " in at.said
        assert at.said.endswith(b"launcher: interrupted: what was measured until then is above\n")


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_before_or_after_it_measures_it_is_interrupted_as_well(
    env: dict[str, str], signo: signal.Signals, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"  # is asked for the yardstick, before there is anything to measure
    compiler.write_text(f"#!/bin/sh\nkill -{signo.value} $PPID; exec sleep {PATIENCE_S}\n")
    compiler.chmod(0o755)
    here = env | {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for args in (QUICK, ("doctor",)):
        done = run_launcher(*args, env=here)
        assert done.returncode == 130, args
        assert only_sentence(done.stderr) == "interrupted"


def receipts_lines(env: dict[str, str]) -> int:
    folder = Path(env["XDG_STATE_HOME"]) / "lguest-launcher" / "receipts"
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def test_killed_it_leaves_whole_rounds_and_no_process(env: dict[str, str]) -> None:
    argv = [*LAUNCHER, "bench", "--engine=python", "--waker=process/select", "--samples=2000000"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        until(lambda: receipts_lines(env) > 3, "no rounds")
        children = descendants(bench.pid)
        bench.kill()
    until(lambda: not any(is_running(pid) for pid in children), "something was left behind")
    assert len(stored(env).rounds) >= 3


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ---- What is refused ----


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--case=nap",), "case 'nap' is not known; there are wake, "),
        (("--waker=process/selct",), "waker 'process/selct' is not known; there are "),
        (("--waker=process/select+drop=0",), "fault 'drop=0' is not "),
        (("--waker=process/select+delay=soon",), "fault 'delay=soon' is not "),
        (("--waker=process/*+foo",), "breaker 'foo' of waker 'process/"),
        (("--waker=*/poll+drop=0",), "fault 'drop=0' is not "),
        (("--waker=c:*", "--case=echo"), "'c:*' is nothing that case echo has; "),
        (("--engine=warp",), "engine 'warp' is not known; there are "),
        (("--set=idle_us",), "setting 'idle_us' is not NAME=VALUE; case wake has "),
        (("--set=idle_us=long",), "parameter idle_us=long is not a number"),
        (("--set=idle_us=0",), "parameter idle_us=0 is outside 1 to "),
        (("--set=depth=1",), "case wake has no parameter 'depth'; there are "),
        (("--pin=loose",), "parameter pin=loose is none of free, same, apart"),
        (("--set=idle_us=1", "--set=idle_us=2"), "parameter 'idle_us' is set twice; to vary it, say idle_us=VALUE,"),
        (("--set=pin=same", "--pin=free"), "parameter 'pin' is set twice; to vary it, say pin=VALUE,"),
        (("--show=x", "--waker=a", "--samples=9"), "--show prints what was measured: it has no use for waker, samples"),
        (("--samples=0",), "argument --samples: '0' is not between 1 and "),
        (("--seconds=0",), "argument --seconds: '0' is not between 0 and "),
        (("--show=/no/such/file",), "/no/such/file: No such file or directory"),
    ],
)
def test_bad_input_is_one_sentence(args: tuple[str, ...], sentence: str, env: dict[str, str]) -> None:
    done = run_launcher("bench", *args, env=env)
    assert (done.returncode, done.stdout) == (1, b"")
    assert only_sentence(done.stderr).startswith(sentence)


def test_receipts_are_not_written_over_what_is_there(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = run_launcher(*QUICK, "-o", str(tmp_path / "mine"), env=env)
    assert done.returncode == 1
    assert b"is there already; name another file" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_pair_that_nothing_here_can_run_is_77(env: dict[str, str]) -> None:
    done = run_launcher("bench", "--engine=python", "--waker=thread/poll+immediate", env=env)
    assert (done.returncode, done.stdout) == (77, b"")
    assert b"breaker 'immediate' cannot stop engine python" in done.stderr


@pytest.mark.parametrize(("pattern", "whose"), [("fork/poll", "fork/poll"), ("fork/*poll", "fork/epoll and 1 more")])
def test_where_nothing_can_run_it_is_said_what_cannot(pattern: str, whose: str, env: dict[str, str]) -> None:
    done = run_launcher("bench", "--engine=python", "--case=vring", f"--waker={pattern}", env=env)
    assert done.returncode == 77
    assert only_sentence(done.stderr).startswith(f"nothing here can run case vring: {whose}: its Guest memory is priv")


def test_a_pattern_leaves_out_what_cannot_be_with_the_reason(env: dict[str, str]) -> None:
    done = run_launcher(*QUICK, "--case=churn", "--waker=*/poll+ring-aware", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert b"fork/poll+ring-aware is left out: waker 'fork/poll+ring-aware': a forked Waker has " in done.stderr
    arms = [json.loads(line).get("arm") for line in done.stdout.splitlines()]
    assert {"thread/poll+ring-aware", "process/poll+ring-aware"} <= set(arms)


def test_a_waker_that_the_case_is_too_large_for_is_77_and_says_so(env: dict[str, str]) -> None:
    args = ("--case=fanin", "--waker=process/select", "--set=sources=1100", "--samples=5")
    done = run_launcher("bench", "--engine=python", *args, env=env)
    assert b"FD_SETSIZE" in done.stderr
    assert done.returncode == 77


@pytest.mark.parametrize("pattern", ["c:d*", "c*t", "spin/*"])
def test_what_wakers_are_compared_with_can_be_measured_by_itself(pattern: str, env: dict[str, str]) -> None:
    done = run_launcher(*QUICK, f"--waker={pattern}", env=env)
    assert done.returncode == 0, done.stderr
    assert b"spin/direct" in done.stdout


def test_where_all_of_many_sources_are_rung_c_is_compared_with_too(env: dict[str, str]) -> None:
    if reason := yardstick.why_not("thread_select"):
        pytest.skip(reason)
    done = run_launcher(*QUICK, "--case=fanin", "--set=active=all", "--waker=thread/poll", "--json", env=env)
    assert done.returncode == 0, done.stderr
    arms = {arm["arm"]: arm for arm in map(json.loads, done.stdout.splitlines()) if arm["kind"] == "arm"}
    assert arms["thread/poll"]["base"] == "c:thread_select"
    assert all((arm["n"], arm["lost"]) == (20, []) for arm in arms.values())


def test_stored_receipts_without_a_round_are_5(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    receipts.Writer.create(path, receipts.Run("launcher bench", "bench", {})).close()
    done = run_launcher("bench", "--show", str(path), env=env)
    assert done.returncode == 5
    assert only_sentence(done.stderr).endswith("nothing was measured")


def test_without_a_compiler_the_table_has_no_ratio_and_the_reason_is_said(env: dict[str, str]) -> None:
    done = run_launcher(*QUICK, "--waker=thread/poll", env=env | {"CC": "/no/such/cc"})
    assert done.returncode == 0
    assert b"the yardstick in C is left out: there is no C compiler (/no/such/cc)" in done.stderr
    assert b"x C" not in done.stdout


def test_a_cache_that_cannot_be_written_costs_the_ratio_and_nothing_else(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    args = (*QUICK, "--waker=thread/poll", "-o", str(tmp_path / "rounds.jsonl"))
    done = run_launcher(*args, env=env | {"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode()
    assert said.count("cannot hold what is compiled (Not a directory); set XDG_CACHE_HOME to a folder") == 1
    assert "thread/poll" in done.stdout.decode()


def test_cases_are_listed_with_what_they_measure_and_what_can_be_set() -> None:
    rows = [json.loads(line) for line in run_launcher("list", "cases", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == list(CASES)
    for row in rows:
        assert row["why_not"] is None or (row["name"] == "ping" and namespace.missing())
        assert row["measures"]
        assert {"default", "help"} <= row["parameters"]["pin"].keys()


def test_the_doctor_gives_a_remedy_for_all_that_it_minds() -> None:
    done = run_launcher("doctor", "--json")
    *findings, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last == {"kind": "doctor", "exit_code": 0, "next": "launcher bench"}
    assert done.returncode == 0
    assert {finding["kind"] for finding in findings} == {"finding"}
    assert {"engine python", "io_uring", "open files", "processors", "steal", "jitter", "timer"} <= {
        finding["check"] for finding in findings
    }
    assert {finding["level"] for finding in findings} <= {"PASS", "WARN", "FAIL"}
    assert all(finding["remedy"] for finding in findings if finding["level"] != "PASS")


def test_the_doctor_speaks_to_people_too() -> None:
    done = run_launcher("doctor", env=environment(NO_COLOR="1"))
    assert done.returncode == 0
    assert b"PASS engine python: " in done.stdout
    assert done.stdout.endswith(b"\nnext: launcher bench\n")
    assert b"\x1b" not in done.stdout


# ---- A disk that is full ----


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """Give what, put before a command, gives it a disk of two pages at `tmp_path`/disk; or skip."""
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=8k none {tmp_path}/disk && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    except OSError:
        pytest.skip("unshare is not installed")
    if probe.returncode:
        pytest.skip(f"no mount of its own for a test: {probe.stderr.decode().strip()}")
    return prefix


@pytest.mark.parametrize(
    ("args", "code", "row"),
    [
        (("bench", "--waker=thread/poll", "--samples=5000"), 1, b"thread/poll "),
        (("bench", "--waker=process/select+drop=1", "--samples=5000", "--patience=0.2"), 4, b"process/select+drop=1 "),
        (("duel", "process/select", "thread/poll", "--rings=500", "--seconds=60"), 1, b"thread/poll against "),
    ],
    ids=["bench", "lost", "duel"],
)
def test_a_full_disk_ends_it_and_throws_nothing_away(
    args: Sequence[str], code: int, row: bytes, small_disk: Sequence[str], env: dict[str, str], tmp_path: Path
) -> None:
    path = f"{tmp_path}/disk/rounds.jsonl"
    done = subprocess.run(
        [*small_disk, *LAUNCHER, *args, "--engine=python", "-o", path],
        env=env | {"CC": "/no/such/cc"},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert row in done.stdout
    last = f"launcher: {path}: No space left on device (make room, or write elsewhere with -o): what was measured "
    assert done.stderr.decode().splitlines()[-1].startswith(last)
    assert b"Traceback" not in done.stderr
