"""How often the verdict is wrong on this machine: many virtual duels out of one long recording.

A recording is one run in which several arms took turns for an hour: the same thing twice (A, A'), and the same thing
with a known delay in it. A virtual duel is a window of it, as long as a real duel, judged by the same code with the
same looks. So a thousand duels cost one recording, and they have this machine's own noise: its drift, its neighbours,
its modes.

What the windows have in common must be said. Windows that overlap are not independent: a rate from a thousand windows
is as precise as the recording is long. So the bounds of a rate are those of as many duels as fit into the recording
side by side, and the number of different windows is reported.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from launcher.bench.judging import pairs
from launcher.bench.judging.judge import is_settled, overall
from launcher.bench.judging.verdict import Outcome, Settings, judge_ratios
from launcher.bench.stats import looks, quantiles, statistics
from launcher.bench.stats.signed_rank import Floats, Interval
from launcher.bench.store.receipts import OK, NothingMeasured, Round

VIRTUAL_DUELS = 1000
_MOST = math.log(4)  # a slowdown by 300 %: what is not found then is not found


@dataclass(frozen=True, slots=True)
class Recording:
    """The logs of quantiles of a run with several arms; each array is blocks x turns."""

    logs: Mapping[str, Mapping[float, Floats]]
    blocks: int
    left_out: int
    """Blocks that were not complete: cut off, or a round of theirs failed."""
    seconds_per_block: float
    """By the clock, for all arms."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the virtual duels of one pair of arms came to."""

    base: str
    head: str
    outcomes: Counter[str]
    duels: int
    windows: int
    """How many of them are different."""
    independent: int
    """How many fit into the recording without overlapping."""
    mean_blocks: float
    """How many blocks a duel took on average: looks end most of them early."""

    def share(self, outcome: Outcome) -> float:
        """Return how often the duels said this."""
        return self.outcomes[outcome] / self.duels

    def bounds(self, outcome: Outcome) -> Interval:
        """Return the 95 % bounds of that share, for as many duels as are independent."""
        return statistics.share_bounds(round(self.share(outcome) * self.independent), self.independent)

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "base": self.base,
            "head": self.head,
            "duels": self.duels,
            "windows": self.windows,
            "independent": self.independent,
            "mean_blocks": self.mean_blocks,
            "outcomes": {
                str(outcome): {
                    "count": self.outcomes[outcome],
                    "share": self.share(outcome),
                    "low": self.bounds(outcome).low,
                    "high": self.bounds(outcome).high,
                }
                for outcome in Outcome
            },
        }


def record(rounds: Iterable[Round], wanted: Sequence[float] = quantiles.DEFAULT) -> Recording:
    """Arrange recorded rounds; a block counts when each arm has all of its rounds in it, and all ended well."""
    of: dict[str, list[Round]] = defaultdict(list)
    for round_ in rounds:
        of[round_.arm].append(round_)
    if not of:
        raise NothingMeasured("there is no round to calibrate with")
    # Not by quantile: a round too short for p99 takes the quantile out, not the block.
    failed = {r.block for found in of.values() for r in found if r.ended != OK}
    turns = {arm: Counter(r.block for r in found if r.block not in failed) for arm, found in of.items()}
    most = max(max(counts.values(), default=0) for counts in turns.values())
    all_blocks = sorted({r.block for found in of.values() for r in found})
    complete = [block for block in all_blocks if most and all(counts[block] == most for counts in turns.values())]
    is_complete = set(complete)
    logs = {}
    for arm, found in of.items():
        by_turn = pairs.log_quantiles([r for r in found if r.block in is_complete], wanted)
        logs[arm] = {
            p: np.array([[values[block, turn] for turn in range(most)] for block in complete])
            for p, values in by_turn.items()
        }
    return Recording(logs, len(complete), len(all_blocks) - len(complete), _seconds_per_block(of, len(all_blocks)))


