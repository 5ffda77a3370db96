"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.sessions import PATIENCE_S, environment

TESTS = """
import sys
import pytest

def test_nothing_is_lost(waker_bench):
    bench = waker_bench("wake", waker="process/select", engine="python", rings=20, idle_us=300)
    bench.assert_nothing_lost()
    assert bench.round.counts["served"] == 40
    assert bench.round.parameters["idle_us"] == 300
    bench.assert_at_most("breaks", 1.0)
    bench.assert_at_most("switches", 1000)
    with pytest.raises(pytest.fail.Exception, match="switches per ring, more than 0"):
        bench.assert_at_most("switches", 0)
    with pytest.raises(pytest.fail.Exception, match="'nix' was not counted"):
        bench.assert_at_most("nix", 1)

def test_a_lost_one_is_found(waker_bench):
    bench = waker_bench("wake", waker="thread/select+drop=3", engine="python", rings=20, idle_us=2000, patience_s=0.5)
    with pytest.raises(pytest.fail.Exception, match="lost"):
        bench.assert_nothing_lost()

def test_what_cannot_run_is_skipped(waker_bench):
    waker_bench("vring", waker="fork/select", engine="python")

def test_an_engine_that_is_not_here_is_a_skip(waker_bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "unicorn", None)
    waker_bench("wake", engine="unicorn")

def test_what_there_is_not_is_an_error(waker_bench):
    waker_bench("nix")

def test_no_rings_at_all_prove_nothing(waker_bench):
    waker_bench("wake", engine="python", rings=0)

def test_without_rings_it_is_the_case_that_is_measured(waker_bench):
    bench = waker_bench("idle", engine="python", seconds=0.05)
    assert bench.round.counts["served"] == 1
    assert waker_bench("start", engine="python", pin="free").round.counts["served"] == 10

def test_per_ring_of_nothing_that_was_served_is_no_number(waker_bench):
    bench = waker_bench("wake", waker="thread/select+drop=1", engine="python", rings=9, warmup=0, patience_s=0.2)
    assert bench.round.counts["served"] == 0
    with pytest.raises(pytest.fail.Exception, match="no ring was served, and spurious per ring is nothing"):
        bench.assert_at_most("spurious", 1)
"""


def test_the_fixture_runs_a_case_and_asserts_counts(tmp_path: Path) -> None:
    (tmp_path / "test_wakes.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "launcher.bench.pytest_plugin", "-p", "no:cacheprovider", "-rs", "-q"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "2 failed, 4 passed, 2 skipped" in done.stdout, done.stdout
    assert "cannot run case vring" in done.stdout
    assert "engine 'unicorn' cannot run here: the package unicorn is not installed" in done.stdout
    assert "\ncase 'nix' is not known" in done.stdout
    assert "\n0 rings a round are too few" in done.stdout
    assert "raise " not in done.stdout  # no traceback through what runs it
    assert "During handling" not in done.stdout


def test_it_comes_with_the_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-q"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "waker_bench" in done.stdout
