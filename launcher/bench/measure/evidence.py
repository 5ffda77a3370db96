"""What a ledger proves: which rings were lost, and how many came late or shared a wake.

Nothing is inferred from how long something took. While a Waker is held, the breaks that it has made and those that the
Launcher has taken differ by what never arrived: the arm writes that into the row of each ring that it serves.

So a break that was made is never lost unseen. One that was never made, by a Waker that overlooks what is ready, leaves
no such proof unless it hangs in it: its ring comes with the next one, and is counted as late, and as coalesced.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from launcher.bench.measure.cases import Case
from launcher.bench.measure.ledger import IN_VAIN, INTENDED, SENT, SERVED_AT, WAKE
from launcher.bench.store.records import SPAN

Rows = np.ndarray[Any, np.dtype[np.int64]]
"""Rings by words of a row (ledger.py), of those that were sent."""


def lost(rows: Rows, in_vain: int, *, is_hung: bool) -> list[int]:
    """Return the numbers of the rings that woke nobody: those never served, and those a later ring made up for.

    `in_vain` is how many breaks were, in all. Where a wake has more of them before it than the wake before had, the
    rings of it that were sent first are those that had waited. What came after the last wake is told by the first ring
    that is unserved, or else by the last one. In an arm that did not hang, what else is unserved was lost by nobody.
    """
    is_served = rows[:, SERVED_AT] > 0
    unserved, served = (np.flatnonzero(which).tolist() for which in (~is_served, is_served))
    served.sort(key=lambda number: (rows[number, WAKE], rows[number, SENT]))
    made_up_for: list[int] = []
    told = 0
    for _, wake in groupby(served, key=lambda number: rows[number, WAKE]):
        numbers = list(wake)
        before, told = told, max(told, int(rows[numbers, IN_VAIN].max()))
        made_up_for += numbers[: told - before]
    hangs_in = unserved[:1] or served[-1:]
    return sorted({*made_up_for, *(unserved if is_hung else ()), *(hangs_in if in_vain > told else ())})


def count(case: Case, rows: Rows, warmup: int) -> dict[str, int]:
    """Count what was sent, served, late, coalesced; a ring is late when the next one was sent before it was served.

    In a closed loop none is; how long it took for all that are counted says how many there are in a second.
    """
    served, counted = (some[some[:, SERVED_AT] > 0] for some in (rows, rows[warmup:]))
    wakes = len(np.unique(served[:, WAKE]))
    counts = {
        "sent": len(rows),
        "warmup": min(warmup, len(rows)),
        "served": len(served),
        "coalesced": len(served) - wakes,
        "late": 0,
        "unserved": len(rows) - len(served),
    }
    if case.is_open:
        is_last_of_burst = np.diff(rows[:, INTENDED]) > 0
        counts["late"] = int(np.count_nonzero((rows[:-1, SERVED_AT] > rows[1:, SENT]) & is_last_of_burst))
    else:
        span_ns = counted[:, SERVED_AT].max() - counted[:, INTENDED].min() if len(counted) else 0
        counts[SPAN] = int(span_ns)
    return counts
