"""CSV (RFC 4180): a line for each round, also for those that failed; for a spreadsheet or a data frame.

A quantile that the round cannot speak for, or a count that was not counted, is empty, never 0.
"""

from __future__ import annotations

import csv
import io

from launcher.bench.stats import quantiles
from launcher.bench.store.receipts import Receipts, Round

_FIELDS = ("arm", "case", "engine", "waker", "block", "position", "seed", "started", "duration_ns", "ended")


def export(receipts: Receipts) -> str:
    """Return the table with its head."""
    rows = [_row(round_) for round_ in receipts.rounds]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(round_: Round) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(round_, name) for name in _FIELDS}
    row["latencies"] = len(round_.latencies_ns)
    found = quantiles.read(round_.latencies_ns, quantiles.PRINTED)
    # All columns, so that files of short and of long rounds have the same.
    row |= {f"{quantiles.name(p)}_ns": found.get(p, "") for p in quantiles.PRINTED}
    row["max_ns"] = int(round_.latencies_ns.max()) if len(round_.latencies_ns) else ""
    row |= {f"parameter.{name}": value for name, value in round_.parameters.items()}
    row |= {f"count.{name}": value for name, value in round_.counts.items()}
    for role in dict.fromkeys(usage.role for usage in round_.usage):
        # A role may be many: a thread for each file, or two Wakers, one of which took the other's place.
        theirs = [usage for usage in round_.usage if usage.role == role]
        for name in ("cpu_ns", "voluntary", "involuntary", "pss_bytes"):
            known = [value for usage in theirs if (value := getattr(usage, name)) is not None]
            row[f"{role}.{name}"] = sum(known) if len(known) == len(theirs) else ""
    return row
