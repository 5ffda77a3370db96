"""The small formulas that the verdicts share: Holm's family, power, and the bounds of a share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from launcher.bench.stats.signed_rank import Interval

_NORMAL = NormalDist()


def holm_levels(p_values: Sequence[float], level_of: Sequence[float]) -> list[float]:
    """Return the level at which each p is judged in its family (Holm 1979); `level_of[d - 1]` is that of alpha / d.

    The smallest of m is judged at alpha / m, the next at alpha / (m - 1), and so on. At the first that is not below its
    level Holm stops: what follows is not rejected either, and is given the level of the stop, so that p <= level for
    exactly those that Holm rejects.
    """
    levels = [0.0] * len(p_values)
    stopped_at: float | None = None
    for step, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        level = level_of[len(p_values) - step - 1] if stopped_at is None else stopped_at
        levels[at] = level
        if p_values[at] > level and stopped_at is None:
            stopped_at = level
    return levels


def standard_error(interval: Interval, level: float) -> float:
    """Return the standard error that an interval at the two-sided `level` stands for; infinite with it."""
    return interval.half_width / -_NORMAL.inv_cdf(level / 2)


def smallest_found(reach: float, error: float, power: float, floor: float) -> float:
    """Return the smallest shift found with chance `power`: the interval leaves out zero, the estimate is above `floor`.

    `reach` is how far the interval goes below the estimate. That is a little more than z times the error, because ranks
    cannot get more lopsided than all on one side.
    """
    return max(reach, floor) + _NORMAL.inv_cdf(power) * error


def share_bounds(hits: int, tries: int, confidence: float = 0.95) -> Interval:
    """Return the Clopper-Pearson bounds of a share: exact, for any number of tries from 0."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solve(lambda share: 1 - _at_most(hits - 1, tries, share), tail)
    high = 1.0 if hits == tries else 1 - _solve(lambda share: _at_most(hits, tries, 1 - share), tail)
    return Interval(low, high)


def _at_most(hits: int, tries: int, share: float) -> float:
    """Return the chance of at most `hits` in `tries`."""
    if share <= 0 or share >= 1:
        return float(share <= 0 or hits >= tries)
    log, log_not = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1) + k * log + (tries - k) * log_not
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _solve(rising: Callable[[float], float], wanted: float) -> float:
    """Return where in 0..1 a rising function reaches `wanted`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
