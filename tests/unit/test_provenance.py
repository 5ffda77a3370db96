"""What a receipt knows of the machine: what others did meanwhile, and what is inherited unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.bench.measure import provenance
from launcher.bench.measure.provenance import Ticks, environment


def test_what_a_machine_did_in_a_round_is_told_without_what_it_did_before() -> None:
    during = Ticks(idle=150, steal=7, all=260).since(Ticks(idle=100, steal=4, all=160))
    assert during == Ticks(50, 3, 100)
    counts = during.counts()
    assert counts["steal_us"] * 47 == counts["busy_us"] * 3 > 0


def test_ticks_go_on() -> None:
    before = Ticks.now()
    assert min(Ticks.now().since(before)) >= 0


def test_what_changes_how_python_runs_is_kept_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    monkeypatch.setenv("SECRET_TOKEN", "not for a receipt")
    found = environment()
    assert found["PYTHONMALLOC"] == "debug"
    assert "SECRET_TOKEN" not in found


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"a/b/cpu.max": "max 100000"}, None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ({"a/b/cpu.max": "50000 100000", "cpu.max": "200000 100000"}, 0.5),
        ({"a/b/cpu.max": "many", "a/cpu.max": "1 0", "cpu.max": "\u0664\ufffd 7"}, None),
        ({"a/b/cpu.max": "50000", "a/cpu.max": "1 2 3", "cpu.max": f"{10**400} 1"}, None),
    ],
)
def test_the_quota_is_the_least_of_all_groups_above(
    files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path.parent / "cpu.max").write_text("1 100000")  # beyond the root is nothing of ours
    monkeypatch.setattr(provenance, "_CGROUPS", tmp_path)
    monkeypatch.setattr(provenance, "_lines", lambda _path: ["4:memory:/x", "0::/a/b"])
    assert provenance.quota() == quota


def test_threads_of_one_core_are_told_from_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {"0": "0-1", "1": "0-1", "2": "2-3", "4": "", "5": ""}
    monkeypatch.setattr(provenance, "_word", lambda path: siblings[str(path).split("/cpu")[-1][0]])
    assert provenance.is_one_core([0, 1])
    assert not provenance.is_one_core([0, 2])
    assert not provenance.is_one_core([0])
    assert not provenance.is_one_core([4, 5])  # nobody says
