"""The calibration script: recordings that can be gone on with, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from launcher.bench.duels import calibrate, real_duels, recording
from launcher.bench.duels.sides import Side
from launcher.bench.measure.cases import get
from launcher.bench.store.receipts import Round, Run, Writer, read
from shared.errors import LabError
from tests.support import noise
from tests.support.sessions import ROOT, environment

ARMS = recording.Arms(
    10_000.0, dict.fromkeys(("A", "A'", "A+5%", "A+10%"), "process/select"), "python", {}, rings=400, seed=5
)
SHIFTS = {"A": 0.0, "A'": 0.0, "A+5%": 0.05, "A+10%": 0.10}


class Judged(NamedTuple):
    """What the script said of a stored recording."""

    code: int
    rows: dict[tuple[str, ...], str]
    out: str
    err: str


def recorded(path: Path, blocks: int = 60, shifts: dict[str, float] = SHIFTS) -> list[Round]:
    rounds: list[Round] = noise.duel(shifts, blocks=blocks, spread=0.02, seed=8)
    with recording.create(path, get("wake"), ARMS) as writer:
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


def noise_file(path: Path) -> Writer:
    return Writer.create(path, Run("launcher bench", "bench", {}))


JUDGE = ("--minutes", "0", "--real", "0", "--duels", "30")


def duels_of(head: str, count: int, outcome: str, seconds: float = 90.0) -> str:
    return count * (json.dumps({"head": head, "outcome": outcome, "seconds": seconds}) + "\n")


ALL_FOUGHT = (
    duels_of("A'", 10, "not regressed") + duels_of("A+5%", 10, "regressed") + duels_of("A+10%", 10, "regressed")
)


def judged(tmp_path: Path, duels: str, capsys: pytest.CaptureFixture[str], shifts: dict[str, float] = SHIFTS) -> Judged:
    recorded(tmp_path / "calibration.jsonl", shifts=shifts)
    (tmp_path / "calibration-duels.jsonl").write_text(duels)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = calibrate.main([*JUDGE, "-o", str(tmp_path / "calibration")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    out, err = capsys.readouterr()
    rows = {tuple(line.split()[:3]): line for line in out.splitlines() if line.startswith("A")}
    return Judged(code, rows, out, err)


def test_a_stored_calibration_is_judged_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(tmp_path, ALL_FOUGHT + '{"head": "A+10%", "outc', capsys)  # cut off
    assert (found.code, found.err) == (0, "")
    assert len(found.rows) == 6 + 1  # and the heading
    assert all("  met  " in row for row in list(found.rows.values())[1:])
    assert "100.0 %" in found.rows["A+10%", "30", "virtual"]
    assert "A+10% (process/select): p50 +" in found.out


@pytest.mark.parametrize(
    ("duels", "row", "state"),
    [
        (ALL_FOUGHT + duels_of("A'", 1, "regressed"), ("A'", "11", "real"), "NOT MET"),
        (ALL_FOUGHT + duels_of("A+5%", 2, "cannot tell"), ("A+5%", "12", "real"), "NOT MET"),
        (ALL_FOUGHT + duels_of("A+5%", 1, "regressed", 121.0), ("A+5%", "11", "real"), "TOO LONG"),
        (ALL_FOUGHT.split("\n", 6)[-1], ("A'", "4", "real"), "met so far (4 of 10)"),
    ],
)
def test_what_is_missed_or_too_little_or_takes_too_long_is_undecided(
    duels: str, row: tuple[str, ...], state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(tmp_path, duels, capsys)
    assert found.code == 3
    assert f" {state}  " in found.rows[row]


def test_a_target_that_virtual_duels_miss_is_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(tmp_path, ALL_FOUGHT, capsys, {"A": 0.0, "A'": 0.0, "A+5%": 0.01, "A+10%": 0.10})
    assert found.code == 3
    assert "NOT MET" in found.rows["A+5%", "30", "virtual"]


def test_pairs_of_arms_that_nobody_fought_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(tmp_path, duels_of("A'", 10, "not regressed"), capsys)
    assert found.code == 3
    assert "no duels of A against A+5% (real), A+10% (real): record more (--minutes), or fight some" in found.err


def test_a_wake_up_that_was_lost_in_a_real_duel_or_in_the_recording_is_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"head": "A'", "outcome": "broken", "seconds": 3, "sentence": "A': 1 wake-up lost\x1b[2J"}
    found = judged(tmp_path, ALL_FOUGHT + json.dumps(line) + "\n", capsys)
    assert found.code == 4
    assert r"a real duel of A against A': A': 1 wake-up lost\x1b[2J" in found.out
    path = tmp_path / "other.jsonl"
    recorded(path, blocks=1)
    writer, _ = Writer.resume(path)
    with writer:
        writer.write(noise.round_at("A'", 1, counts={"lost": 1}, lost_seqs=[7]))
    assert calibrate.main([*JUDGE, "-o", str(path)]) == 4
    with suppress(OSError), open("/dev/full", "w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        assert calibrate.main([*JUDGE, "-o", str(path)]) == 4  # whoever reads
    assert "1 wake-up lost (sequence number 7)" in capsys.readouterr().out


def test_a_recording_without_a_round_is_nothing_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "calibration.jsonl", blocks=0)
    assert calibrate.main([*JUDGE, "-o", str(tmp_path / "calibration")]) == 5
    assert "there are no duels yet" in capsys.readouterr().err


def test_windows_of_a_recording_that_is_too_short_for_a_duel_prove_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "calibration.jsonl", blocks=20)
    (tmp_path / "calibration-duels.jsonl").write_text(ALL_FOUGHT)
    assert calibrate.main([*JUDGE, "-o", str(tmp_path / "calibration")]) == 3
    assert "met so far (a duel has 15 blocks)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--minutes", "x"], "'x' is not a number between 0 and"),
        (["--minutes", "nan"], "'nan' is not a number"),
        (["--real", "-1"], "'-1' is not a number"),
        (["--duels", "0"], "'0' is not a number between 1 and"),
        (["--nix"], "--nix"),
        (["--minutes", "0", "-o", "nix/calibration"], "nix/calibration.jsonl is not there"),
        (["--minutes", "0", "--real", "0", "-o", "nix/calibration"], "No such file"),
        (["-o", "/proc/calibration", "--waker", "process/nix"], "waker 'process/nix' is not known"),
        (["--case", "nix", "-o", "nix"], "case 'nix' is not known"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_never_the_exit_code_of_a_regression(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert calibrate.main(args) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_its_help_is_its_own_however_the_launcher_is_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCHER_PROGRAM", "./scripts/launcher")
    assert calibrate.main(["--nix"]) == 1
    assert capsys.readouterr().err.endswith("(see scripts/calibrate --help)\n")


def test_a_recording_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "choose_arms", lambda *_: ARMS)
    assert calibrate.main(["--waker", "spin/direct", "--engine", "python", "-o", "/proc/nix/calibration"]) == 1
    assert "/proc/nix" in capsys.readouterr().err
    (tmp_path / "calibration.jsonl").mkdir()
    assert calibrate.main([*JUDGE, "-o", str(tmp_path / "calibration")]) == 1
    assert "Is a directory" in capsys.readouterr().err


WAKERS = dict.fromkeys(ARMS.wakers, "process/select")


@pytest.mark.parametrize(
    "wrong",
    [
        {"wakers": 7},
        {"wakers": {}},
        {"wakers": WAKERS | {"A'": 7}},
        {"wakers": WAKERS | {"A'": "\x1b[2J"}},
        {"wakers": WAKERS | {"B": "process/select"}},
        {"engine": ["kvm"]},
        {"parameters": None},
        {"parameters": {"pin": "\x1b"}},
        {"rings": 0},
        {"rings": 10**400},
        {"rings": True},
        {"seed": "5"},
        {"p50_ns": 0.0},
        {"p50_ns": 10**400},
        {"case": 7},
    ],
)
def test_arms_that_cannot_be_are_refused(
    wrong: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calibration.jsonl"
    held = {"case": "wake", **asdict(ARMS), **wrong}
    Writer.create(path, Run("x", "calibration", {"calibration": held})).close()
    assert calibrate.main([*JUDGE, "-o", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("wrong", [{"arm": "B"}, {"case": "echo"}, {"duration_ns": 0}])
def test_rounds_that_a_calibration_cannot_have_are_refused(
    wrong: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calibration.jsonl"
    recorded(path, blocks=1)
    writer, _ = Writer.resume(path)
    with writer:
        writer.write(noise.round_at(**({"arm": "A", "block": 1} | wrong)))
    assert calibrate.main([*JUDGE, "-o", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "7",
        "{}",
        '{"head": "A\'", "outcome": "regressed"}',
        '{"head": "A\'", "outcome": "regressed", "seconds": NaN}',
        f'{{"head": "A\'", "outcome": "regressed", "seconds": {10**400}}}',
        '{"head": "A\'", "outcome": ["regressed"], "seconds": 1}',
        '{"head": ["A"], "outcome": "regressed", "seconds": 1}',
        '{"head": "B", "outcome": "regressed", "seconds": 1}',
    ],
)
def test_lines_that_are_no_duels_are_refused(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(tmp_path, f"{ALL_FOUGHT}{line}\n", capsys)
    assert found.code == 1
    assert "calibration-duels.jsonl, line 31 is no duel of a calibration" in found.err


def test_bytes_that_are_no_text_are_a_duel_that_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "calibration"
    recorded(tmp_path / "calibration.jsonl")
    (tmp_path / "calibration-duels.jsonl").write_bytes(b"\xff\xfe" + ALL_FOUGHT.encode())
    assert calibrate.main([*JUDGE, "-o", str(path)]) == 3  # one of 10 is no duel
    assert "met so far (9 of 10)" in capsys.readouterr().out


def test_the_calibration_that_is_published_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    stored = [ROOT / "data/calibration.jsonl", ROOT / "data/calibration-duels.jsonl"]
    before = [path.stat().st_mtime_ns for path in stored]
    assert calibrate.main([*JUDGE, "-o", str(ROOT / "data/calibration")]) == 0
    assert "met so far" not in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in stored] == before


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
    (tmp_path / "calibration-duels.jsonl").write_text(ALL_FOUGHT)
    assert calibrate.main([*JUDGE, "-o", str(path)]) == 0


def test_of_rounds_that_do_not_end_no_p50_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = noise.round_at("A", 0, n=2, ended="hung", counts={"dropped": 1})
    monkeypatch.setattr("launcher.bench.duels.rota.run_round", lambda _plan: hung)
    with pytest.raises(LabError, match="hung: there is nothing to calibrate with"):
        recording.choose_arms(get("wake"), Side("A", "python", "process/select", get("wake").defaults()), 5)


def test_a_recording_is_begun_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "calibration.jsonl"
    side = Side("A", "python", "spin/direct", {**get("wake").defaults(), "warmup": 0})
    arms = recording.Arms(1.0, {"A": side.waker, "A'": side.waker}, "python", dict(side.parameters), rings=30, seed=5)
    rounds: list[Round] = []
    with recording.create(path, get("wake"), arms) as writer:
        recording.go_on(arms.rota(get("wake")), writer, rounds, 0.01)
    writer, stored = Writer.resume(path)
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
        real_duels.fight(get("wake"), arms, path, 1, seconds=0.1)
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    found = [json.loads(line) for line in lines]
    assert [line["head"] for line in found] == ["A'", "A+5%", "A+10%"]
    assert [found[1]["plan"][arm] for arm in ("base", "head", "control")] == ["A", "A+5%", "A''"]
    assert found[1]["outcome"] == "cannot tell"  # two pairs are too few for anything


def test_the_script_says_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.bench.duels.calibrate", "--help"],
        env=environment(),
        capture_output=True,
        check=True,
    )
    for option in (b"--minutes", b"--real", b"--duels"):
        assert option in done.stdout
