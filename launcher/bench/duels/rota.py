"""A rota: several arms take turns in mirrored blocks (A B C C B A), the order by lot, a fresh process each time.

What drifts in a straight line raises one difference of a block and lowers the other; what comes and goes by itself
cannot know whose turn it is. Rounds that are compared (the first ones of the arms in a block, and the second ones) are
rung alike, gap by gap.

A block is drawn from the seed and its number alone: a rota that was stopped goes on where it was.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from launcher.bench.duels.sides import Side
from launcher.bench.measure.cases import Case
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.rounds import PATIENCE_S, Plan, run_round
from launcher.bench.measure.session import CLOSED_US, START_US
from launcher.bench.stats import quantiles
from launcher.bench.store.records import Round
from shared.errors import CannotRunError, UsageError

RINGS = 1000
_ROUND_S = 0.5
"""What the rings of a round may take; rings that are far apart are fewer."""
_FEWEST_RINGS, _LEAST_RINGS = 60, quantiles.samples_needed(0.5)
"""Where there is time, and where there is none."""
_STARTS = 10
_START_S = 0.2
"""What a round takes besides its rings, about."""

Tell = Callable[[int, Side], object]
"""Is told of each round before it begins: the block and the arm."""


def tell_nobody(_block: int, _side: Side) -> None:
    """Be told, and do nothing."""


@dataclass(frozen=True, slots=True)
class Rota:
    """Who takes turns, and how each turn is rung."""

    case: Case
    sides: Sequence[Side]
    rings: int
    seed: int
    patience_s: float = PATIENCE_S
    _breaks: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        names = [side.name for side in self.sides]
        if len(set(names)) < len(names):  # the rounds of two arms would be taken for one's
            raise ValueError(f"two arms have one name: {', '.join(names)}")

    def block(self, number: int, tell: Tell = tell_nobody) -> Iterator[Round]:
        """Run the rounds of one block, and yield each as it ends; raises what `run_round` raises, with whose it is."""
        lot = random.Random(f"{self.seed}:{number}")
        order = list(self.sides)
        lot.shuffle(order)
        seeds = [lot.randrange(1 << 31) for _ in range(2)]
        for position, side in enumerate([*order, *reversed(order)]):
            tell(number, side)
            try:
                round_ = self.round(side, seeds[position // len(order)], number, position)
            except (ArmFailed, CannotRunError) as reason:
                raise type(reason)(f"{side.name}: {reason}") from None
            yield round_

    def round(self, side: Side, seed: int, block: int = 0, position: int = 0) -> Round:
        """Run one round; raises what `run_round` raises."""
        round_ = run_round(
            Plan(
                arm=side.name,
                case=self.case.name,
                engine=side.engine,
                waker=side.waker,
                parameters=side.parameters,
                rings=self.rings,
                seed=seed,
                block=block,
                position=position,
                breaks_before=self._breaks[side.name],
                patience_s=self.patience_s,
                tree=side.tree,
            )
        )
        self._breaks[side.name] += round_.counts.get("breaks", 0)
        return round_


def choose_rings(case: Case, sides: Sequence[Side], rounds: int = 0, seconds: float = math.inf) -> int:
    """Return how many rings a round is to have: as many as are worth the start of its processes.

    Of rings that are far apart there are fewer, so that so many rounds fit into the time. Raises `UsageError` where not
    even the shortest rounds would.
    """
    if not case.is_rung:
        return _STARTS
    burst = max(int(side.parameters.get("burst", 1)) for side in sides)
    gap_s = max(_gap_s(case, side) for side in sides)
    if _FEWEST_RINGS * gap_s < _ROUND_S:
        return max(burst, min(RINGS, int(_ROUND_S / gap_s)) // burst * burst)

    def took_s(bursts: int) -> float:
        return takes_s(burst * bursts, case, sides, rounds)

    least, most = (math.ceil(n / burst) for n in (_LEAST_RINGS, _FEWEST_RINGS)) if case.is_timed else (1, 1)
    if took_s(least) > seconds:
        raise UsageError(
            f"rings are so far apart that {rounds} rounds, the fewest that say anything, "
            f"take {math.ceil(took_s(least))} s, and there are {seconds:g}: give it as many --seconds, or wait for less"
        )
    return burst * next(bursts for bursts in range(most, 0, -1) if bursts == least or took_s(bursts) <= seconds)


def takes_s(rings: int, case: Case, sides: Sequence[Side], rounds: int) -> float:
    """Return how long so many rounds take, about."""
    return rounds * (_START_S + _rung_s(rings, case, sides))


def _rung_s(rings: int, case: Case, sides: Sequence[Side]) -> float:
    """Return how long a round is rung, which bursts are at once."""
    burst = max(int(side.parameters.get("burst", 1)) for side in sides)
    warmup = max(math.ceil(int(side.parameters.get("warmup", 0)) / burst) for side in sides)
    return (warmup + math.ceil(rings / burst)) * max(_gap_s(case, side) for side in sides)


def _gap_s(case: Case, side: Side) -> float:
    if not case.is_timed:
        return float(side.parameters.get("seconds", 1.0))
    return float(side.parameters.get("idle_us", CLOSED_US if case.is_rung else START_US)) / 1e6


def expect_rings(rings: int, case: Case, sides: Sequence[Side], rounds: int = 0, seconds: float = math.inf) -> None:
    """Raise `UsageError` for too few rings to say anything of a round, or rings that are no whole bursts.

    And for so many that not even the fewest rounds fit into the time.
    """
    if case.is_timed and rings < _LEAST_RINGS:
        raise UsageError(f"{rings} rings a round are too few to speak of a p50: give --rings {_LEAST_RINGS} or more")
    for side in sides:
        burst = int(side.parameters.get("burst", 1))
        if rings % burst:
            raise UsageError(f"{rings} rings a round are no whole bursts of {burst}: give --rings a multiple of that")
    if rounds * _rung_s(rings, case, sides) > seconds:
        takes = math.ceil(takes_s(rings, case, sides, rounds))
        raise UsageError(
            f"{rounds} rounds, the fewest that say anything, take {takes} s with {rings} rings each, "
            f"and there are {seconds:g}: give it as many --seconds, or fewer --rings"
        )
