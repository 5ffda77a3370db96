"""How fit a machine is for duels: what identical arms that took turns on it show.

Whatever differs between them is the machine. It says how often a duel would have called one of them slower (it should
be next to never), and how small a slowdown would have been found: once by putting slowdowns into windows of what was
recorded, and once from its spread, for a duel as long as wanted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, permutations

from launcher.bench.duels import duel
from launcher.bench.judging import calibration
from launcher.bench.judging.verdict import Outcome, Settings
from launcher.bench.stats import quantiles, signed_rank, statistics
from launcher.bench.stats.signed_rank import Interval
from launcher.bench.store.receipts import Round

MOST_SECONDS = 120.0
"""A gate that takes longer is none."""
GATES = (0.04, 0.05, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
FEWEST_BLOCKS = 6
_VIRTUAL = 100
_SPREAD_LEVEL = 0.1


@dataclass(frozen=True, slots=True)
class Fitness:
    """What the machine can be asked for, by one quantile."""

    quantile: str
    smallest: float | None
    """The slowdown that is found with 95 % power in a duel of the default length; None beyond the largest gate."""
    gate: float | None
    """The smallest of the usual gates that a duel can keep within the time that it may take."""
    gate_s: float | None
    """How long a duel must be for it."""

    def sentence(self) -> str:
        """Return the gate in words."""
        if self.gate is None or self.gate_s is None:
            return f"none on {self.quantile}"
        return f"{100 * self.gate:g} % on {self.quantile} in {self.gate_s:.0f} s"


@dataclass(frozen=True, slots=True)
class Report:
    """What identical arms showed."""

    blocks: int
    seconds: float
    false_alarms: int
    duels: int
    windows: int
    window_blocks: int
    apart: int
    """How many of the windows do not overlap."""
    in_windows: float | None
    """The slowdown of p50 that 95 % of the windows find; None when they do not."""
    fitness: list[Fitness]

    @property
    def is_fit(self) -> bool:
        """Whether a gate on p50 is honest here: one can be kept, and identical arms stay within alpha."""
        has_gate = bool(self.fitness) and self.fitness[0].gate is not None
        return has_gate and self.false_alarms <= Settings().alpha * self.duels

    @property
    def bounds(self) -> Interval:
        """Return the 95 % bounds of the share of false alarms, for as many duels as are independent."""
        return statistics.share_bounds(round(self.false_alarms / self.duels * self.apart), self.apart)

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "kind": "aa",
            "blocks": self.blocks,
            "seconds": self.seconds,
            "false_alarms": self.false_alarms,
            "duels": self.duels,
            "windows": self.windows,
            "low": self.bounds.low,
            "high": self.bounds.high,
            "smallest_in_windows": self.in_windows,
            "fitness": [{name: getattr(one, name) for name in Fitness.__slots__} for one in self.fitness],
            "is_fit": self.is_fit,
        }


def examine(rounds: list[Round]) -> Report | None:
    """Return what rounds of three identical arms show, or None when they are too few."""
    of_block = Counter(round_.block for round_ in rounds)
    whole = [round_ for round_ in rounds if of_block[round_.block] == 6]
    recorded = calibration.record(whole) if whole else None
    if recorded is None or recorded.blocks < FEWEST_BLOCKS:
        return None
    arms = list(recorded.logs)
    window = max(3, recorded.blocks // 2)
    outcomes: Counter[str] = Counter()
    windows = 0
    for base, head, control in permutations(arms):
        rates = calibration.virtual_duels(recorded, base, head, control, blocks=window, duels=_VIRTUAL)
        outcomes.update(rates.outcomes)
        windows = max(windows, rates.windows)
    return Report(
        blocks=recorded.blocks,
        seconds=sum(round_.duration_ns for round_ in rounds) / 1e9,
        false_alarms=outcomes[Outcome.REGRESSED],
        duels=sum(outcomes.values()),
        windows=windows,
        window_blocks=window,
        apart=recorded.blocks // window,
        in_windows=_smallest_in_windows(recorded, window, min(windows, _VIRTUAL)),
        fitness=[_fitness(recorded, p, rounds) for p in next(iter(recorded.logs.values()))],
    )


def _smallest_in_windows(recorded: calibration.Recording, blocks: int, duels: int) -> float | None:
    """Return the slowdown that windows find whichever of two arms is slowed: one is always the faster, by chance."""
    one, other, control = recorded.logs
    found = [
        calibration.smallest_found(recorded, base, head, control, blocks=blocks, duels=duels)
        for base, head in ((one, other), (other, one))
    ]
    return None if None in found else max(slowdown for slowdown in found if slowdown is not None)


def _fitness(recorded: calibration.Recording, p: float, rounds: list[Round]) -> Fitness:
    settings = Settings()
    level = settings.alpha / len(settings.quantiles)  # the hardest of the family
    logs = [recorded.logs[arm][p] for arm in recorded.logs]
    errors, reaches = [], []
    for base, head in combinations(logs, 2):
        pairs = (head - base).ravel()
        errors.append(statistics.standard_error(signed_rank.interval(pairs, _SPREAD_LEVEL), _SPREAD_LEVEL))
        # Not from the error: where tails are heavy, an interval at so hard a level is longer than a normal one.
        reaches.append(signed_rank.interval(pairs, level).half_width)
    # The worst of the three: what so short a recording says of its own spread is right to a sixth.
    error, reach = max(errors), max(reaches)
    block_s = 6 * sum(round_.duration_ns for round_ in rounds) / 1e9 / len(rounds)

    def smallest_in(seconds: float) -> float:
        blocks = duel.choose_blocks(block_s, duel.SHARE * (seconds - block_s / 2))
        if 2 * blocks < signed_rank.fewest_pairs(level):
            return math.inf
        longer = math.sqrt(recorded.blocks / blocks)
        return math.expm1(statistics.smallest_found(reach * longer, error * longer, settings.power, settings.log_delta))

    smallest = smallest_in(duel.DEFAULT_SECONDS)
    gate = next((gate for gate in GATES if smallest_in(MOST_SECONDS) <= gate), None)
    gate_s = next((s for s in range(10, int(MOST_SECONDS) + 1, 10) if gate and smallest_in(s) <= gate), None)
    return Fitness(quantiles.name(p), smallest if smallest <= GATES[-1] else None, gate, gate_s)
