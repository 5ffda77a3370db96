"""What the rounds of an arm come to: quantiles, costs per wake, the ratio to C; and which arms nobody beats.

From rounds alone, so that what is printed today can be printed from the file in three years.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from launcher.bench.judging.judge import what_is_broken
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import DIRECT, Case, get
from launcher.bench.measure.hops import in_order
from launcher.bench.measure.usage import Cost, of_ours
from launcher.bench.stats import quantiles
from launcher.bench.store.records import OK, SPAN, Round

# The least to the most that a Waker can do to its Launcher when it goes wrong.
_ISOLATION = {"process": 2, "fork": 1, "thread": 0, "inline": 0}


@dataclass(frozen=True, slots=True)
class Summary:
    """One arm; times in ns, costs per wake, which several rings may share. What could not be measured is None."""

    arm: str
    engine: str
    waker: str
    parameters: dict[str, int | float | str]
    rounds: int
    n: int
    quantiles_ns: dict[str, float]
    max_ns: int | None
    ratio: float | None
    """Of the p50 to that of `base`, the median over the blocks that both have."""
    base: str | None
    cpu_ns: float | None
    switches: float | None
    pss_bytes: float | None
    counts: dict[str, int]
    lost: list[tuple[int, int, int]]
    """Block, seed and sequence number of each ring whose wake-up was lost."""
    ended: list[str]
    """How rounds ended that did not end well."""
    broken: list[str]
    """What a duel would end for: what was lost, was wrong, hung or died, a sentence each."""
    hops_ns: dict[str, tuple[float, int]] = field(default_factory=dict)
    """The median of each hop, and how many rings went that way."""
    ns_per_stamp: float | None = None
    rings_per_wake: float | None = None
    rings_per_s: float | None = None

    @property
    def is_broken(self) -> bool:
        """Whether a wake-up was lost, or a round was wrong, hung or died, as a duel sees it."""
        return bool(self.broken)

    @property
    def p50_ns(self) -> float:
        """Return what the table is sorted by."""
        return self.quantiles_ns.get("p50", float("inf"))

    @property
    def is_waker(self) -> bool:
        """Whether it is one of those that are compared, and not what they are compared with."""
        return self.engine != yardstick.ENGINE and self.waker != DIRECT

    @property
    def is_sound(self) -> bool:
        """Whether it is a Waker that was measured, and in which nothing went wrong."""
        return self.is_waker and self.n > 0 and not self.is_broken and not self.ended

    def is_comparable_with(self, other: Summary) -> bool:
        """Whether the two ran under the same conditions: what differs is the Waker."""
        return self.engine == other.engine and self.parameters == other.parameters

    def to_json(self) -> dict[str, Any]:
        """Return it as an object for JSON."""
        lost = [dict(zip(("block", "seed", "number"), one, strict=True)) for one in self.lost]
        return {name: getattr(self, name) for name in self.__slots__} | {"lost": lost}


def summarise(rounds: Iterable[Round]) -> list[Summary]:
    """Return a summary of each arm, the fastest first; what has no latencies by its CPU time."""
    by_arm: dict[str, list[Round]] = {}
    for round_ in rounds:
        by_arm.setdefault(round_.arm, []).append(round_)
    summaries = [_summarise(mine, list(by_arm.values())) for mine in by_arm.values()]
    return sorted(summaries, key=lambda summary: (summary.p50_ns, summary.cpu_ns or 0))


def front(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the Wakers that no other one beats: in latency, in CPU time, or in isolation each is better than any.

    An arm under other conditions beats nobody, and a control not what it is the control of.
    """
    sound = [summary for summary in summaries if summary.is_sound]
    return [one for one in sound if not any(other.is_comparable_with(one) and _beats(other, one) for other in sound)]


