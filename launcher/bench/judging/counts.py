"""What a wake-up takes: spurious breaks, switches, system calls, CPU time; a family of their own.

They are compared for each pair of rounds as head minus base, per ring that was served (or per round, where it is
memory). A difference counts when it is significant in its family (Holm, at the same alpha) and large enough to care
for: a twentieth of the base, or one in a hundred rings, whichever is more. What base and control differ by is judged
alike: where they do, that count cannot be told; where they do not, it is no change for the head either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from launcher.bench.judging import pairs
from launcher.bench.judging.verdict import Settings
from launcher.bench.measure.usage import Cost, of_ours
from launcher.bench.stats import signed_rank, statistics
from launcher.bench.stats.signed_rank import Interval
from launcher.bench.store.receipts import Round

MORE, FEWER, SAME, UNKNOWN = "more", "fewer", "same", "cannot tell"

COUNTED = ("spurious", "late", "coalesced", "breaks", "notifies", "interrupts", "reads_and_writes")
_RELATIVE_FLOOR = 0.05
_ABSOLUTE_FLOOR = 0.01  # of counts; a share of the base alone decides where the unit is ns or bytes


@dataclass(frozen=True, slots=True)
class CountVerdict:
    """One count, per ring: two Wakers are rung alike, and how often they wake for it is what differs."""

    name: str
    unit: str
    outcome: str
    pairs: int
    base: float
    """The median of the rounds that are paired."""
    head: float
    estimate: float
    """Head minus base."""
    interval: Interval
    p_value: float
    control: float | None = None
    """Control minus base."""
    is_unfit: bool = False
    """Whether two identical arms differ in it."""

    @property
    def is_too_short(self) -> bool:
        """Whether there are too few rounds to say anything at this level, whatever they say."""
        return not math.isfinite(self.interval.low)

    @property
    def change(self) -> str:
        """From what to what."""
        return f"{_shown(self.base)} → {_shown(self.head)} {self.unit}"

    def to_json(self) -> dict[str, object]:
        """Return it for JSON; what is not finite is None."""
        return {
            "name": self.name,
            "unit": self.unit,
            "outcome": self.outcome,
            "pairs": self.pairs,
            "base": self.base,
            "head": self.head,
            "difference": self.estimate,
            "low": None if self.is_too_short else self.interval.low,
            "high": None if self.is_too_short else self.interval.high,
            "p_value": self.p_value,
            "control": self.control,
        }


class Change(NamedTuple):
    """How a count differs between two arms."""

    pairs: int
    base: float
    head: float
    """The medians."""
    estimate: float
    p_value: float
    interval: Callable[[float], Interval]
    """At a two-sided level."""


def paired(base: pairs.ByTurn, head: pairs.ByTurn) -> Change | None:
    """Return the change from pair to pair; None without any."""
    differences = pairs.differences(base, head)
    if not len(differences):
        return None
    return Change(
        pairs=len(differences),
        base=float(np.median([base[turn] for turn in base if turn in head])),
        head=float(np.median([head[turn] for turn in base if turn in head])),
        estimate=signed_rank.hodges_lehmann(differences),
        p_value=signed_rank.p_value(differences),
        interval=partial(signed_rank.interval, differences),
    )


def judge_counts(
    base: Sequence[Round],
    head: Sequence[Round],
    settings: Settings,
    change_of: Callable[[pairs.ByTurn, pairs.ByTurn], Change | None] = paired,
    control: Sequence[Round] = (),
) -> list[CountVerdict]:
    """Compare every count of which `change_of` has something to say; `control` are rounds of the base once more."""
    of_control = _changes(base, control, settings, change_of)
    verdicts = []
    for name, (change, interval) in _changes(base, head, settings, change_of).items():
        unit, _ = _MEASURES[name]
        floor = max(_RELATIVE_FLOOR * change.base, _ABSOLUTE_FLOOR if unit == "per ring" else 0.0)
        same = of_control.get(name)
        is_unfit = same is not None and _outcome(same[0].estimate, same[1], floor, floor) in (MORE, FEWER)
        least = floor if same is None else max(floor, abs(same[0].estimate))
        verdicts.append(
            CountVerdict(
                name=name,
                unit=unit,
                outcome=UNKNOWN if is_unfit else _outcome(change.estimate, interval, floor, least),
                pairs=change.pairs,
                base=change.base,
                head=change.head,
                estimate=change.estimate,
                interval=interval,
                p_value=change.p_value,
                control=None if same is None else same[0].estimate,
                is_unfit=is_unfit,
            )
        )
    return verdicts


def _changes(
    base: Sequence[Round],
    head: Sequence[Round],
    settings: Settings,
    change_of: Callable[[pairs.ByTurn, pairs.ByTurn], Change | None],
) -> dict[str, tuple[Change, Interval]]:
    """Return how each count differs, and the interval at its level within the family."""
    found = {
        name: change
        for name, (_, measure) in _MEASURES.items()
        if (change := change_of(pairs.by_turn(base, measure), pairs.by_turn(head, measure))) is not None
    }
    level_of = [settings.level(settings.alpha / divisor) for divisor in range(1, len(found) + 1)]
    levels = statistics.holm_levels([change.p_value for change in found.values()], level_of)
    return {name: (found[name], found[name].interval(level)) for name, level in zip(found, levels, strict=True)}


def _outcome(estimate: float, interval: Interval, floor: float, least: float) -> str:
    """Return what a change is called: it counts from `least` on, and is none where it is surely within `floor`."""
    if interval.low > 0 and estimate > least:
        return MORE
    if interval.high < 0 and estimate < -least:
        return FEWER
    if -floor <= interval.low and interval.high <= floor:
        return SAME
    return UNKNOWN


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def per_ring(round_: Round, total: float | None) -> float | None:
    """Return a total of a round for each ring that was served; None when either is not known."""
    served = round_.counts.get("served", len(round_.latencies_ns))
    return None if total is None or served <= 0 else total / served


def _count(name: str, round_: Round) -> float | None:
    return per_ring(round_, round_.counts.get(name))


def _used(cost: Cost, round_: Round) -> float | None:
    return per_ring(round_, of_ours(round_.usage, cost))


def _memory(round_: Round) -> float | None:
    return of_ours(round_.usage, "pss_bytes")


_MEASURES: dict[str, tuple[str, Callable[[Round], float | None]]] = {
    **{name.replace("_", " "): ("per ring", partial(_count, name)) for name in COUNTED},
    "voluntary switches": ("per ring", partial(_used, "voluntary")),
    "involuntary switches": ("per ring", partial(_used, "involuntary")),
    "CPU time": ("ns per ring", partial(_used, "cpu_ns")),
    "memory": ("bytes", _memory),
}
