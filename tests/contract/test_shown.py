"""What people see of what was measured: on a terminal and in a pipe, in colour or not, read to its end or not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.bench.duels.duel import Plan
from launcher.bench.measure.cases import get
from launcher.bench.store.receipts import Round, Run, Writer
from launcher.check import report
from launcher.cli import main
from shared.errors import Unread
from tests.support.noise import duel, round_at
from tests.support.sessions import LAUNCHER, PATIENCE_S, ROOT, environment, only_sentence, run_launcher, session
from tests.support.suggested import begun

LONG = "process/epoll_oneshot+ring-aware@idle_us=10000,switch_us=100,sources=1000,pin=apart"


def store(path: Path, rounds: Sequence[Round], run: Run) -> Path:
    with Writer.create(path, run) as writer:
        for round_ in rounds:
            writer.write(round_)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with receipts: a bench, one that lost a wake-up, and a duel of long names."""
    folder = tmp_path_factory.mktemp("receipts")
    fine = duel({"thread/spin": 0.0, "process/epoll_oneshot": 120.5, "c:process_select": -0.5}, blocks=8)
    c = {"engine": "c", "waker": "c:process_select"}
    fine = [r if r.arm != "c:process_select" else round_at(r.arm, r.block, -0.5, **c) for r in fine]
    bench = Run("launcher bench", "bench", {"seed": 7})
    store(folder / "bench.jsonl", fine, bench)
    wide = duel({"thread/spin": 0.1}, blocks=8, spread=0.5, seed=2)
    store(folder / "wide.jsonl", wide, bench)
    lost = round_at("process/epoll_oneshot", 9, counts={"served": 399, "lost": 1}, lost_seqs=[3], ended="hung")
    store(folder / "lost.jsonl", [*fine, lost], bench)
    wrong = round_at("process/epoll_oneshot", 9, ended="wrong: echo: byte 7 did not come back as it was")
    store(folder / "wrong.jsonl", [*fine, wrong], bench)
    plan = Plan(LONG, f"{LONG},payload=8", f"{LONG}'", "wake", blocks=20, rings=400, seed=7, delta=0.03, alpha=0.01)
    rounds = duel({plan.base: 0.0, plan.head: 0.1, plan.control: 0.0}, blocks=20)
    twice = {"sent": 400, "served": 400, "breaks": 800}
    rounds = [replace(round_, counts=twice) if round_.arm == plan.head else round_ for round_ in rounds]
    store(folder / "duel.jsonl", rounds, Run("launcher duel A B", "duel", {"duel": plan.to_json()}))
    return folder


COMMANDS = {
    "check": (("check", "--waker=thread/select", "--engine=python", "--rule=W1"), 0),
    "doctor": (("doctor",), 0),
    "bench": (("bench", "--show", "bench.jsonl"), 0),
    "lost": (("bench", "--show", "lost.jsonl"), 4),
    "wrong": (("bench", "--show", "wrong.jsonl"), 4),
    "duel": (("duel", "--show", "duel.jsonl"), 2),
    "compare": (("compare", "duel.jsonl", "duel.jsonl"), 0),
    "compared": (("compare", "bench.jsonl", "lost.jsonl"), 4),
    "undecided": (("compare", "bench.jsonl", "wide.jsonl"), 3),
}