def _beats(one: Summary, other: Summary) -> bool:
    if one.arm.rstrip("'") == other.arm.rstrip("'"):
        return False
    ours, theirs = _merits(one), _merits(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def _merits(summary: Summary) -> tuple[float, float, int]:
    cpu_ns = float("inf") if summary.cpu_ns is None else summary.cpu_ns
    return summary.p50_ns, cpu_ns, -_ISOLATION.get(summary.waker.partition("/")[0], 0)


def _summarise(rounds: Sequence[Round], arms: Sequence[Sequence[Round]]) -> Summary:
    first = rounds[0]
    case = get(first.case)
    times = np.concatenate([round_.latencies_ns for round_ in rounds])
    counts: dict[str, int] = {}
    for round_ in rounds:
        for name, count in round_.counts.items():
            counts[name] = counts.get(name, 0) + count
    served = counts.get("served", 0)
    wakes = served - counts.get("coalesced", 0)
    base = _base(first, case, arms)
    burst = first.parameters.get("burst", 1)
    return Summary(
        arm=first.arm,
        engine=first.engine,
        waker=first.waker,
        parameters=first.parameters,
        rounds=len(rounds),
        n=len(times),
        quantiles_ns={quantiles.name(p): ns for p, ns in quantiles.read(times, quantiles.PRINTED).items()},
        max_ns=int(times.max()) if len(times) else None,
        ratio=None if base is None else _ratio(rounds, base),
        base=None if base is None else base[0].waker,
        cpu_ns=_per_wake(rounds, wakes, "cpu_ns"),
        switches=_per_wake(rounds, wakes, "voluntary", "involuntary"),
        pss_bytes=_pss(rounds),
        counts=counts,
        lost=[lost for round_ in rounds for lost in _lost(round_)],
        ended=[round_.ended for round_ in rounds if round_.ended != OK],
        broken=what_is_broken(rounds),
        hops_ns=_hops(rounds),
        ns_per_stamp=next((r.trace_ns_per_stamp for r in rounds if r.trace_ns_per_stamp is not None), None),
        rings_per_wake=served / wakes if wakes else None,
        rings_per_s=_rate(rounds, burst) if isinstance(burst, int) and burst > 1 else _closed_rate(rounds),
    )


def _base(first: Round, case: Case, arms: Sequence[Sequence[Round]]) -> Sequence[Round] | None:
    """Return the rounds of the program in C that this arm is compared with: the one with the same parameters."""
    if first.engine == yardstick.ENGINE:
        return None
    name = yardstick.base_of(first.waker, first.engine, case.yardsticks)
    return next((arm for arm in arms if arm[0].waker == name and arm[0].parameters == first.parameters), None)


def _ratio(rounds: Sequence[Round], base: Sequence[Round]) -> float | None:
    """Return the median of the ratios of each block's p50s: blocks are what can be compared."""
    p50s = {round_.block: float(np.median(round_.latencies_ns)) for round_ in base if len(round_.latencies_ns)}
    ratios = [
        float(np.median(round_.latencies_ns)) / p50s[round_.block]
        for round_ in rounds
        if p50s.get(round_.block, 0) > 0 and len(round_.latencies_ns)
    ]
    return median(ratios) if ratios else None


def _per_wake(rounds: Sequence[Round], wakes: int, *costs: Cost) -> float | None:
    """Return a cost of Launcher and Waker per wake."""
    total = of_ours([usage for round_ in rounds for usage in round_.usage], *costs)
    return total / wakes if total is not None and wakes > 0 else None


def _pss(rounds: Sequence[Round]) -> float | None:
    """Return the memory of Launcher and Waker processes, the median of the rounds in which all of it is known."""
    known = [total for round_ in rounds if (total := of_ours(round_.usage, "pss_bytes")) is not None]
    return median(known) if known else None


def _lost(round_: Round) -> list[tuple[int, int, int]]:
    return [(round_.block, round_.seed, seq) for seq in round_.lost_seqs]


def _hops(rounds: Sequence[Round]) -> dict[str, tuple[float, int]]:
    names = dict.fromkeys(name for round_ in rounds for name, times in round_.stages_ns.items() if len(times))
    pooled = {name: np.concatenate([r.stages_ns[name] for r in rounds if name in r.stages_ns]) for name in names}
    return {name: (float(np.median(times)), len(times)) for name, times in sorted(pooled.items(), key=in_order)}


def _closed_rate(rounds: Sequence[Round]) -> float | None:
    """Return how many rings of a closed loop are served in a second, the median of its rounds."""
    rates = [len(r.latencies_ns) * 1e9 / r.counts[SPAN] for r in rounds if r.counts.get(SPAN)]
    return median(rates) if rates else None


def _rate(rounds: Sequence[Round], burst: int) -> float | None:
    """Return how many rings of a burst are served in a second: its size over the time until its last one is."""
    whole = [
        r.latencies_ns[-(len(r.latencies_ns) // burst * burst) :].reshape(-1, burst)
        for r in rounds
        if len(r.latencies_ns) >= burst and r.counts.get("warmup", 0) % burst == 0
    ]
    took_ns = float(np.median(np.concatenate(whole).max(axis=1))) if whole else 0.0
    return burst * 1e9 / took_ns if took_ns > 0 else None
