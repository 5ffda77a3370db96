"""Exports are read by the tools they are for, or keep the grammar that those publish."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyperf
import pytest

from launcher.bench.store import exporters
from launcher.bench.store.receipts import NothingMeasured, Receipts, Run, Usage
from shared.errors import UsageError
from tests.support.noise import duel, round_at

HOST = {"architecture": "x86_64", "cpu": "a  cpu\nof two lines", "cpus": 2, "kernel": "6.1", "python": "3.11"}


def receipts(shift: float = 0.0, *, seed: int = 1, failed: bool = False) -> Receipts:
    rounds = duel({"process/select": shift, "c:direct": 0.0}, blocks=12, seed=seed)
    if failed:
        rounds.append(round_at("process/select", 12, ended='died: a, "b"\nc', latencies_ns=np.zeros(0, np.int64)))
    return Receipts(Path("a.jsonl"), Run("launcher bench", "bench", HOST), rounds, [])


def test_every_format_is_found_by_listing() -> None:
    assert {"benchfmt", "csv", "github", "pyperf"} <= set(exporters.names())
    with pytest.raises(UsageError, match="no format 'xml'"):
        exporters.export(receipts(), "xml")


@pytest.mark.parametrize("name", exporters.names())
def test_nothing_to_export_is_said(name: str) -> None:
    empty = Receipts(Path("a.jsonl"), Run("", "bench", {}), [round_at("A", 1, ended="hung")], [])
    with pytest.raises(NothingMeasured, match=r"a.jsonl has no round that ended well"):
        exporters.export(empty, name)


@pytest.mark.parametrize("name", exporters.names())
def test_odd_rounds_and_hosts_are_exported_too(name: str) -> None:
    rounds = [round_at("odd / arm=1", 1, n=1, started="?"), round_at("\u00e9", 1, latencies_ns=np.zeros(400, np.int64))]
    odd = Receipts(Path("a.jsonl"), Run("", "bench", {"cpus": "many", "cpu": [1]}), rounds, [])
    text = exporters.export(odd, name)
    if name == "pyperf":
        assert len(pyperf.BenchmarkSuite.loads(text)) == 3
    assert text


def test_pyperf_loads_and_compares_what_we_export(tmp_path: Path) -> None:
    for name, shift in (("base", 0.0), ("head", 0.5)):
        (tmp_path / name).write_text(exporters.export(receipts(shift, failed=True), "pyperf"))
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "base"))
    assert suite.get_benchmark_names() == [
        f"wake: {arm} {p}" for arm in ("process/select", "c:direct") for p in ("p50", "p90", "p99")
    ]
    p50 = suite.get_benchmark("wake: process/select p50")
    assert p50.get_nvalue() == 12
    assert p50.median() == pytest.approx(10e-6, rel=0.1)
    assert p50.get_unit() == "second"
    compared = subprocess.run(
        [sys.executable, "-m", "pyperf", "compare_to", "--table", str(tmp_path / "base"), str(tmp_path / "head")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    assert re.search(r"process/select p50 \|.*1\.5\dx slower", compared.stdout)


# golang.org/design/14313-benchmark-format, and golang.org/x/perf/benchfmt, its reader.
_KEY_VALUE = re.compile(r"[a-z][^\sA-Z:]*:[ \t]+\S.*")
_UNIT = re.compile(r"Unit \S+( [a-z]+=\S+)+")
_RESULT = re.compile(r"Benchmark[A-Z]\w*(/[^\s/=]+=[^\s/=]+)+-\d+ [1-9]\d*( \d[\d.e+-]* \S+)+")


def test_every_line_of_the_go_format_keeps_its_grammar() -> None:
    lines = exporters.export(receipts(failed=True), "benchfmt").splitlines()
    kinds = [[bool(kind.fullmatch(line)) for kind in (_KEY_VALUE, _UNIT, _RESULT)] for line in lines]
    assert all(sum(kind) == 1 for kind in kinds)
    assert [sum(column) for column in zip(*kinds, strict=True)] == [4, 3, 24]
    assert lines[3] == "cpu: a cpu of two lines"
    fields = lines[7].split()
    assert fields[0] == "BenchmarkWake/arm=process:select/engine=python/waker=process:select-2"
    assert fields[3::2] == ["p50-sec", "p90-sec", "p99-sec"]
    assert float(fields[2]) == pytest.approx(10e-6, rel=0.1)
    for line in lines[4:7]:
        assert line.endswith("-sec better=lower assume=nothing")


def test_the_github_format_has_a_name_a_unit_and_a_value() -> None:
    results = json.loads(exporters.export(receipts(), "github"))
    assert len(results) == 6
    assert results[0]["name"] == "wake: process/select p50"
    assert results[0]["unit"] == "ns"
    assert results[0]["value"] == pytest.approx(10_000, rel=0.05)
    assert results[0]["range"].startswith("± ")
    assert "12 rounds" in results[0]["extra"]


def test_a_csv_line_is_a_round_and_what_is_not_known_is_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(exporters.export(receipts(failed=True), "csv"), newline="")))
    assert len(rows) == 25
    assert rows[0]["arm"] == "process/select"
    assert float(rows[0]["p99_ns"]) > float(rows[0]["p50_ns"])
    assert rows[0]["p99.9_ns"] == ""
    assert rows[0]["count.lost"] == "0"
    assert rows[0]["launcher.cpu_ns"] == "2000000"
    assert rows[-1]["ended"] == 'died: a, "b"\nc'
    assert rows[-1]["p50_ns"] == rows[-1]["max_ns"] == ""


def test_what_shares_a_role_is_added_up_in_a_csv() -> None:
    usage = [
        Usage("waker", 1000, 10, 1, 100),
        Usage("waker", 200, 2, 3, None),
        Usage("launcher", 7, 1, 0, 50),
        Usage("launcher", 1, 0, 0, 20),
    ]
    two = Receipts(Path("a.jsonl"), Run("", "bench", {}), [round_at("A", 1, usage=usage)], [])
    (row,) = csv.DictReader(io.StringIO(exporters.export(two, "csv"), newline=""))
    assert [row[f"waker.{name}"] for name in ("cpu_ns", "voluntary", "involuntary")] == ["1200", "12", "4"]
    assert row["waker.pss_bytes"] == ""  # of one it is not known
    assert (row["launcher.cpu_ns"], row["launcher.pss_bytes"]) == ("8", "70")
