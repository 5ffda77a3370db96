"""`launcher doctor --aa`: what a duel can tell on this machine, found out with arms that do not differ.

Three arms that are the same take turns for a minute, and fitness.py tells what they show. What comes out is a sentence
to put into a gate, or that there is none to be had here.
"""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic

from launcher.bench.duels import duel, worktree
from launcher.bench.duels.fitness import FEWEST_BLOCKS, Report, examine
from launcher.bench.duels.rota import Rota, choose_rings
from launcher.bench.duels.sides import Side, parse
from launcher.bench.judging.judge import what_is_broken
from launcher.bench.judging.verdict import Settings
from launcher.bench.measure.cases import Case, get
from launcher.bench.measure.head import run_of
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.store import receipts
from launcher.bench.store.receipts import Round
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from launcher.tables import printed
from launcher.words import called, say
from shared.errors import (
    EXIT_BROKEN_RULE,
    EXIT_FINE,
    EXIT_NOTHING_MEASURED,
    EXIT_UNDECIDED,
    Interrupted,
    UsageError,
    worst,
)

DEFAULT_CASE = "wake"
DEFAULT_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; what is None was left to us."""

    case: str | None = None
    waker: str | None = None
    engine: str | None = None
    seconds: float | None = None
    output: Path | None = None
    is_json: bool = False


def main(asked: Request) -> int:
    """Measure, print, and return the exit code: 3 where no gate is honest. The main thread only."""
    case = get(asked.case or DEFAULT_CASE)
    if not case.is_timed:
        raise UsageError(f"case {case.name} has no times to speak of, and --aa says what times can tell: name another")
    side = parse(case, asked.waker or DEFAULT_WAKER, asked.engine or AUTO)
    sides = [side, side.again(), side.again().again()]
    limit_s = asked.seconds or DEFAULT_SECONDS
    rings = choose_rings(case, sides, 6 * FEWEST_BLOCKS, limit_s)
    rota = Rota(case, sides, rings, random.randrange(1, 1 << 31))
    say(f"identical arms take turns for {limit_s:.0f} s: case {case.name}, {side.waker} on engine {side.engine}")
    path = asked.output or receipts.default_path("doctor")
    rounds, stopped = _record(rota, limit_s, path)
    broken = what_is_broken(rounds)
    found = None if broken else examine(rounds)
    if broken:
        code, then = EXIT_BROKEN_RULE, shlex.join(["launcher", "check", "--waker", side.waker, "--engine", side.engine])
        say(f"broken: {broken[0]}")
    elif found is None:
        code, then = EXIT_NOTHING_MEASURED, _once_more(asked, asked.seconds if stopped else 2 * limit_s)
        remedy = ": give it more --seconds" if stopped is None else ""
        say(f"fewer than {FEWEST_BLOCKS} blocks were measured, and nothing can be said{remedy}")
    else:
        code, then = EXIT_FINE if found.is_fit else EXIT_UNDECIDED, next_command(found, case, side, asked)
    if stopped is not None:
        say(str(stopped))
        code = worst(code, stopped.exit_code)
    with printed(code):
        if asked.is_json:
            line = {"kind": "aa", **(found.to_json() if found else {}), "broken": broken, "receipts": str(path)}
            print(json.dumps({**line, "exit_code": code, "next": called(then)}, allow_nan=False))
        else:
            if found is not None:
                print_report(found)
            print(f"next: {called(then)}")
    return code


def _once_more(asked: Request, seconds: float | None) -> str:
    """Return the command that measures the same, for so long."""
    time = None if seconds is None else f"{max(seconds, DEFAULT_SECONDS):g}"
    given = {"--case": asked.case, "--waker": asked.waker, "--engine": asked.engine, "--seconds": time}
    return shlex.join(["launcher", "doctor", "--aa", *_options(given)])


def _options(given: Mapping[str, str | None]) -> list[str]:
    return [word for name, value in given.items() if value for word in (name, value)]


def next_command(report: Report, case: Case, side: Side, asked: Request) -> str:
    """Return the duel that keeps the gate, under the conditions that were asked for; or where to look for what ails."""
    if not report.is_fit:
        return "launcher doctor"
    try:
        worktree.resolve("HEAD")
        arms = [*filter(None, [asked.waker]), "--against", "HEAD"]
    except UsageError:  # an installed package has no earlier revision to be compared with
        others = (name for name in case.wakers() if name != side.waker and not case.why_not(name, side.engine))
        arms = [asked.waker or side.waker, *islice(others, 1)]
    given = {"--case": asked.case, "--engine": asked.engine, "--seconds": f"{report.fitness[0].gate_s or 0:.0f}"}
    return shlex.join(["launcher", "duel", *arms, *_options(given)])


def _record(rota: Rota, seconds: float, path: Path) -> tuple[list[Round], Interrupted | receipts.NotWritten | None]:
    """Run whole blocks for so many seconds; return the rounds, and what ended it before."""
    rounds: list[Round] = []
    run = run_of("doctor", rota.seed)
    stopped: Interrupted | receipts.NotWritten | None = None
    with terminated_as_interrupted(), progress() as tell, receipts.Writer.create(path, run) as writer:
        end_s, block = monotonic() + seconds, 0
        try:
            while monotonic() < end_s:
                for round_ in rota.block(block, lambda number, side: tell(f"block {number + 1}: {side.name}")):
                    rounds.append(round_)
                    writer.write(round_)
                block += 1
        except KeyboardInterrupt:
            stopped = Interrupted("interrupted")
        except receipts.NotWritten as reason:
            stopped = reason
    say(f"{len(rounds)} rounds {'were measured' if isinstance(stopped, receipts.NotWritten) else f'are in {path}'}")
    return rounds, stopped


def print_report(report: Report) -> None:
    """Print it, the gate last."""
    share = 100 * report.false_alarms / report.duels
    print(
        f"false alarms: {share:.1f} % of {report.duels} virtual duels of {report.window_blocks} blocks "
        f"({report.windows} different windows of {report.blocks} blocks in {report.seconds:.0f} s; "
        f"{report.apart} lie apart: 95 % bounds {100 * report.bounds.low:.1f} .. {100 * report.bounds.high:.1f} %)"
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
        print(f"an honest gate here: {report.fitness[0].sentence()}")
    elif share > (percent := 100 * Settings().alpha):
        print(f"no gate is honest here now: identical arms are told apart more often than in alpha = {percent:g} %")
    else:
        print("no gate is honest here now: identical arms differ too much; duels will say that they cannot tell")
