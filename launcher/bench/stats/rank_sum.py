"""Unpaired comparison: the Mann-Whitney test, the Hodges-Lehmann shift, and its interval.

For rounds that did not run side by side. It is the twin of signed_rank.py: the shift is the median of all differences
between a value of one and a value of the other, the test counts how many are positive, and the interval runs from the
c-th smallest difference to the c-th largest.

It is weaker evidence, and not only because it has less power. No lot decided which value belongs to which side: what
the machine did between the two runs counts as if the code had done it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from launcher.bench.stats.signed_rank import EVERYTHING, Floats, Interval, midranks

EXACT_UP_TO = 40
"""Values on each side. The exact distribution is for values without ties, which logs of quantiles nearly always are."""

_NORMAL = NormalDist()


def all_differences(base: Floats, head: Floats) -> Floats:
    """Return every head minus every base, sorted."""
    return np.sort((head[:, None] - base[None, :]).ravel())


def shift(base: Floats, head: Floats) -> float:
    """Return the median of all differences; nan when there are none."""
    return float(np.median(all_differences(base, head))) if len(base) and len(head) else math.nan


def p_value(base: Floats, head: Floats) -> float:
    """Return the two-sided p of the Mann-Whitney test."""
    n, m = len(base), len(head)
    if not n or not m:
        return 1.0
    both = np.concatenate([base, head])
    u = float(midranks(both)[n:].sum()) - m * (m + 1) / 2
    lesser = min(u, n * m - u)
    _, ties = np.unique(both, return_counts=True)
    if max(n, m) <= EXACT_UP_TO and len(ties) == n + m:
        return min(1.0, 2 * float(_null(n, m)[: int(lesser) + 1].sum()))
    size = n + m
    variance = n * m / 12 * (size + 1 - float((ties**3 - ties).sum()) / (size * (size - 1)))
    if variance <= 0:  # all values are the same
        return 1.0
    z = (n * m / 2 - lesser - 0.5) / math.sqrt(variance)
    return min(1.0, 2 * _NORMAL.cdf(-max(z, 0.0)))


def interval(base: Floats, head: Floats, level: float) -> Interval:
    """Return the interval of all shifts that the test does not reject at the two-sided `level`."""
    c = _critical(len(base), len(head), level)
    differences = all_differences(base, head)
    return Interval(float(differences[c - 1]), float(differences[-c])) if c else EVERYTHING


@lru_cache(maxsize=256)
def _critical(n: int, m: int, level: float) -> int:
    """Return the largest c with P(U < c) <= level / 2: 0 when there is none."""
    if not n or not m or level <= 0:
        return 0
    if max(n, m) <= EXACT_UP_TO:
        return int(np.searchsorted(np.cumsum(_null(n, m)), level / 2 * (1 + 1e-12), side="right"))
    spread = math.sqrt(n * m * (n + m + 1) / 12)
    return max(0, math.floor(n * m / 2 + 0.5 + _NORMAL.inv_cdf(level / 2) * spread))


@lru_cache(maxsize=256)
def _null(n: int, m: int) -> Floats:
    """Return the probability of each U when both sides are the same.

    The count of each U is a coefficient of the Gaussian binomial: the product of (1 - x^(m+i)) / (1 - x^i), i = 1..n.
    Multiplying and dividing in turn keeps every step a whole polynomial; Python's integers keep it exact.
    """
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for at in range(n * m, m + i - 1, -1):
            ways[at] -= ways[at - m - i]
        for at in range(i, n * m + 1):
            ways[at] += ways[at - i]
    total = math.comb(n + m, n)
    return np.array([way / total for way in ways])
