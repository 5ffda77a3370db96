"""The command that says more than this one did: the last line of whatever was measured or judged.

What it names ran: the same Wakers, on the same engine, with the same parameters.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from launcher.bench.judging.judge import BROKEN
from launcher.bench.judging.verdict import Outcome
from launcher.bench.measure.cases import CASES, Case, Value
from launcher.bench.show.summary import Summary
from launcher.bench.store.records import Round, setting

_REVISION = re.compile("[0-9a-f]{7,40}")


def after_bench(case: Case, summaries: Sequence[Summary]) -> str:
    """Return the command that says more than this one did."""
    wakers = [summary for summary in summaries if summary.is_waker]
    engine = f" --engine {wakers[0].engine}" if wakers else ""
    lost = next((summary for summary in wakers if summary.lost), None)
    if lost is not None:
        return shlex.join(["launcher", "check", "--waker", lost.waker, "--engine", lost.engine])
    if not any(summary.n for summary in summaries):
        return "launcher doctor"
    best = next((summary for summary in wakers if summary.is_sound), None)
    if best is not None and case.is_timed and (duel := _duel(case, best, wakers)):
        return duel
    other = "wake-busy" if case.name == "wake" else "wake"
    return f"launcher bench --case {other}{engine}"


def after_compare(outcome: str, head: Round, gits: tuple[object, object], receipts: str) -> str:
    """Return what follows two stored runs whose worst arm is that of `head`: a duel, where the base is a revision.

    `gits` are the revisions of base and head; where they are the same it is the machine that differs.
    """
    if outcome == BROKEN:
        return shlex.join(["launcher", "check", "--waker", head.waker, "--engine", head.engine])
    if outcome in (Outcome.NOT_REGRESSED, Outcome.IMPROVED):
        return shlex.join(["launcher", "export", receipts, "--format", "benchfmt"])
    revision = str(gits[0])
    if not _REVISION.fullmatch(revision) or gits[0] == gits[1] or head.case not in CASES:
        return "launcher doctor --aa"
    command = ["launcher", "duel", head.waker, "--against", revision, "--case", head.case, "--engine", head.engine]
    return shlex.join(command + _set(CASES[head.case], head.parameters))


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
