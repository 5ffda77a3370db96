"""What to do after a duel: the command that says more, under the same conditions, or that rings it all again."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.bench.duels.duel import Plan
from launcher.bench.judging.judge import BROKEN, NOTHING_MEASURED, Verdict
from launcher.bench.judging.verdict import Outcome
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import Case, get
from launcher.bench.store.receipts import Round
from launcher.bench.store.records import setting

MOST_SEED = 1 << 31
"""What the command line takes is less, and above 0."""


def next_command(verdict: Verdict, plan: Plan, rounds: Sequence[Round], replay: str, path: Path) -> str:
    """Return the command that says more than this one did, under the same conditions."""
    arms = [arm for name in (plan.base, plan.head) if (arm := next((r for r in rounds if r.arm == name), None))]
    if verdict.outcome == BROKEN or len(arms) < 2:
        return replay
    bench = ["launcher", "bench", "--case", plan.case, *_both(get(plan.case), arms)]
    if verdict.outcome == NOTHING_MEASURED:
        return shlex.join(bench)
    if verdict.outcome == Outcome.REGRESSED:
        return shlex.join([*bench, "--stages"])
    if verdict.outcome == Outcome.CANNOT_TELL:
        return shlex.join(["launcher", "doctor", *_identical(get(plan.case), arms)])
    return shlex.join(["launcher", "export", str(path), "--format", "benchfmt"])


def _both(case: Case, arms: Sequence[Round]) -> Iterator[str]:
    """Yield the options with which a bench has both arms as they were: their Wakers, engines, and what was set."""
    for waker in dict.fromkeys(arm.waker for arm in arms):
        yield from ("--waker", waker)
    for engine in dict.fromkeys(arm.engine for arm in arms if arm.engine != yardstick.ENGINE):
        yield from ("--engine", engine)
    for name, default in case.defaults().items():
        values = [*dict.fromkeys(arm.parameters.get(name, default) for arm in arms)]
        if values not in ([], [default]):
            yield from ("--set", setting(name, *values))


def _identical(case: Case, arms: Sequence[Round]) -> Iterator[str]:
    """Yield the options with which the doctor measures what the base alone shows, where times can."""
    if case.is_timed:
        defaults = {**case.defaults(), "pin": case.pin_of_duels()}
        own = ",".join(setting(n, v) for n, v in arms[0].parameters.items() if n in defaults and v != defaults[n])
        yield from ("--aa", "--case", case.name, "--waker", f"{arms[0].waker}@{own}" if own else arms[0].waker)
        if arms[0].engine != yardstick.ENGINE:
            yield from ("--engine", arms[0].engine)


def replay_command(command: str, seed: int) -> str:
    """Return the command that rings all alike once more; where it wrote to is taken by then.

    A stranger's seed may be none that the command line takes: then it is the same command, and no replay. And what the
    stranger called may be no duel of ours: that is nobody's next command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-o", "--output")
    parser.add_argument("--seed")
    try:
        _, kept = parser.parse_known_args(shlex.split(command))
    except (ValueError, argparse.ArgumentError):  # of a file that somebody else wrote
        kept = []
    if kept[:2] != ["launcher", "duel"]:
        kept = ["launcher", "duel"]
    return shlex.join([*kept, *(("--seed", str(seed)) if 0 < seed < MOST_SEED else ())])
