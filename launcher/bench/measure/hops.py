"""Where a wake-up's time goes: each ring followed from stage to stage, by the stamps of both sides."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.int64]]

DUE = "DUE→READY"
"""How long after its time the stimulus sent a ring: part of that ring's latency, and no Waker's doing."""

# From the stimulus' stamp to the ring being read, and on until the Waker may look again.
_STAGES_BEFORE_READ = ("SEEN", "BREAK", "LEFT")
_STAGES_AFTER_READ = ("INTERRUPT", "SERVICED", "RELEASED")


def in_order(hop: tuple[str, object]) -> tuple[int, ...]:
    """Return what sorts named hops by when they happen."""
    stages = ("DUE", "READY", *_STAGES_BEFORE_READ, "READ", *_STAGES_AFTER_READ, "ANSWERED")
    return tuple(stages.index(stage) if stage in stages else len(stages) for stage in hop[0].split("→"))


def hops(
    stamps: Sequence[tuple[str, int]], sent: Sequence[int], served: Sequence[int], *, is_answered: bool = False
) -> dict[str, Array]:
    """Return the time of each hop in ns, of all rings that went that way, in order.

    READY is when the stimulus rang, READ when the device had read it; what follows holds that this was noted
    (0.3 us). Where a ring is served when the Guest has answered it (`is_answered`), that is the end of the way:
    ANSWERED, after the interrupt.
    """
    by_stage: dict[str, list[int]] = {}
    for stage, time_ns in sorted(stamps, key=lambda stamp: stamp[1]):
        by_stage.setdefault(stage, []).append(time_ns)
    # A lane holds so many stamps and no more: what came before the oldest one of a lane cannot be followed.
    since_ns = max((times[0] for times in by_stage.values()), default=0)
    took: dict[str, list[int]] = {}
    path = _path_to_answer if is_answered else _path_to_release
    for sent_ns, read_ns in zip(sent, served, strict=True):
        if sent_ns >= since_ns:
            for (before, began_ns), (after, ended_ns) in pairwise(path(by_stage, sent_ns, read_ns)):
                took.setdefault(f"{before}→{after}", []).append(ended_ns - began_ns)
    return {hop: np.array(times, dtype=np.int64) for hop, times in took.items()}


def _path_to_answer(by_stage: dict[str, list[int]], sent_ns: int, answered_ns: int) -> list[tuple[str, int]]:
    path = _path_until(by_stage, sent_ns, answered_ns, (*_STAGES_BEFORE_READ, *_STAGES_AFTER_READ))
    return [*path, ("ANSWERED", answered_ns)]


def _path_to_release(by_stage: dict[str, list[int]], sent_ns: int, read_ns: int) -> list[tuple[str, int]]:
    path = [*_path_until(by_stage, sent_ns, read_ns, _STAGES_BEFORE_READ), ("READ", read_ns)]
    for stage in _STAGES_AFTER_READ:
        time_ns = _first_since(by_stage.get(stage, []), path[-1][1])
        if time_ns is not None:
            path.append((stage, time_ns))
    return path


def _path_until(
    by_stage: dict[str, list[int]], sent_ns: int, end_ns: int, stages: Sequence[str]
) -> list[tuple[str, int]]:
    path = [("READY", sent_ns)]
    for stage in stages:
        time_ns = _first_since(by_stage.get(stage, []), path[-1][1])
        if time_ns is not None and time_ns <= end_ns:  # a busy Launcher needs no break
            path.append((stage, time_ns))
    return path


def _first_since(times_ns: Sequence[int], since_ns: int) -> int | None:
    at = bisect_left(times_ns, since_ns)
    return times_ns[at] if at < len(times_ns) else None
