"""Looking before the end without fooling oneself: how much of the error each look may spend.

A duel that stops as soon as p < 0.01 and looks five times is wrong far more often than one time in a hundred: each look
is another chance to be fooled. So the looks share the error. How many blocks there will be at most is fixed beforehand;
after a fraction t of them, all looks so far may together have spent, on either side,

    f(t) = 2 - 2 Phi(z / sqrt(t)),     z = Phi^-1(1 - alpha / 4),     f(1) = alpha / 2

(Lan and DeMets 1983, in the manner of O'Brien and Fleming): almost nothing early, when only a huge difference is worth
stopping for, and nearly all of alpha at the end, so that looking costs almost no power.

What a look may spend is turned into the level to test at, given that the earlier looks did not stop. A sum of signed
ranks is, across looks, a random walk with independent steps, to a very good approximation, so that the chance of the
walk crossing at look k and not before is an integral that is carried on from look to look (Armitage, McPherson and Rowe
1969). An interval at a look's level is a *repeated confidence interval* (Jennison and Turnbull 1989): all of them
together hold the truth with 1 - alpha, so any rule may decide when to stop, and both "regressed" and "not regressed"
may be read from them.

Rejected: confidence sequences. They allow a look after every block, and pay for it with intervals about half as wide
again at the end; four looks save most of the time that can be saved.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from launcher.bench.signed_rank import Floats

DEFAULT_LOOKS = 4

_NORMAL = NormalDist()
_STEPS = 400  # points of the walk's grid: the levels are right to 4 digits
_TINY = 1e-12  # a level below which no look decides anything


def planned(blocks: int, looks: int = DEFAULT_LOOKS) -> tuple[int, ...]:
    """Return after how many blocks to look, when there are to be `blocks` at most."""
    return tuple(sorted({math.ceil(blocks * look / looks) for look in range(1, looks + 1)}))


def spent(alpha: float, t: float) -> float:
    """Return how much of the two-sided `alpha` may be spent up to the fraction `t` of the blocks."""
    if t >= 1 or alpha < _TINY:
        return alpha
    return 4 * _NORMAL.cdf(_NORMAL.inv_cdf(alpha / 4) / math.sqrt(t))


def levels(alpha: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Return the two-sided level to test at for each look, which comes after these fractions of all blocks.

    The fractions rise, the last at most 1; looks that have not come yet are left out and change nothing.
    """
    return tuple(_look(alpha, fractions[:looks]).level for looks in range(1, len(fractions) + 1))


class _Look(NamedTuple):
    level: float
    grid: Floats
    density: Floats
    """How likely the walk is at each point of the grid and has not crossed before; times the width of the point."""
    is_spent: float


@lru_cache(maxsize=1024)
def _look(alpha: float, fractions: tuple[float, ...]) -> _Look:
    """Return the last of these looks, for what the walk could do until the one before it."""
    if not fractions:
        return _Look(0.0, np.zeros(1), np.ones(1), 0.0)
    before = _look(alpha, fractions[:-1])
    t = fractions[-1]
    step = math.sqrt(t - (fractions[-2] if len(fractions) > 1 else 0.0))
    to_spend = spent(alpha, t) - before.is_spent
    bound = _bound(before.grid, before.density, step, to_spend)
    edge = min(bound, 9 * math.sqrt(t))
    points = np.linspace(-edge, edge, _STEPS + 1)
    apart = (points[:, None] - before.grid[None, :]) / step
    density = _simpson(points) * (np.exp(-0.5 * apart**2) @ before.density) / (step * math.sqrt(2 * math.pi))
    level = 2 * _NORMAL.cdf(-bound / math.sqrt(t)) if math.isfinite(bound) else 0.0
    return _Look(level, points, density, before.is_spent + to_spend)


def _bound(grid: Floats, density: Floats, step: float, to_spend: float) -> float:
    """Return where to put the boundary so that the walk leaves with the chance `to_spend`; by halving."""
    if to_spend < _TINY:
        return math.inf
    low, high = 0.0, 40.0
    for _ in range(50):
        middle = (low + high) / 2
        if _crossing(grid, density, step, middle) > to_spend:
            low = middle
        else:
            high = middle
    return high


def _crossing(grid: Floats, density: Floats, step: float, bound: float) -> float:
    both = [
        math.erfc((bound - at) / step / math.sqrt(2)) + math.erfc((bound + at) / step / math.sqrt(2)) for at in grid
    ]
    return float(np.dot(density, both)) / 2


def _simpson(points: Floats) -> Floats:
    weights = np.full(len(points), (points[1] - points[0]) / 3)
    weights[1:-1:2] *= 4
    weights[2:-1:2] *= 2
    return weights
