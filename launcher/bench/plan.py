"""How long a duel has to be: from a few pairs of rounds, how many it takes to find what is to be found.

Two things are wanted of it: a change of that size is found with the given power, and no change is called "not
regressed" with the same. Which of them takes longer depends on delta; the answer is the longer. It is an estimate
from a pilot: a machine may be noisier later, and then the verdict says that it cannot tell.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from launcher.bench import looks, signed_rank, statistics
from launcher.bench.signed_rank import Floats
from launcher.bench.verdict import Settings

_NORMAL = NormalDist()
_PILOT_LEVEL = 0.2  # of the interval that tells the spread: finite from 4 pairs on


def pairs_needed(
    pilot: Floats, change: float, settings: Settings, *, look_count: int = looks.DEFAULT_LOOKS
) -> int | None:
    """Return how many pairs find `change` (0.05 is 5 %); None where the pilot is too short, or the change below delta.

    `pilot` are log ratios of pairs, of arms that differ or not.
    """
    error = statistics.standard_error(signed_rank.interval(pilot, _PILOT_LEVEL), _PILOT_LEVEL)
    shift, floor = math.log1p(change), settings.log_delta
    if not math.isfinite(error) or shift <= floor:
        return None
    fractions = tuple(look / look_count for look in range(1, look_count + 1))
    level = looks.levels(settings.alpha / len(settings.quantiles), fractions)[-1]
    if level <= 0:  # of an alpha of next to nothing
        return None
    equivalence = looks.levels(2 * settings.beta, fractions)[-1]
    z = _NORMAL.inv_cdf(settings.power)
    wanted = min(
        shift / (z + _reach(level)),  # the interval leaves out zero
        (shift - floor) / z,  # the estimate is above the floor
        floor / (z + _reach(equivalence)),  # without a change: the interval ends below delta
    )
    return max(signed_rank.fewest_pairs(level), math.ceil(len(pilot) * (error / wanted) ** 2))


def _reach(level: float) -> float:
    return -_NORMAL.inv_cdf(level / 2)