def virtual_duels(
    recording: Recording,
    base: str,
    head: str,
    control: str | None = None,
    *,
    blocks: int,
    duels: int = VIRTUAL_DUELS,
    look_count: int = looks.DEFAULT_LOOKS,
    settings: Settings | None = None,
    slowdown: float = 0.0,
) -> Rates:
    """Judge `duels` windows of `blocks` blocks each, spread evenly over the recording.

    `slowdown` is added to every round of the head (0.05 is 5 %): what a change that slows all down alike would do.
    """
    starts = recording.blocks - blocks + 1
    for arm in (base, head, control):
        if arm is not None and arm not in recording.logs:
            raise NothingMeasured(f"the recording has no arm '{arm}' (it has {', '.join(recording.logs)})")
    if starts < 1:
        raise NothingMeasured(f"the recording has {recording.blocks} whole blocks, and one duel takes {blocks}")
    settings = settings or Settings()
    ratios = _ratios(recording, base, head, slowdown)
    controls = None if control is None else _ratios(recording, base, control, 0.0)
    ends = looks.planned(blocks, look_count)
    chosen = [at * starts // duels for at in range(duels)] if duels >= starts else _spread(starts, duels)
    judged: dict[int, tuple[str, int]] = {}
    for start in chosen:
        if start not in judged:
            judged[start] = _duel(ratios, controls, start, ends, settings)
    return Rates(
        base,
        head,
        Counter(judged[start][0] for start in chosen),
        duels,
        len(judged),
        max(1, recording.blocks // blocks),
        sum(judged[start][1] for start in chosen) / duels,
    )


def smallest_found(
    recording: Recording,
    base: str,
    head: str,
    control: str | None = None,
    *,
    blocks: int,
    power: float = 0.95,
    duels: int = 200,
    look_count: int = looks.DEFAULT_LOOKS,
    settings: Settings | None = None,
) -> float | None:
    """Return the smallest slowdown that is found in a share `power` of virtual duels, or None when none is.

    `head` should be the base under another name; the slowdown is put into its rounds.
    """

    def is_found(log_slowdown: float) -> bool:
        rates = virtual_duels(
            recording,
            base,
            head,
            control,
            blocks=blocks,
            duels=duels,
            look_count=look_count,
            settings=settings,
            slowdown=math.expm1(log_slowdown),
        )
        return rates.share(Outcome.REGRESSED) >= power

    if not is_found(_MOST):
        return None
    low, high = 0.0, _MOST
    while math.expm1(high) - math.expm1(low) > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return math.expm1(high)


def _spread(starts: int, duels: int) -> list[int]:
    return [round(at) for at in np.linspace(0, starts - 1, duels)]


def _ratios(recording: Recording, base: str, head: str, slowdown: float) -> dict[float, Floats]:
    of_base, of_head = recording.logs[base], recording.logs[head]
    return {p: of_head[p] - of_base[p] + math.log1p(slowdown) for p in of_base if p in of_head}


def _duel(
    ratios: Mapping[float, Floats],
    controls: Mapping[float, Floats] | None,
    start: int,
    ends: tuple[int, ...],
    settings: Settings,
) -> tuple[str, int]:
    """Judge one window as a real duel is judged, look by look; return the outcome and the blocks it took."""
    outcome: str = Outcome.CANNOT_TELL
    fractions = tuple(end / ends[-1] for end in ends)
    for look, end in enumerate(ends, 1):
        window = {p: values[start : start + end].ravel() for p, values in ratios.items()}
        control = controls and {p: values[start : start + end].ravel() for p, values in controls.items()}
        at_look = replace(settings, fractions=fractions[:look])
        found = judge_ratios(window, control, at_look)
        outcome, _ = overall(found, at_look)
        if is_settled(outcome, found):
            return outcome, end
    return outcome, ends[-1]


def _seconds_per_block(of: Mapping[str, Sequence[Round]], blocks: int) -> float:
    """Return the time from the first round's start to the last one's end, by block."""
    found = [r for its_rounds in of.values() for r in its_rounds]
    try:
        begin = min(datetime.fromisoformat(r.started).timestamp() for r in found)
        end = max(datetime.fromisoformat(r.started).timestamp() + r.duration_ns / 1e9 for r in found)
    except ValueError:
        return math.nan
    return (end - begin) / blocks
