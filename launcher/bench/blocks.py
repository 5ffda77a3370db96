"""From rounds to one number for each block: what the paired statistics stand on.

Rounds of one block ran next to each other. Where an arm ran more than once in it (A B B A), its logs are averaged
first, so that what drifts in a straight line through the block is the same for both arms and drops out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from launcher.bench import quantiles
from launcher.bench.receipts import OK, Round
from launcher.bench.signed_rank import Floats

ByBlock = dict[int, float]


def by_block(rounds: Iterable[Round], measure: Callable[[Round], float | None]) -> ByBlock:
    """Return the mean of `measure` for each block, over the rounds that ended well and have one."""
    values: dict[int, list[float]] = defaultdict(list)
    for round_ in rounds:
        if round_.ended == OK and (value := measure(round_)) is not None:
            values[round_.block].append(value)
    return {block: math.fsum(found) / len(found) for block, found in sorted(values.items())}


def differences(base: ByBlock, head: ByBlock) -> Floats:
    """Return head minus base for each block that has both, in order of the blocks."""
    return np.array([head[block] - base[block] for block in base if block in head], dtype=float)


def log_quantiles(rounds: Sequence[Round], wanted: Iterable[float]) -> dict[float, ByBlock]:
    """Return for each quantile the mean log (of nanoseconds) by block.

    A quantile is there when each round that ended well can speak for it: a p99 of some of the rounds would be one of
    the lucky ones.
    """
    fine = [round_ for round_ in rounds if round_.ended == OK]
    fewest = min((len(round_.latencies_ns) for round_ in fine), default=0)
    kept = quantiles.supported(fewest, wanted)
    read = {id(round_): quantiles.read(round_.latencies_ns, kept) for round_ in fine}
    # A latency of 0 or less has no log. The clock counts nanoseconds and a wake-up takes thousands: call it one.
    return {p: by_block(fine, lambda r, p=p: math.log(max(read[id(r)][p], 1.0))) for p in kept}  # type: ignore[misc]


def ratios(base: Mapping[float, ByBlock], head: Mapping[float, ByBlock]) -> dict[float, Floats]:
    """Return for each quantile that both arms have the log ratio by block."""
    return {p: differences(base[p], head[p]) for p in base if p in head}
