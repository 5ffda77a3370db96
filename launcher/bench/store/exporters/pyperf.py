"""pyperf JSON (format 1.0), for `python -m pyperf compare_to BASE HEAD`.

Each arm and quantile is a benchmark, each round a run with one value in seconds. Two files are compared by the names of
the benchmarks, so the names are those of the arms.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

from launcher.bench.stats import quantiles
from launcher.bench.store import exporters
from launcher.bench.store.receipts import Receipts, Round


def export(receipts: Receipts) -> str:
    """Return a suite of benchmarks."""
    benchmarks = []
    for arm, rounds in exporters.of_each_arm(receipts):
        for p in exporters.common_quantiles(rounds):
            # pyperf refuses what is not above zero.
            runs = [{"metadata": _when(round_), "values": [max(found[p], 1.0) / 1e9]} for round_, found in rounds]
            benchmarks.append({"metadata": {"name": f"{rounds[0][0].case}: {arm} {quantiles.name(p)}"}, "runs": runs})
    metadata = {"unit": "second", "loops": 1, **_host(receipts)}
    return json.dumps({"version": "1.0", "metadata": metadata, "benchmarks": benchmarks}, indent=1) + "\n"


def _when(round_: Round) -> dict[str, Any]:
    known: dict[str, Any] = {"duration": max(round_.duration_ns, 1) / 1e9}
    with suppress(ValueError):  # a date that is none: pyperf would refuse the file
        known["date"] = f"{datetime.fromisoformat(round_.started):%Y-%m-%d %H:%M:%S}"
    return known


def _host(receipts: Receipts) -> dict[str, Any]:
    """Return of the provenance what pyperf has a name for."""
    host = receipts.run.host
    names = {"cpu": "cpu_model_name", "kernel": "platform", "python": "python_version"}
    known: dict[str, Any] = {theirs: exporters.one_line(host[ours]) for ours, theirs in names.items() if ours in host}
    if type(host.get("cpus")) is int and host["cpus"] > 0:
        known["cpu_count"] = host["cpus"]
    return known
