"""Where a wake-up's time goes: each ring followed from stage to stage, by the stamps of both sides."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from rounds import Round

# From the stimulus' stamp to the ring being read, and on until the Waker may look again.
_STAGES_BEFORE_READ = ("SEEN", "BREAK", "LEFT")
_STAGES_AFTER_READ = ("SERVICED", "RELEASED")


def hops(rounds: Sequence[Round]) -> list[tuple[str, float, int]]:
    """Return each hop's name, its median in µs, and how many rings went that way."""
    took: dict[str, list[int]] = {}
    for round_ in rounds:
        by_stage: dict[str, list[int]] = {}
        for stage, time_ns in sorted(round_.stamps, key=lambda stamp: stamp[1]):
            by_stage.setdefault(stage, []).append(time_ns)
        for sent_ns, read_ns in zip(round_.sent, round_.read, strict=True):
            path = _path(by_stage, sent_ns, read_ns)
            for (before, began_ns), (after, ended_ns) in pairwise(path):
                took.setdefault(f"{before} → {after}", []).append(ended_ns - began_ns)
    return [(name, statistics.median(times) / 1e3, len(times)) for name, times in took.items()]


def _path(by_stage: dict[str, list[int]], sent_ns: int, read_ns: int) -> list[tuple[str, int]]:
    path = [("sent", sent_ns)]
    for stage in _STAGES_BEFORE_READ:
        time_ns = _first_since(by_stage.get(stage, []), path[-1][1])
        if time_ns is not None and time_ns <= read_ns:  # inline Wakers have no SEEN; a busy Launcher needs no break
            path.append((stage, time_ns))
    path.append(("read", read_ns))
    for stage in _STAGES_AFTER_READ:
        time_ns = _first_since(by_stage.get(stage, []), path[-1][1])
        if time_ns is not None:
            path.append((stage, time_ns))
    return path


def _first_since(times_ns: list[int], since_ns: int) -> int | None:
    at = bisect_left(times_ns, since_ns)
    return times_ns[at] if at < len(times_ns) else None
