"""The calibration script and doctor --aa: recordings that can be gone on with, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launcher.bench import calibrate, calibration, fitness, recording
from launcher.bench.cases import get
from launcher.bench.receipts import Round, read
from launcher.bench.sides import Side
from launcher.bench.verdict import Outcome
from tests.support import noise
from tests.support.sessions import environment

ARMS = recording.Arms(
    10_000.0, dict.fromkeys(("A", "A'", "A+5%", "A+10%"), "process/select"), "python", {}, rings=400, seed=5
)
SHIFTS = {"A": 0.0, "A'": 0.0, "A+5%": 0.05, "A+10%": 0.10}


def recorded(path: Path, blocks: int = 60) -> list[Round]:
    rounds: list[Round] = noise.duel(SHIFTS, blocks=blocks, spread=0.02, seed=8)
    with recording.create(path, get("wake"), ARMS, "scripts/calibrate") as writer:
        for round_ in rounds:
            writer.write(recording.slim(round_))
    return rounds


def test_what_is_kept_of_a_round_is_small_and_as_good() -> None:
    rng = np.random.default_rng(1)
    times = (40_000 * np.exp(rng.normal(0, 0.3, 1000))).astype(np.int64)
    small = recording.rounded(times)
    assert np.abs(small / times - 1).max() <= 1 / 512
    assert recording.rounded(np.array([0, 1, 511, 512, 513])).tolist() == [0, 1, 511, 512, 514]
    round_ = recording.slim(noise.round_at("A", 0))
    assert round_.usage == []
    assert list(round_.latencies_ns) == sorted(round_.latencies_ns)


def test_the_arms_are_in_the_head_and_their_slowdown_is_measured(tmp_path: Path) -> None:
    recorded(tmp_path / "calibration.jsonl")
    stored = read(tmp_path / "calibration.jsonl")
    assert recording.arms_of(stored) == ("wake", ARMS)
    found, interval = recording.achieved(stored.rounds, "A+10%")
    assert interval.low < np.log(1.1) < interval.high
    assert interval.low < found < interval.high


def test_receipts_of_something_else_are_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with noise_file(tmp_path / "other.jsonl"):
        pass
    assert calibrate.main(["--minutes", "0", "--real", "0", "-o", str(tmp_path / "other")]) == 1
    assert "not a calibration" in capsys.readouterr().err


def noise_file(path: Path) -> recording.Writer:
    return recording.Writer.create(path, recording.Run("launcher bench", "bench", {}))


def test_a_stored_calibration_is_judged_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "calibration.jsonl")
    duels = [{"head": "A+5%", "outcome": outcome, "seconds": 90.0} for outcome in ("regressed", "cannot tell")]
    text = "".join(json.dumps(line) + "\n" for line in duels)
    (tmp_path / "calibration-duels.jsonl").write_text(text + '{"head": "A+10%", "outc')  # cut off
    args = ["--minutes", "0", "--real", "0", "--duels", "30", "-o", str(tmp_path / "calibration")]
    assert calibrate.main(args) == 0
    shown = capsys.readouterr().out
    rows = {tuple(line.split()[:3]): line for line in shown.splitlines() if line.startswith("A")}
    assert "met" in rows["A'", "30", "virtual"]
    assert "NOT MET" not in rows["A'", "30", "virtual"]
    assert "100.0 %" in rows["A+10%", "30", "virtual"]
    assert "NOT MET" in rows["A+5%", "2", "real"]  # 1 of 2
    assert "A+10% (process/select): p50 +" in shown
    assert len(rows) == 4 + 1  # and the heading


@pytest.mark.parametrize("more", [("--minutes", "90", "--real", "0"), ("--minutes", "0", "--real", "1")])
def test_a_recording_of_another_machine_is_read_and_not_gone_on_with(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calibration.jsonl"
    recorded(path)
    head, rest = path.read_bytes().split(b"\n", 1)
    cpu = json.loads(head)["run"]["host"]["cpu"]
    stranger = head.replace(json.dumps(cpu).encode(), b'"of somebody else"') + b"\n" + rest
    path.write_bytes(stranger)
    assert calibrate.main([*more, "--duels", "5", "-o", str(tmp_path / "calibration")]) == 1
    assert "was begun on another machine (cpu: of somebody else and" in capsys.readouterr().err
    assert path.read_bytes() == stranger
    args = ["--minutes", "0", "--real", "0", "--duels", "5", "-o", str(tmp_path / "calibration")]
    assert calibrate.main(args) == 0


def test_a_recording_is_begun_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "calibration.jsonl"
    side = Side("A", "python", "spin/direct", {**get("wake").defaults(), "warmup": 0})
    arms = recording.Arms(1.0, {"A": side.waker, "A'": side.waker}, "python", dict(side.parameters), rings=30, seed=5)
    rounds: list[Round] = []
    with recording.create(path, get("wake"), arms, "x") as writer:
        recording.go_on(arms.rota(get("wake")), writer, rounds, 0.01)
    writer, stored = recording.Writer.resume(path)
    with writer:
        recording.go_on(arms.rota(get("wake")), writer, stored.rounds, 0.01)
    blocks = [round_.block for round_ in read(path).rounds]
    assert blocks == [0] * 4 + [1] * 4
    assert {round_.counts["lost"] for round_ in read(path).rounds} == {0}


def test_real_duels_are_fought_until_there_are_enough_of_each_pair(tmp_path: Path) -> None:
    parameters = {**get("wake").defaults(), "warmup": 0}
    wakers = dict.fromkeys(("A", "A'", "A+5%", "A+10%"), "spin/direct")
    arms, path = recording.Arms(1.0, wakers, "python", parameters, rings=30, seed=5), tmp_path / "duels.jsonl"
    path.write_text('{"head": "A\'", "outcome": "not regressed", "seconds": 9}\n{"head": "A+5%", "outc')
    for _ in range(2):  # the second time there is nothing to do
        calibrate.fight(get("wake"), arms, path, 1, seconds=0.1)
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    found = [json.loads(line) for line in lines]
    assert [line["head"] for line in found] == ["A'", "A+5%", "A+10%"]
    assert [found[1]["plan"][arm] for arm in ("base", "head", "control")] == ["A", "A+5%", "A''"]
    assert found[1]["outcome"] == "cannot tell"  # two pairs are too few for anything


def test_the_script_says_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.bench.calibrate", "--help"], env=environment(), capture_output=True, check=True
    )
    for option in (b"--minutes", b"--real", b"--duels"):
        assert option in done.stdout


# ---- doctor --aa ----


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
    fitness.print_report(report)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2] == f"an honest gate here: {gate.sentence()}"
    assert "on p50 in" in shown[-2]
    assert shown[-1].startswith("next: launcher duel ")
    json.dumps(report.to_json(), allow_nan=False)


def test_a_machine_that_can_tell_nothing_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    report = fitness.examine(identical(3.0))
    assert report is not None
    assert not report.is_fit
    fitness.print_report(report)
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


def test_seconds_are_for_aa_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from launcher import cli

    assert cli.main(["doctor", "--seconds", "5"]) == 1
    assert "--aa" in capsys.readouterr().err
