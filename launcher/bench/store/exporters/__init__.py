"""Receipts in other tools' formats. A file here is a format: its name is the format's, found by listing.

Each has a function `export(receipts) -> str`. All share what is exported: for each arm the quantiles of its rounds, one
value a round, because a round is one observation and a latency is not.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from launcher.bench.stats import quantiles
from launcher.bench.store.receipts import OK, NothingMeasured, Receipts, Round
from shared.errors import UsageError


def names() -> list[str]:
    """Return the formats there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def description(name: str) -> str:
    """Return the first line of what a format says of itself."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").partition("\n")[0]


def export(receipts: Receipts, name: str | None) -> str:
    """Return the receipts in this format; raise `NothingMeasured` where no round ended well."""
    if name not in names():
        wrong = "say which with --format" if name is None else f"no format '{name}'"
        raise UsageError(f"{wrong} (there is {', '.join(names())})")
    if not any(round_.ended == OK for round_ in receipts.rounds):
        raise NothingMeasured(f"{receipts.path} has no round that ended well: nothing to export")
    text: str = importlib.import_module(f"{__name__}.{name}").export(receipts)
    return text


def of_each_arm(receipts: Receipts) -> Iterator[tuple[str, list[tuple[Round, dict[float, float]]]]]:
    """Yield for each arm its name and its rounds that ended well, each with the quantiles (ns) it can speak for."""
    for arm in receipts.arms():
        fine = [round_ for round_ in receipts.of_arm(arm) if round_.ended == OK]
        if fine:
            yield arm, [(round_, quantiles.read(round_.latencies_ns, quantiles.PRINTED)) for round_ in fine]


def common_quantiles(rounds: list[tuple[Round, dict[float, float]]]) -> list[float]:
    """Return the quantiles that all of these rounds can speak for."""
    return [p for p in quantiles.PRINTED if all(p in found for _, found in rounds)]


def one_line(value: object) -> str:
    """Return what the provenance says as text for formats of lines; never empty."""
    return " ".join(str(value).split()) or "unknown"
