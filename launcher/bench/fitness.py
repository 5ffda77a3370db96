"""`launcher doctor --aa`: what a duel can tell on this machine, found out with arms that do not differ.

Three arms that are the same take turns for a minute. Whatever differs between them is the machine. It says how often a
duel would have called one of them slower (it should be next to never), and how small a slowdown would have been found:
once by putting slowdowns into windows of what was recorded, and once from its spread, for a duel as long as wanted.
What comes out is a sentence to put into a gate, or that there is none to be had here.
"""

from __future__ import annotations

import json
import math
import random
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, permutations
from time import monotonic

from launcher.bench import calibration, duel, provenance, quantiles, receipts, signed_rank, statistics
from launcher.bench.cases import get
from launcher.bench.judge import what_is_broken
from launcher.bench.receipts import Round, Run
from launcher.bench.rota import Rota, choose_rings
from launcher.bench.sides import parse
from launcher.bench.terminal import progress, say, terminated_as_interrupted
from launcher.bench.verdict import Outcome, Settings
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from shared.errors import (
    EXIT_BROKEN_RULE,
    EXIT_FINE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_MEASURED,
    EXIT_UNDECIDED,
)

DEFAULT_SECONDS = 75.0
MOST_SECONDS = 120.0
"""A gate that takes longer is none."""
GATES = (0.04, 0.05, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
_FEWEST_BLOCKS = 6
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
    in_windows: float | None
    """The slowdown of p50 that 95 % of the windows find; None when they do not."""
    fitness: list[Fitness]

    @property
    def is_fit(self) -> bool:
        """Whether a gate on p50 is honest here."""
        return bool(self.fitness) and self.fitness[0].gate is not None and self.false_alarms <= self.duels * 0.05

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "kind": "aa",
            "blocks": self.blocks,
            "seconds": self.seconds,
            "false_alarms": self.false_alarms,
            "duels": self.duels,
            "windows": self.windows,
            "smallest_in_windows": self.in_windows,
            "fitness": [{name: getattr(one, name) for name in Fitness.__slots__} for one in self.fitness],
            "is_fit": self.is_fit,
        }


def main(*, seconds: float | None, is_json: bool) -> int:
    """Measure, print, and return the exit code: 3 where no gate is honest. The main thread only."""
    case = get("wake")
    side = parse(case, DEFAULT_WAKER, AUTO)
    sides = [side, side.again(), side.again().again()]
    rota = Rota(case, sides, choose_rings(case, sides), random.randrange(1 << 31))
    limit_s = seconds or DEFAULT_SECONDS
    say(f"identical arms take turns for {limit_s:.0f} s: case {case.name}, {side.waker} on engine {side.engine}")
    rounds, was_interrupted = _record(rota, limit_s)
    if broken := what_is_broken(rounds):
        say(f"broken: {broken[0]}; next: launcher check")
        return EXIT_BROKEN_RULE
    found = examine(rounds)
    if found is None:
        say(f"fewer than {_FEWEST_BLOCKS} blocks were measured, and nothing can be said: give it more --seconds")
        return EXIT_INTERRUPTED if was_interrupted else EXIT_NOTHING_MEASURED
    if is_json:
        print(json.dumps(found.to_json(), allow_nan=False), flush=True)
    else:
        print_report(found)
    if was_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FINE if found.is_fit else EXIT_UNDECIDED


def _record(rota: Rota, seconds: float) -> tuple[list[Round], bool]:
    """Run whole blocks for so many seconds; return the rounds, and whether somebody had enough before the end."""
    rounds: list[Round] = []
    command = shlex.join(["launcher", *sys.argv[1:]])
    run = Run(command, "doctor", provenance.host(rota.seed), datetime.now(UTC).isoformat(timespec="seconds"))
    path = receipts.default_path("doctor")
    was_interrupted = False
    with terminated_as_interrupted(), progress() as tell, receipts.Writer.create(path, run) as writer:
        end_s, block = monotonic() + seconds, 0
        try:
            while monotonic() < end_s:
                for round_ in rota.block(block, lambda number, side: tell(f"block {number + 1}: {side.name}")):
                    writer.write(round_)
                    rounds.append(round_)
                block += 1
        except KeyboardInterrupt:
            was_interrupted = True
    say(f"{len(rounds)} rounds are in {path}")
    return rounds, was_interrupted


def examine(rounds: list[Round]) -> Report | None:
    """Return what rounds of three identical arms show, or None when they are too few."""
    complete = Counter(round_.block for round_ in rounds)
    recorded = calibration.record([round_ for round_ in rounds if complete[round_.block] == 6]) if rounds else None
    if recorded is None or recorded.blocks < _FEWEST_BLOCKS:
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


def print_report(report: Report) -> None:
    """Print it, the gate last."""
    share = 100 * report.false_alarms / report.duels
    print(
        f"false alarms: {share:.1f} % of {report.duels} virtual duels of {report.window_blocks} blocks "
        f"({report.windows} different windows of {report.blocks} blocks in {report.seconds:.0f} s)"
    )
    if report.in_windows is None:
        print("in those windows no slowdown is found with 95 % power, not even one of 300 %")
    else:
        print(f"in those windows a slowdown of p50 by {100 * report.in_windows:.1f} % is found with 95 % power")
    for one in report.fitness:
        smallest = "nothing" if one.smallest is None else f"{100 * one.smallest:.1f} %"
        print(
            f"{one.quantile}: a duel of {duel.DEFAULT_SECONDS:.0f} s finds {smallest} with 95 % power; "
            f"honest gate: {one.sentence()}"
        )
    if report.is_fit:
        gate = report.fitness[0]
        print(f"an honest gate here: {gate.sentence()}")
        print(f"next: launcher duel --against HEAD --seconds {math.ceil(gate.gate_s or 0)}")
    else:
        print("no gate is honest here now: identical arms differ too much; duels will say that they cannot tell")
        print("next: launcher doctor")


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
