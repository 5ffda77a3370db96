"""The command that says more than this one did: the last line of whatever was measured or judged.

What it names ran: the same Wakers, on the same engine, with the same parameters.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from launcher.bench.judging.judge import BROKEN, Verdict, what_is_broken
from launcher.bench.judging.verdict import Outcome
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import CASES, DIRECT, Case, Value
from launcher.bench.show.summary import Summary
from launcher.bench.store.receipts import Receipts
from launcher.bench.store.records import setting

_REVISION = re.compile("[0-9a-f]{7,40}")


def after_bench(case: Case, summaries: Sequence[Summary]) -> str:
    """Return the command that says more than this one did."""
    wakers = [summary for summary in summaries if summary.is_waker]
    engine = f" --engine {wakers[0].engine}" if wakers else ""
    broken = [summary for summary in (*wakers, *summaries) if summary.is_broken]
    if broken:
        return _look_at(broken[0].waker, broken[0].engine)
    if not any(summary.n for summary in summaries):
        return "launcher doctor"
    if not wakers:  # stopped before, or it was not asked for any
        return f"launcher bench --case {case.name}"
    best = next((summary for summary in wakers if summary.is_sound), None)
    if best is not None and case.is_timed and (duel := _duel(case, best, wakers)):
        return duel
    other = "wake-busy" if case.name == "wake" else "wake"
    return f"launcher bench --case {other}{engine}"


def after_compare(worst: Verdict, base: Receipts, head: Receipts) -> str:
    """Return what follows two stored runs whose worst arm has this verdict: a duel, where the base is a revision."""
    rounds = head.of_arm(worst.head)
    arm = rounds[0]
    if worst.outcome == BROKEN:
        if not what_is_broken(rounds):
            return shlex.join(["launcher", "bench", "--show", str(base.path)])
        return _look_at(arm.waker, arm.engine)
    if worst.outcome in (Outcome.NOT_REGRESSED, Outcome.IMPROVED):
        return shlex.join(["launcher", "export", str(head.path), "--format", "benchfmt"])
    revision = str(base.run.host.get("git"))
    is_same = revision == str(head.run.host.get("git"))  # then it is the machine that differs
    if not _REVISION.fullmatch(revision) or is_same or arm.case not in CASES or arm.waker == DIRECT:
        return "launcher doctor --aa"
    command = ["launcher", "duel", arm.waker, "--against", revision, "--case", arm.case, "--engine", arm.engine]
    return shlex.join(command + _set(CASES[arm.case], arm.parameters))


def _look_at(waker: str, engine: str) -> str:
    """Return what says more of an arm that is broken: the rules, which what Wakers are compared with has not."""
    if waker == DIRECT or engine == yardstick.ENGINE:
        return "launcher doctor"
    return shlex.join(["launcher", "check", "--waker", waker, "--engine", engine])


def _duel(case: Case, best: Summary, wakers: Sequence[Summary]) -> str | None:
    """Return the duel of the best with the next one under its conditions; else with itself under others."""
    others = [one for one in wakers if one.is_sound]
    rival = next((one for one in others if one.is_comparable_with(best) and one.waker != best.waker), None)
    if rival is None:
        same = [one for one in others if (one.waker, one.engine) == (best.waker, best.engine)]
        rival = next((one for one in same if one.parameters != best.parameters), None)
    if rival is None or rival.parameters.keys() != best.parameters.keys():
        return None
    ours, theirs = best.parameters, rival.parameters
    differing = [name for name in ours if ours[name] != theirs[name]]
    sides = [
        "@".join(filter(None, [one.waker, ",".join(setting(name, one.parameters[name]) for name in differing)]))
        for one in (best, rival)
    ]
    command = ["launcher", "duel", *sides, "--case", case.name, "--engine", best.engine]
    return shlex.join(command + _set(case, {name: ours[name] for name in ours if name not in differing}))


def _set(case: Case, parameters: Mapping[str, Value]) -> list[str]:
    """Return the options of a duel that set what is not as it comes there."""
    defaults = {**case.defaults(), "pin": case.pin_of_duels()}
    apart = [setting(name, value) for name, value in parameters.items() if value != defaults.get(name)]
    return [word for setting in apart for word in ("--set", setting)]
