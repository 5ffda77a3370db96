"""What a receipt knows of the machine: what others did meanwhile, and what is inherited unseen."""

from __future__ import annotations

import pytest

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