def run_into(folder: Path, name: str, **streams: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose streams, where they are not given, are read."""
    return subprocess.run(
        [*LAUNCHER, *COMMANDS[name][0]],
        env=environment(GITHUB_ACTIONS="true" if name == "duel" else ""),
        cwd=folder,
        timeout=PATIENCE_S,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@pytest.fixture
def nobody() -> Iterator[int]:
    """Give a pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


@pytest.fixture
def full() -> Iterator[int]:
    """Give a disk that is full."""
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("away", ["nobody", "full"])
def test_where_standard_error_goes_nowhere_the_table_and_the_code_are_the_same(
    name: str, away: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    done = run_into(folder, name, stderr=request.getfixturevalue(away))
    assert done.returncode == COMMANDS[name][1]
    assert done.stdout.splitlines()[-1].startswith(b"next: " if name != "check" else b"")
    both = run_into(folder, name, stdout=request.getfixturevalue(away), stderr=request.getfixturevalue(away))
    assert both.returncode == (COMMANDS[name][1] or 1)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_gone_changes_nothing_of_what_was_found(name: str, folder: Path, nobody: int) -> None:
    code = COMMANDS[name][1]
    done = run_into(folder, name, stdout=nobody)
    assert done.returncode == (code or 1)
    *said, last = done.stderr.splitlines(keepends=True)
    assert only_sentence(last) == "standard output was closed before all was written"
    if name == "lost":
        assert b"LOST: process/epoll_oneshot: ring 3 woke nobody" in said[0]
    if name == "wrong":
        assert said[0].startswith(b"launcher: process/epoll_oneshot is wrong: echo: byte 7 did not")
    if name == "duel":
        assert said[0].startswith(b"::error title=launcher duel%3A regressed::")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_changes_nothing_of_what_was_found(name: str, folder: Path, full: int) -> None:
    done = run_into(folder, name, stdout=full)
    assert done.returncode == (COMMANDS[name][1] or 1)
    assert done.stderr.splitlines()[-1].decode() == (
        "launcher: standard output: No space left on device: not all was written; make room, or write elsewhere"
    )


def test_a_list_that_finds_no_room_says_where(full: int) -> None:
    args, env = [*LAUNCHER, "list", "wakers"], environment()
    done = subprocess.run(args, stdout=full, stderr=subprocess.PIPE, env=env, check=False)
    assert done.returncode == 1
    assert only_sentence(done.stderr).startswith("standard output: No space left on device: ")


@pytest.mark.parametrize("show", [report._print_table, report._print_json])
def test_a_rule_that_is_broken_is_so_whoever_reads(
    show: Callable[[list[report.Finding]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with suppress(BrokenPipeError), os.fdopen(theirs, "w") as nobody:  # which is flushed when it is closed
        monkeypatch.setattr(sys, "stdout", nobody)
        with pytest.raises(Unread) as caught:
            show([report.Finding("fork/poll", "python", "W1", report.FAIL, "it did not wake")])
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", COMMANDS)
def test_colour_is_for_terminals_of_people_who_want_it(name: str, folder: Path) -> None:
    args = [str(folder / arg) if arg.endswith(".jsonl") else arg for arg in COMMANDS[name][0]]
    shown = {}
    for wanted, more in ((True, {}), (False, {"NO_COLOR": "1"})):
        with session(*args, env=environment(**more)) as at:
            at.finish()
        shown[wanted] = at.shown
    assert has_colour(shown[True]) == (name != "bench")  # where all is well there is nothing to be coloured
    assert not has_colour(shown[False])
    assert b"\x1b" not in run_launcher(*args).stdout


def has_colour(shown: bytes) -> bool:
    """Whether the foreground changes; bold and dim are no colours (no-color.org)."""
    return re.search(rb"\x1b\[(\d+;)*3\d", shown) is not None


def rows_of(shown: bytes, name: str) -> list[str]:
    """Return the rows that begin with this name, as they were sent: where they are wrapped is the terminal's affair."""
    lines = re.sub(rb"\x1b\[[\d;]*m", b"", shown).decode().splitlines()
    return [line for line in lines if line.startswith(name)]


def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(folder: Path) -> None:
    env = environment(COLUMNS="80", NO_COLOR="1")
    with session("bench", "--show", str(folder / "lost.jsonl"), env=env) as at:
        assert at.finish() == 4
    (head,) = rows_of(at.shown, "arm ")
    assert head.split() == ["arm", "p50", "us", "p90", "us", "p99", "us", "x", "C", "CPU", "us/wake", "lost"]
    (row,) = rows_of(at.shown, "process/epoll_oneshot ")
    assert max(len(row), len(head)) <= 80
    wide = run_launcher("bench", "--show", str(folder / "lost.jsonl")).stdout
    names = rows_of(wide, "arm ")[0].replace(" us", "").replace("x C", "xC").replace(" MiB", "").split()
    cells = dict(zip(names, rows_of(wide, "process/epoll_oneshot ")[0].split(), strict=True))
    assert row.split() == [cells[name] for name in ("arm", "p50", "p90", "p99", "xC", "CPU/wake", "lost")]
    assert "too narrow for n, p99.9 us, max us, switches/wake, PSS MiB, late" in at.shown.decode()


@pytest.mark.parametrize("columns", [None, 80])
def test_names_of_any_length_cost_no_number(folder: Path, columns: int | None) -> None:
    args = ("duel", "--show", str(folder / "duel.jsonl"))
    if columns is None:
        shown = run_launcher(*args).stdout
    else:
        with session(*args, env=environment(COLUMNS=str(columns), NO_COLOR="1")) as at:
            assert at.finish() == 2
        shown = at.shown
    (row,) = [line for line in rows_of(shown, "process/") if " p50  " in line]
    assert f"{LONG},payload=8" in row
    assert " % .. +" in row
    assert row.strip().endswith(" regressed")
    assert "…" not in shown.decode()


@pytest.mark.parametrize("args", [("duel", "--show", "duel.jsonl"), ("export", "bench.jsonl", "--format", "github")])
def test_what_the_locale_cannot_say_is_shown_by_its_number(args: Sequence[str], folder: Path) -> None:
    done = run_launcher(*args, env=environment(PYTHONIOENCODING="ascii"), cwd=folder)
    assert (done.returncode, done.stderr) == (2 if args[0] == "duel" else 0, b"")
    if args[0] == "duel":
        assert b"more breaks: 1 \\u2192 2 per ring" in done.stdout
    else:
        assert json.loads(done.stdout)[0]["range"].startswith("\u00b1 ")


@pytest.mark.parametrize("arms", [("thread/spin'", "thread/spin", "fork/poll"), ("fork/poll", "thread/spin")])
def test_the_duel_that_a_table_suggests_can_be_fought(
    arms: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of a duel's own receipts, too, in which two arms are the same thing."""
    rounds = duel({arm: 0.1 * at for at, arm in enumerate(arms)}, blocks=8)
    defaults = get("wake").defaults()
    made = [replace(round_, waker=round_.arm.rstrip("'"), parameters=defaults) for round_ in rounds]
    path = store(tmp_path / "x.jsonl", made, Run("launcher duel", "duel", {}))
    assert main(["bench", "--show", str(path)]) == 0
    then = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    base, head = begun(then, monkeypatch)
    assert {base.waker, head.waker} == {"fork/poll", "thread/spin"}
    assert base.parameters == head.parameters == defaults


def test_what_to_do_next_is_said_as_the_program_was_called(folder: Path) -> None:
    env = environment(LAUNCHER_PROGRAM="./my scripts/launcher")
    annotated = run_launcher(*COMMANDS["duel"][0], "--github", env=env, cwd=folder)
    assert annotated.stderr.endswith(b"%0A'./my scripts/launcher' duel A B --seed 7\n")
    for name in ("bench", "duel", "compare"):
        done = run_launcher(*COMMANDS[name][0], env=env, cwd=folder)
        assert done.stdout.splitlines()[-1].startswith(b"next: './my scripts/launcher' ")
    refused = run_launcher("bench", "--nix", env=env)
    assert only_sentence(refused.stderr).endswith("(see './my scripts/launcher' --help)")


def test_the_script_says_how_it_was_called(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/launcher", tmp_path / "scripts/launcher")
    for path, line in (("scripts/setup", "true"), (".venv/bin/python", 'echo "$LAUNCHER_PROGRAM:" "$@"')):
        (tmp_path / path).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / path).chmod(0o755)
    done = subprocess.run(["./scripts/launcher", "bench"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "./scripts/launcher: -P -m launcher bench\n"
