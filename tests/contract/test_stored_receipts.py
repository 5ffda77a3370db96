"""`launcher compare` and `launcher export` on files that are fine, and on files that are not: a sentence and a code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launcher.bench.duels import worktree
from launcher.bench.measure.cases import get
from launcher.bench.store.receipts import Round, Run, Usage, Writer
from launcher.cli import main
from tests.support.noise import duel, round_at
from tests.support.suggested import begun

HOST = {"architecture": "x86_64", "cpu": "a cpu", "cpus": 2, "virtualisation": "none", "nested": "no"}


def stored(path: Path, rounds: Sequence[Round], **host: str) -> str:
    with Writer.create(path, Run("launcher duel", "duel", HOST | host)) as writer:
        for round_ in rounds:
            writer.write(round_)
    return str(path)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return stored(tmp_path / "base.jsonl", duel({"A": 0.0}, blocks=30, seed=1))


@pytest.mark.parametrize(("shift", "code", "word"), [(0.0, 0, "not regressed"), (0.2, 2, "regressed")])
def test_compare_prints_a_table_and_returns_the_verdict(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: float, code: int, word: str
) -> None:
    head = stored(tmp_path / "head.jsonl", duel({"A": shift}, blocks=30, seed=2))
    assert main(["compare", base, head]) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split()[:4] == ["base", "head", "quantile", "n"]
    assert f"A against A: {word}: p50" in out
    assert "alpha 1 %" in out
    assert "not made side by side" in err
    assert main(["compare", "--json", base, head]) == code
    out, _ = capsys.readouterr()
    assert json.loads(out)["outcome"] == word


def test_noise_is_undecided_and_a_lost_wake_up_broken(base: str, tmp_path: Path) -> None:
    noisy = stored(tmp_path / "noisy.jsonl", duel({"A": 0.1}, blocks=30, spread=0.5, seed=2))
    assert main(["compare", base, noisy]) == 3
    lost = stored(tmp_path / "lost.jsonl", [round_at("A", 1, counts={"lost": 1}, lost_seqs=[3])])
    assert main(["compare", base, lost]) == 4


def test_of_many_arms_the_worst_is_named_and_the_alpha_is_the_one_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = get("wake").defaults() | {"idle_us": 1000.0}
    first, second = (duel({"A": 0.0, "B": shift, "C": 0.0}, blocks=30, seed=seed) for seed, shift in ((1, 0), (2, 0.2)))
    base = stored(tmp_path / "base.jsonl", [replace(one, parameters=own) for one in first], git="0123456789ab")
    head = stored(tmp_path / "head.jsonl", [replace(one, parameters=own) for one in second])
    assert main(["compare", base, head, "--alpha", "2"]) == 2
    *_, asked, worst, then = capsys.readouterr().out.splitlines()
    assert asked.startswith("alpha 2 % ")
    assert asked.endswith("; 3 arms share alpha")
    assert worst == "the worst decides: B: regressed"
    then_words = "launcher duel process/select --against 0123456789ab --case wake --engine python --set idle_us=1000"
    assert then.startswith(f"next: {then_words}")
    with monkeypatch.context() as patched:
        patched.setattr(worktree, "resolve", str)
        patched.setattr(worktree, "checked_out", lambda _commit: nullcontext(tmp_path))
        assert [side.parameters for side in begun(then.removeprefix("next: "), patched)] == [own, own]
    assert main(["compare", base, head, "--json"]) == 2
    line = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["worst"], line["alpha"]) == ("compare", "B", 0.01)
    assert "next: " + line["next"] == then
    assert line["receipts"] == [base, head]


@pytest.mark.parametrize(
    ("waker", "is_of_head", "then"),
    [
        ("process/select", True, "check --waker process/select --engine python"),
        ("process/select", False, "bench --show {base}"),
        ("spin/direct", True, "doctor"),
    ],
)
def test_what_is_broken_is_looked_at_where_it_broke(
    waker: str, *, is_of_head: bool, then: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = [replace(round_, waker=waker) for round_ in duel({"A": 0.0}, blocks=30)]
    lost = [*fine[:-1], replace(fine[-1], lost_seqs=[3], counts={**fine[-1].counts, "lost": 1})]
    base = stored(tmp_path / "base.jsonl", fine if is_of_head else lost)
    head = stored(tmp_path / "head.jsonl", lost if is_of_head else fine)
    assert main(["compare", base, head]) == 4
    assert capsys.readouterr().out.splitlines()[-1] == f"next: launcher {then.format(base=base)}"


@pytest.mark.parametrize("git", ["0123abc+changes", "--help", "0123456789ab"])
def test_without_another_revision_there_is_no_duel_against_it(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], git: str
) -> None:
    old = stored(tmp_path / "old.jsonl", duel({"A": 0.0}, blocks=30, seed=1), git=git)
    head = stored(tmp_path / "head.jsonl", duel({"A": 0.2}, blocks=30, seed=2), git="0123456789ab")
    assert main(["compare", old, head]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "next: launcher doctor --aa"
    assert main(["compare", old, base]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: launcher export {base} --format benchfmt"


@pytest.mark.parametrize(("cpu_us", "code", "word"), [(10, 0, "the same"), (20, 2, "more: CPU time (10,000 →")])
def test_what_is_idle_is_compared_by_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cpu_us: int, code: int, word: str
) -> None:
    def idle(name: str, us: int, n: int = 20) -> str:
        usage = [Usage("launcher", us * 1000, 2, 0, 20 << 20)]
        none = np.empty(0, dtype=np.int64)
        counts = {"served": 1, "spurious": 0}
        rounds = [
            round_at("A", block, case="idle", latencies_ns=none, counts=counts, usage=usage) for block in range(n)
        ]
        return stored(tmp_path / name, rounds)

    assert main(["compare", idle("base.jsonl", 10), idle("head.jsonl", cpu_us)]) == code
    assert f"by what it costs, {word}" in capsys.readouterr().out
    assert main(["compare", idle("two.jsonl", 10, n=2), idle("other.jsonl", 10, n=2)]) == 3
    assert "A: 2 rounds a side are too few at this level: measure more of them" in capsys.readouterr().out


def test_a_larger_delta_allows_more(base: str, tmp_path: Path) -> None:
    head = stored(tmp_path / "head.jsonl", duel({"A": 0.1}, blocks=30, seed=2))
    assert main(["compare", base, head]) == 2
    assert main(["compare", "--delta", "20%", base, head]) == 0


@pytest.mark.parametrize("delta", ["0", "-1", "nan", "much", "101", "50", "50%"])
@pytest.mark.parametrize("option", ["delta", "alpha"])
def test_a_delta_or_alpha_that_is_none_is_refused(
    base: str, capsys: pytest.CaptureFixture[str], option: str, delta: str
) -> None:
    assert main(["compare", base, base, f"--{option}={delta}"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


NEWER = b'{"schema":9,"kind":"run","run":{}}\n'


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"name,value\n1,2\n", "is no receipt"),
        (b'{"schema":1,"kind":"run","ru', "was cut off within its first line"),
        (NEWER, "has schema 9 and this launcher reads up to 1"),
        (None, "No such file"),
    ],
    ids=["empty", "foreign", "truncated", "newer", "absent"],
)
@pytest.mark.parametrize("command", ["compare", "export", "bench", "duel"])
def test_a_bad_file_is_one_sentence(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, data: bytes | None, sentence: str
) -> None:
    path = tmp_path / "bad.jsonl"
    if data is not None:
        path.write_bytes(data)
    ways = {"compare": [base, str(path)], "export": [str(path), "--format", "csv"]}
    assert main([command, *ways.get(command, ["--show", str(path)])]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert sentence in err
    assert "bad.jsonl" in err


def test_nothing_in_common_is_nothing_measured(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", base, stored(tmp_path / "head.jsonl", [])]) == 5
    assert "no rounds in common" in capsys.readouterr().err


def test_a_torn_last_line_is_noted_and_the_rest_used(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(base)
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["export", base, "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 30
    assert "line 31 was cut off; the 29 rounds before it are used" in err


def test_an_export_goes_to_a_file_as_it_is(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "out.csv"
    assert main(["export", base, "--format", "csv", "-o", str(to)]) == 0
    assert capsys.readouterr() == ("", "")
    assert to.read_bytes().count(b"\r\n") == 31


def test_an_export_takes_nothing_away(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(base).read_bytes()
    for taken in (base, str(tmp_path)):
        assert main(["export", base, "--format", "csv", "-o", taken]) == 1
        assert capsys.readouterr() == ("", f"launcher: {taken} is there already; name another file, or remove it\n")
    assert Path(base).read_bytes() == before
    assert main(["export", base, "--format", "csv", "-o", "/dev/full"]) == 1
    assert capsys.readouterr() == ("", "launcher: /dev/full cannot be written: No space left on device\n")
    assert main(["export", base, "--format", "csv", "-o", "/dev/null"]) == 0


def test_a_format_that_there_is_not_is_named(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", base, "--format", "xml"]) == 1
    assert "no format 'xml' (there is benchfmt, csv, github, pyperf)" in capsys.readouterr().err
    assert main(["export", base]) == 1
    assert "say which with --format (there is benchfmt, csv, github, pyperf)" in capsys.readouterr().err
