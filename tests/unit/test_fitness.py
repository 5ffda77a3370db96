"""doctor --aa: what identical arms show of a machine, and which gate is honest on it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launcher import cli
from launcher.bench import doctor
from launcher.bench.duels import fitness, fitness_command, worktree
from launcher.bench.duels.rota import Rota
from launcher.bench.judging import calibration
from launcher.bench.judging.verdict import Outcome
from launcher.bench.measure.cases import get
from launcher.bench.store.receipts import NotWritten, Round, Writer
from shared.errors import Interrupted, UsageError
from tests.support import noise


def identical(spread: float, blocks: int = 20) -> list[Round]:
    halves = [noise.duel({"A": 0, "A'": 0, "A''": 0}, blocks=blocks, spread=spread, seed=seed) for seed in (1, 2)]
    return [*halves[0], *(replace(round_, position=5 - round_.position) for round_ in halves[1])]


def test_a_quiet_machine_gets_a_gate(capsys: pytest.CaptureFixture[str]) -> None:
    report = fitness.examine(identical(0.01))
    assert report is not None
    assert report.is_fit
    assert report.false_alarms == 0
    gate = report.fitness[0]
    assert gate.gate is not None
    assert gate.gate < 0.1
    fitness_command.print_report(report)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"an honest gate here: {gate.sentence()}"
    assert "on p50 in" in shown[-1]
    # A minute is two windows that do not overlap, and the bounds say so.
    assert "2 lie apart: 95 % bounds 0.0 .. 84.2 %" in shown[0]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_machine_that_can_tell_nothing_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    report = fitness.examine(identical(3.0))
    assert report is not None
    assert not report.is_fit
    fitness_command.print_report(report)
    assert "no gate is honest here" in capsys.readouterr().out
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", ["heavy", "skewed"])
@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_what_a_duel_is_said_to_find_it_finds_however_noisy_the_machine_is(kind: str, spread: float) -> None:
    names, blocks = ("A", "A'", "A''"), 15  # a round is said to take a second: 15 blocks are a duel of 100 s
    noises = [noise.logs(np.random.default_rng(seed), blocks=600, arms=6, kind=kind, spread=spread) for seed in (1, 2)]
    measured = [
        noise.round_at(names[at % 3], block, noises[0][block, at], position=at)
        for block in range(20)
        for at in range(6)
    ]
    report = fitness.examine(measured)
    assert report is not None
    smallest = report.fitness[0].smallest
    assert smallest is not None
    # As if the machine had gone on like that for an hour: 40 duels next to each other.
    logs = {name: dict.fromkeys((0.5, 0.9, 0.99), noises[1][:, at::3]) for at, name in enumerate(names)}
    hour = calibration.Recording(logs, 600, 0, 6.0)

    def found(slowdown: float) -> float:
        rates = calibration.virtual_duels(hour, *names, blocks=blocks, duels=100, slowdown=slowdown)
        return rates.share(Outcome.REGRESSED)

    assert found(smallest) > 0.7  # the 95 % that are said, but for what a minute does not know of an hour
    assert found(smallest / 3) < 0.6  # it is not said of what is far more than that


def test_too_few_blocks_say_nothing() -> None:
    assert fitness.examine([]) is None
    assert fitness.examine(identical(0.01, blocks=3)) is None
    assert fitness.examine(identical(0.01)[:4]) is None  # not even a block


@pytest.mark.parametrize(("false_alarms", "is_fit"), [(0, True), (6, True), (7, False), (29, False)])
def test_a_gate_that_alarms_more_often_than_alpha_is_not_honest(
    false_alarms: int, *, is_fit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fitness.examine(identical(0.01))
    assert report is not None
    report = replace(report, false_alarms=false_alarms, duels=600)
    assert report.is_fit is is_fit
    assert report.to_json()["is_fit"] is is_fit
    fitness_command.print_report(report)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("an honest gate here" if is_fit else "no gate is honest here now: identical arms are told")


# ---- doctor --aa ----

QUIET, WILD = identical(0.01, blocks=10), identical(3.0, blocks=6)


def run_aa(
    rounds: list[Round], monkeypatch: pytest.MonkeyPatch, *args: str, was_interrupted: bool = False
) -> tuple[int, Rota]:
    """Run `doctor --aa` on rounds that are there already; return the exit code and the arms that it would have run."""
    asked: list[Rota] = []

    def record(rota: Rota, _seconds: float, _path: Path) -> tuple[list[Round], Interrupted | None]:
        asked.append(rota)
        return rounds, Interrupted("interrupted") if was_interrupted else None

    monkeypatch.setattr(fitness_command, "_record", record)
    monkeypatch.setattr(doctor, "_CHECKS", ())
    return cli.main(["doctor", "--aa", *args]), asked[0]


@pytest.mark.parametrize(
    ("rounds", "was_interrupted", "code"),
    [
        (QUIET, False, 0),
        (WILD, False, 3),
        ([*QUIET, noise.round_at("A", 99, counts={"lost": 1}, lost_seqs=[5])], False, 4),
        (QUIET[:18], False, 5),
        (QUIET, True, 130),
        (QUIET[:4], True, 130),
        ([], True, 130),
    ],
)
def test_each_end_has_its_exit_code(
    rounds: list[Round],
    *,
    was_interrupted: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_aa(rounds, monkeypatch, "--engine", "python", was_interrupted=was_interrupted)[0] == code
    out, err = capsys.readouterr()
    assert ("sequence number 5" in err) == (code == 4)
    assert ("give it more --seconds" in err) == (code == 5)
    then = out.splitlines()[-1].removeprefix("next: launcher ")
    cli.make_parser().parse_args(shlex.split(then))
    assert code != 4 or then == "check --waker process/select --engine python"
    assert code != 5 or then == "doctor --aa --engine python --seconds 150"
    assert run_aa(rounds, monkeypatch, "--engine", "python", "--json", was_interrupted=was_interrupted)[0] == code
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["kind"], last["exit_code"], last["next"]) == ("aa", code, f"launcher {then}")
    assert ("is_fit" in last) == (code in (0, 3) or rounds is QUIET)
    with suppress(OSError), open("/dev/full", "w") as full:  # which is flushed when it is closed
        monkeypatch.setattr(sys, "stdout", full)
        assert run_aa(rounds, monkeypatch, "--engine", "python", was_interrupted=was_interrupted)[0] == (code or 1)


def test_a_disk_that_is_full_throws_nothing_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_CHECKS", ())
    made = iter(QUIET)

    def write(_writer: Writer, _round: Round) -> None:
        raise NotWritten("doctor.jsonl: No space left on device")

    monkeypatch.setattr(Writer, "write", write)
    monkeypatch.setattr(Rota, "block", lambda *_: made)
    assert cli.main(["doctor", "--aa", "--engine", "python", "-o", str(tmp_path / "aa.jsonl")]) == 1
    assert (tmp_path / "aa.jsonl").exists()
    err = capsys.readouterr().err
    assert "1 rounds were measured" in err
    assert "nothing can be said" in err
    assert err.endswith("No space left on device\n")


def test_what_is_asked_for_is_measured_and_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worktree, "resolve", lambda _: "0" * 40)
    args = ("--case", "echo", "--waker", "thread/select", "--engine", "python", "-o", "aa.jsonl", "--json")
    code, rota = run_aa(QUIET, monkeypatch, *args)
    assert (code, rota.case.name) == (0, "echo")
    assert {(side.waker, side.engine) for side in rota.sides} == {("thread/select", "python")}
    line = json.loads(capsys.readouterr().out)
    assert line["receipts"] == "aa.jsonl"
    then = "launcher duel thread/select --against HEAD --case echo --engine python --seconds"
    assert line["next"].rpartition(" ")[0] == then
    assert (line["low"], line["high"] > 0.8) == (0, True)
    run_aa(QUIET, monkeypatch)
    assert re.search(r"\nnext: launcher duel --against HEAD --seconds \d+\n$", capsys.readouterr().out)
    run_aa(WILD, monkeypatch)
    shown = capsys.readouterr().out
    assert shown.endswith("\nnext: launcher doctor\n")
    assert shown.count("next: ") == 1


def test_in_an_installed_package_the_next_command_is_a_duel_of_two_wakers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(revision: str) -> str:
        raise UsageError(f"{revision} is in no repository")

    monkeypatch.setattr(worktree, "resolve", refuse)
    run_aa(QUIET, monkeypatch, "--engine", "python")
    then = capsys.readouterr().out.splitlines()[-1].removeprefix("next: launcher ")
    asked = cli.make_parser().parse_args(shlex.split(then))
    first, second = asked.wakers
    assert (first, asked.engine, asked.against) == ("process/select", "python", None)
    assert get("wake").why_not(second, "python") is None
    assert second != first


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seconds", "5"], "are for --aa"),
        (["--engine", "python"], "are for --aa"),
        (["-o", "x"], "are for --aa"),
        (["--aa", "-o", "/proc/nix/x"], "/proc/nix/x cannot be made: "),
        (["--aa", "-o", "/"], "/ is there already; name another file, or remove it"),
        (["--case", "wake"], "are for --aa"),
        (["--waker", "process/select"], "are for --aa"),
        (["--aa", "--case", "idle"], "case idle has no times to speak of"),
        (["--aa", "--case", "nix"], "case 'nix' is not known"),
        (["--aa", "--waker", "process/nix"], "waker 'process/nix' is not known"),
        (["--aa", "--engine", "nix"], "engine 'nix' is not known"),
    ],
)
def test_what_cannot_be_is_refused(
    args: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_CHECKS", ())
    assert cli.main(["doctor", *args]) == 1
    assert words in capsys.readouterr().err
