"""A session: all arms of one bench, in blocks. In each block every arm runs once, in random order, rung alike.

Whatever the machine does for a while it does to all arms of a block, and no arm always comes after the same other one.
How many rings a round has, and how many blocks there are, follows from the time that there is: many short blocks say
more than few long ones, because rounds differ more than rings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import DIRECT, Case, Value
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.rounds import PATIENCE_S, Plan, run_round
from launcher.bench.store.records import Round
from shared.errors import CannotRunError, UsageError

DEFAULT_SECONDS = 45.0
_FEW_BLOCKS, _MANY_BLOCKS = 5, 10
_START_S = 0.2
"""What a round takes besides its rings, about: a Launcher and a stimulus that start."""
START_US, CLOSED_US = 50_000, 200
"""What a start takes, and a ring that no time is set for, about."""
_FEWEST_RINGS, _MOST_RINGS = 60, 1000
_RINGS_PER_ROUND = 500
_MOST_IN_BURSTS = 65536
_LEAST_RINGS = 5
"""Fewer have no median (statistics.py)."""


Tell = Callable[[int, "ArmPlan"], object]
"""Is told of each round before it begins: the block and the arm."""


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm of a session."""

    name: str
    engine: str
    waker: str
    parameters: dict[str, Value]

    @property
    def is_yardstick(self) -> bool:
        """Whether it is there for the others to be compared with."""
        return is_yardstick(self.waker)


def is_yardstick(name: str) -> bool:
    """Whether this is no Waker, but what Wakers are compared with: a program in C, or the harness alone."""
    return name == DIRECT or name.startswith(yardstick.PREFIX)


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured: rings per round, and blocks; `seconds` bounds the whole, or is None."""

    rings: int
    blocks: int
    seconds: float | None


@dataclass(slots=True)
class Session:
    """What is to be run, and what came of it."""

    case: Case
    arms: list[ArmPlan]
    amount: Amount
    seed: int
    is_tracing: bool = False
    patience_s: float = PATIENCE_S
    failed: dict[str, str] = field(default_factory=dict)
    """Arms that could not be measured after all, and why; no further round of them is tried."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Arms of which it turned out when they started that they cannot run here."""

    def run(self, tell: Tell = lambda _block, _arm: None) -> Iterator[Round]:
        """Yield the rounds as they come; `tell` is told of each before it begins."""
        order = random.Random(self.seed)
        arms, breaks = list(self.arms), dict.fromkeys((arm.name for arm in self.arms), 0)
        began_s, block_s = monotonic(), 0.0
        for block in range(self.amount.blocks):
            if self.amount.seconds is not None and block and monotonic() - began_s + block_s > self.amount.seconds:
                return
            block_began_s = monotonic()
            order.shuffle(arms)
            seed = order.randrange(1 << 31)
            for position, arm in enumerate(list(arms)):
                tell(block, arm)
                plan = self.plan(arm, seed, block, position, breaks[arm.name])
                try:
                    round_ = run_round(plan)
                except CannotRunError as reason:
                    self.skipped[arm.name] = str(reason)
                    arms.remove(arm)
                except ArmFailed as reason:
                    self.failed[arm.name] = str(reason)
                    arms.remove(arm)
                else:
                    breaks[arm.name] += round_.counts.get("breaks", 0)
                    yield round_
            block_s = monotonic() - block_began_s

    def plan(self, arm: ArmPlan, seed: int, block: int, position: int, breaks_before: int) -> Plan:
        """Return one round of one arm."""
        return Plan(
            arm=arm.name,
            case=self.case.name,
            engine=arm.engine,
            waker=arm.waker,
            parameters=arm.parameters,
            rings=self.amount.rings,
            seed=seed,
            block=block,
            position=position,
            is_tracing=self.is_tracing and not arm.is_yardstick,
            breaks_before=breaks_before,
            patience_s=self.patience_s,
        )


def choose_amount(case: Case, arms: Sequence[ArmPlan], samples: int | None, seconds: float | None) -> Amount:
    """Return how much to measure: `samples` rings of each arm, or what fits into the time.

    Raises `UsageError` where not even one block of short rounds fits.
    """
    if samples is not None and case.is_timed:
        burst = _whole_bursts(arms)
        rings = max(burst, min(samples, _RINGS_PER_ROUND) // burst * burst)
        return Amount(rings, math.ceil(samples / rings), seconds)
    budget_s = DEFAULT_SECONDS if seconds is None else seconds
    if not case.is_timed:
        block_s = sum(_START_S + float(arm.parameters.get("seconds", 1.0)) for arm in arms)
        blocks = max(1, int(budget_s / max(block_s, _START_S)))
        return Amount(1, min(blocks, samples or _FEW_BLOCKS), None if samples else budget_s)
    fewest, most = (_FEWEST_RINGS, _MOST_RINGS) if case.is_rung else (5, 20)
    ring_s = sum(_gap_s(case, arm) / int(arm.parameters.get("burst", 1)) for arm in arms)
    starts_s = sum(_START_S + int(arm.parameters.get("warmup", 0)) * _gap_s(case, arm) for arm in arms)

    def rings_in(blocks: int) -> int:
        return int((budget_s / blocks - starts_s) / ring_s) if arms else most

    rings = max(min(fewest, rings_in(1)), min(most, rings_in(_FEW_BLOCKS)))
    if rings < _LEAST_RINGS:
        least_s = math.ceil(starts_s + _LEAST_RINGS * ring_s)
        shorter = ", or a shorter --set idle_us" if "idle_us" in case.parameters else ""
        raise UsageError(
            f"{len(arms)} arms of case {case.name} take {least_s} s at least, and there are {budget_s:g} s; "
            f"say --seconds {least_s}, or name fewer Wakers{shorter}"
        )
    burst = _whole_bursts(arms)
    return Amount(max(burst, rings // burst * burst), _MANY_BLOCKS if seconds is None else 10_000, budget_s)


def _gap_s(case: Case, arm: ArmPlan) -> float:
    return float(arm.parameters.get("idle_us", CLOSED_US if case.is_rung else START_US)) / 1e6


def _whole_bursts(arms: Sequence[ArmPlan]) -> int:
    """Return of how many rings a round must be a multiple so that no arm's last burst is cut off."""
    bursts = sorted({int(arm.parameters.get("burst", 1)) for arm in arms})
    rings = math.lcm(*bursts)
    if rings > _MOST_IN_BURSTS:
        raise UsageError(
            f"no round of up to {_MOST_IN_BURSTS} rings is whole bursts of {', '.join(map(str, bursts))}: "
            "set multiples of one another, or one at a time"
        )
    return rings
