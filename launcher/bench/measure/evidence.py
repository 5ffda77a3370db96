"""What a ledger proves: which rings were lost, how many came late or shared a wake, and how late the stimulus was.

Nothing is inferred from how long something took. While a Waker is held, the breaks that it has made and those that the
Launcher has taken differ by what never arrived: the arm writes that into the row of each ring that it serves.
"""

from __future__ import annotations

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
    rings of it that were sent first are those that had waited. What came after the last wake is told by the last ring.
    In an arm that did not hang, what is unserved was lost by nobody: it died.
    """
    is_served = rows[:, SERVED_AT] > 0
    unserved = np.flatnonzero(~is_served).tolist() if is_hung else []
    served = np.flatnonzero(is_served)
    in_order = served[np.lexsort((rows[served, SENT], rows[served, WAKE]))].tolist()
    made_up_for: list[int] = []
    for number in in_order:
        if rows[number, IN_VAIN] > len(made_up_for):
            made_up_for.append(number)
    if in_vain > len(made_up_for) + bool(unserved):
        made_up_for += in_order[-1:]
    return sorted({*unserved, *made_up_for})


def count(case: Case, rows: Rows, warmup: int) -> dict[str, int]:
    """Count what was sent, served, late, coalesced; a ring is late when the next one was sent before it was served.

    In a closed loop none is; how long it took for all that are counted says how many there are in a second.
    """
    served = rows[rows[:, SERVED_AT] > 0]
    wakes = len(np.unique(served[:, WAKE]))
    counted = served[warmup:]
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
