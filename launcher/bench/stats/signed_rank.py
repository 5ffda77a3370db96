"""Paired comparison: the Wilcoxon signed-rank test, the estimate that belongs to it, and its interval.

One number for each pair of rounds: the log of the ratio of the two arms. Is its middle zero, and if not, what is it?

*Why this one.* Wake-up times have heavy tails and jump between modes, so means lie. Here an outlier counts as one
rank, however far out. And it needs no model of the machine: the order of the arms is drawn by lot, so if the arms are
the same, each difference could as well have had the other sign. That alone makes the test exact, wherever the machine
drifts to (a randomisation test). Where only the first half of a block is drawn and the second mirrors it, a drift
pushes the two differences of a block apart: then the test errs to the safe side.

*Three views of one thing.* The Walsh averages are the means of all pairs of differences (each with itself, too). Their
median is the Hodges-Lehmann estimate. The rank sum of the positive differences is the number of Walsh averages above
zero. So the interval of all shifts that the test would not reject runs from the c-th smallest Walsh average to the c-th
largest: p <= level exactly when the interval leaves out zero, and the estimate is always inside.

*Exact.* Up to EXACT_UP_TO differences the null distribution is computed (also with ties: the sign of each is a coin, so
it is a convolution over the ranks); beyond, it is the normal one, with continuity and ties corrected. Differences of
exactly zero say nothing about the sign and are left out of the test, as Wilcoxon did; they stay in the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_UP_TO = 120

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; infinite where there is too little to say anything."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2


EVERYTHING = Interval(-math.inf, math.inf)


def walsh_averages(differences: Floats) -> Floats:
    """Return the means of all pairs, each value with itself too, sorted."""
    i, j = np.triu_indices(len(differences))
    return np.sort((differences[i] + differences[j]) / 2)


def hodges_lehmann(differences: Floats) -> float:
    """Return the median of the Walsh averages, the shift that explains best; nan when there are no differences."""
    return float(np.median(walsh_averages(differences))) if len(differences) else math.nan


def p_value(differences: Floats) -> float:
    """Return the two-sided p of the signed-rank test: how likely so lopsided a sample is if the signs are coins."""
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    ranks = midranks(np.abs(moved))
    up = float(ranks[moved > 0].sum())
    lesser = min(up, float(ranks.sum()) - up)
    if len(moved) <= EXACT_UP_TO:
        return min(1.0, 2 * float(_null(tuple((2 * ranks).astype(int)))[: round(2 * lesser) + 1].sum()))
    # The variance is the sum of squared ranks over 4, which is corrected for ties as it stands.
    z = (float(ranks.sum()) / 2 - lesser - 0.5) / math.sqrt(float((ranks**2).sum()) / 4)
    return min(1.0, 2 * _NORMAL.cdf(-max(z, 0.0)))


def interval(differences: Floats, level: float) -> Interval:
    """Return the interval of all shifts that the test does not reject at the two-sided `level`."""
    return interval_of_walsh(walsh_averages(differences), len(differences), level)


def interval_of_walsh(walsh: Floats, n: int, level: float) -> Interval:
    """Do what `interval` does, for Walsh averages of `n` differences that are at hand."""
    c = _critical(n, level)
    return Interval(float(walsh[c - 1]), float(walsh[-c])) if c else EVERYTHING


def fewest_pairs(level: float) -> int:
    """Return how many differences it takes before the test can say anything at the two-sided `level`."""
    return max(1, math.ceil(1 - math.log2(level)))


def midranks(values: Floats) -> Floats:
    """Return the ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


@lru_cache(maxsize=4096)
def _critical(n: int, level: float) -> int:
    """Return the largest c with P(T < c) <= level / 2, where T is the rank sum: 0 when there is none."""
    if level <= 0:
        return 0
    if n <= EXACT_UP_TO:
        at_most = np.cumsum(_null(tuple(range(2, 2 * n + 1, 2)))[::2])  # doubled ranks: every second is empty
        # A hair above, so that a level that is one of the attainable ones counts as reached.
        return int(np.searchsorted(at_most, level / 2 * (1 + 1e-12), side="right"))
    mean, spread = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return max(0, math.floor(mean + 0.5 + _NORMAL.inv_cdf(level / 2) * spread))


@lru_cache(maxsize=256)
def _null(doubled_ranks: tuple[int, ...]) -> Floats:
    """Return the probability of each doubled rank sum when every sign is a coin."""
    chance = np.zeros(sum(doubled_ranks) + 1)
    chance[0] = 1
    for rank in doubled_ranks:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: len(chance) - rank]
        chance = (chance + shifted) / 2
    return chance
