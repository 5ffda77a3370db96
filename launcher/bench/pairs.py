"""From rounds to one number for each pair of rounds: what the paired statistics stand on.

Rounds of one block ran next to each other. An arm's first round in a block is paired with the other arm's first, its
second with the second, and so on. So in a mirrored block (A B B A) each half is a pair, and what drifts in a straight
line raises one difference of the two and lowers the other.

Rejected: to average the rounds of an arm in a block and pair the means. It cancels a straight drift exactly, and lets
one bad round spoil two: on simulated machines where one process in eight lands on a far core, 40 rounds of each arm
found a slowdown of 5 % in 11 % of duels instead of 79 %, and on heavy tails in 78 % instead of 92 %. Drift was never
what hurt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from launcher.bench import quantiles
from launcher.bench.receipts import OK, Round
from launcher.bench.signed_rank import Floats

ByTurn = dict[tuple[int, int], float]
"""A number of one arm by block and turn: whether it was the arm's first round in the block (0), its second, ..."""


def by_turn(rounds: Iterable[Round], measure: Callable[[Round], float | None]) -> ByTurn:
    """Return `measure` of each round of one arm that ended well and has one."""
    of_block: dict[int, list[Round]] = defaultdict(list)
    for round_ in rounds:
        of_block[round_.block].append(round_)
    found = {}
    for block, its_rounds in sorted(of_block.items()):
        # Turns are counted over all rounds: one that died must not shift those after it to other partners.
        for turn, round_ in enumerate(sorted(its_rounds, key=lambda r: r.position)):
            if round_.ended == OK and (value := measure(round_)) is not None:
                found[block, turn] = value
    return found


def differences(base: ByTurn, head: ByTurn) -> Floats:
    """Return head minus base for each turn that both have, in order."""
    return np.array([head[turn] - base[turn] for turn in base if turn in head], dtype=float)


def log_quantiles(rounds: Sequence[Round], wanted: Iterable[float]) -> dict[float, ByTurn]:
    """Return for each quantile its log (of nanoseconds) by turn.

    A quantile is there when each round that ended well can speak for it: a p99 of some of the rounds would be one of
    the lucky ones. And when it is above zero in each: a time that is not says that the file is wrong, or the clock.
    """
    fine = [round_ for round_ in rounds if round_.ended == OK]
    fewest = min((len(round_.latencies_ns) for round_ in fine), default=0)
    supported = quantiles.supported(fewest, wanted)
    read = {id(round_): quantiles.read(round_.latencies_ns, supported) for round_ in fine}
    kept = [p for p in supported if all(found[p] > 0 for found in read.values())]

    def log_of(p: float) -> Callable[[Round], float]:
        return lambda round_: math.log(read[id(round_)][p])

    # All rounds, not the fine ones: a turn that failed is a turn.
    return {p: by_turn(rounds, log_of(p)) for p in kept}


def ratios(base: Mapping[float, ByTurn], head: Mapping[float, ByTurn]) -> dict[float, Floats]:
    """Return for each quantile that both arms have the log ratio by turn."""
    return {p: differences(base[p], head[p]) for p in base if p in head}
