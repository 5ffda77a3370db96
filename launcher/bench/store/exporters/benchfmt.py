"""Go's benchmark format, for `benchstat BASE HEAD`.

Grammar (golang.org/design/14313-benchmark-format and golang.org/x/perf/benchfmt): lines `key: value` whose key begins
with a lower-case letter and has neither blanks nor upper case; lines `Unit NAME key=value`; lines `BenchmarkName
COUNT VALUE UNIT ...`. A name's parts are divided by `/`, each `key=value`; it ends in `-N`, the number of processors.
One line is one observation: here, a round.
"""

from __future__ import annotations

import re

from launcher.bench.stats import quantiles
from launcher.bench.store import exporters
from launcher.bench.store.receipts import Receipts, Round


def export(receipts: Receipts) -> str:
    """Return the lines."""
    host = receipts.run.host
    lines = [
        f"{key}: {exporters.one_line(host[name])}"
        for name, key in (("architecture", "goarch"), ("cpu", "cpu"))
        if name in host
    ]
    lines = ["goos: linux", "pkg: lguest-launcher", *lines]
    cpus = host.get("cpus")
    suffix = f"-{cpus}" if type(cpus) is int and cpus > 0 else "-1"
    found = [
        (arm, round_, {quantiles.name(p): values[p] for p in exporters.common_quantiles(rounds)})
        for arm, rounds in exporters.of_each_arm(receipts)
        for round_, values in rounds
    ]
    for unit in sorted({unit for *_, values in found for unit in values}, key=lambda unit: float(unit[1:])):
        # Nothing is assumed of how they are distributed: benchstat then compares medians by rank.
        lines.append(f"Unit {unit}-sec better=lower assume=nothing")
    for arm, round_, values in found:
        if values:
            measured = " ".join(f"{ns / 1e9:.12g} {unit}-sec" for unit, ns in values.items())
            lines.append(f"{_name(arm, round_)}{suffix} {max(1, len(round_.latencies_ns))} {measured}")
    return "\n".join(lines) + "\n"


def _name(arm: str, round_: Round) -> str:
    case = re.sub(r"[^0-9A-Za-z]", "", round_.case.title()) or "Case"
    parts = {"arm": arm, "engine": round_.engine, "waker": round_.waker, **round_.parameters}
    return f"Benchmark{case}" + "".join(f"/{_part(str(key))}={_part(str(value))}" for key, value in parts.items())


def _part(text: str) -> str:
    """Return it without what divides the parts of a name."""
    return re.sub(r"[\s/=]+", ":", text) or ":"
