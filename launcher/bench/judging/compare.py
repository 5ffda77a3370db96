"""`launcher compare BASE HEAD`: two stored runs against each other, and what that is worth.

The rounds did not run side by side, so nothing pairs them, and what the machine did in between counts as if the code
had done it: weaker evidence than a duel, which is said each time. What can be done against it is done: where both
runs had the yardstick in C, every round is taken relative to the yardstick's of its own block, so that a machine that
was slower as a whole that day drops out.

What is compared has the same arm, case, engine, Waker and parameters in both files; the rest is named and left out.
What Wakers are compared with (C, and the harness alone) is not judged, and a duel's control is the base once more: they
take no share of alpha, and what one of them lost is said all the same.
The verdicts and floors are those of a duel (verdict.py), on the rank sum instead of the signed ranks (rank_sum.py).
Alpha is shared by all that is compared: twenty Wakers must not mean twenty chances of a false alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from launcher.bench.judging import pairs
from launcher.bench.judging.counts import Change, judge_counts
from launcher.bench.judging.judge import BROKEN, Verdict, and_more, conclude, what_is_broken
from launcher.bench.judging.verdict import Evidence, Outcome, Settings, judge_evidence, levels_needed
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import CASES, DIRECT
from launcher.bench.stats import rank_sum
from launcher.bench.stats.signed_rank import Floats
from launcher.bench.store import hosts
from launcher.bench.store.receipts import NothingMeasured, Receipts, ReceiptsError, Round

YARDSTICK = yardstick.ENGINE

WEAKER = (
    "these runs were not made side by side: what the machine did in between counts as if the code had done it "
    "(launcher duel pairs them)"
)

_WORST_FIRST = (BROKEN, Outcome.REGRESSED, Outcome.CANNOT_TELL, Outcome.NOT_REGRESSED, Outcome.IMPROVED)

Key = tuple[str, str, str, str, str]
"""Arm, case, engine, Waker, parameters."""
Rounds = dict[Key, list[Round]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two files came to: a verdict for each thing that both measured, and what to think of it."""

    verdicts: list[Verdict]
    warnings: list[str]
    settings: Settings
    """What was asked for; each verdict has its share of the alpha."""

    @property
    def worst(self) -> Verdict:
        """The verdict that decides: broken, then regressed, then cannot tell."""
        rank = {outcome: at for at, outcome in enumerate(_WORST_FIRST)}
        return min(self.verdicts, key=lambda verdict: rank.get(verdict.outcome, len(rank)))

    @property
    def exit_code(self) -> int:
        """The exit code of the worst."""
        return self.worst.exit_code

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "kind": "compare",
            "outcome": str(self.worst.outcome),
            "worst": self.worst.head,
            "exit_code": self.exit_code,
            "alpha": self.settings.alpha,
            "paired": False,
            "warnings": self.warnings,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


def compare(base: Receipts, head: Receipts, settings: Settings | None = None, *, is_forced: bool = False) -> Comparison:
    """Compare what both files measured.

    Raises `ReceiptsError` where the machines differ so that times cannot be compared, unless `is_forced`; and
    `NothingMeasured` where the two have nothing in common.
    """
    settings = settings or Settings()
    differences = hosts.decisive_differences(base.run.host, head.run.host)
    if differences and not is_forced:
        raise ReceiptsError(
            f"{base.path} and {head.path} are of different machines ({'; '.join(differences)}): "
            "measure both on one, or compare all the same with --force"
        )
    controls = [(stored, *_base_and_control(stored)) for stored in (base, head)]
    of_base, of_head = (
        _by_key(round_ for round_ in stored.rounds if round_.arm != control) for stored, _, control in controls
    )
    both = [key for key in of_base if key in of_head and key[2] != YARDSTICK]
    common = [key for key in both if key[3] != DIRECT] or both
    if not common:
        apart = _parameters_apart(of_base, of_head) or f"{_named(of_base)} against {_named(of_head)}"
        raise NothingMeasured(f"{base.path} and {head.path} have no rounds in common: {apart}")
    yardsticks = {key: _yardstick(key, of_base, of_head, settings) for key in common}
    notes = [*base.notes, *head.notes, WEAKER]
    notes += [f"different machines, compared because of --force: {difference}" for difference in differences]
    notes += hosts.doubts(base.run.host, head.run.host)
    if absolute := [key for key in common if yardsticks[key] is None]:
        named = "" if len(absolute) == len(common) else f" for {_named(absolute)}"
        notes.append(f"no yardstick in both{named}: absolute times are compared, which move with the machine")
    if left_out := [key for key in (*of_base, *of_head) if (key in of_base) != (key in of_head)]:
        notes.append(f"in one file only, left out: {_named(left_out)}")
    spared = [r for of in (of_base, of_head) for key in of if key not in common and _is_spared(key) for r in of[key]]
    if broken := what_is_broken(spared):
        notes.append(f"{broken[0]}{and_more(broken)}: what is no Waker is not judged")
    shared = replace(settings, alpha=settings.alpha / len(common))
    verdicts = []
    for key in common:
        its = yardsticks[key]
        in_c = (None, None) if its is None else (of_base[its], of_head[its])
        again = [r for stored, arm, control in controls if arm == key[0] for r in stored.rounds if r.arm == control]
        verdicts.append(_compare_one(of_base[key], of_head[key], again, in_c, shared))
    return Comparison(verdicts, notes, settings)


def _compare_one(
    base: Sequence[Round],
    head: Sequence[Round],
    again: Sequence[Round],
    yardsticks: tuple[Sequence[Round] | None, Sequence[Round] | None],
    settings: Settings,
) -> Verdict:
    logs = [_logs(rounds, in_c, settings) for rounds, in_c in zip((base, head), yardsticks, strict=True)]
    judged = [p for p in logs[0] if p in logs[1] and len(logs[0][p]) and len(logs[1][p])]
    is_timed = base[0].case not in CASES or CASES[base[0].case].is_timed
    needed = levels_needed(len(judged), settings)
    found = {p: _evidence(logs[0][p], logs[1][p], needed) for p in judged}
    counts = judge_counts(base, head, settings, _unpaired)
    notes = []
    if is_timed and not found:
        notes.append("no quantile that the rounds of both can speak for")
    if not is_timed and any(count.is_too_short for count in counts):
        fewest = min(count.pairs for count in counts)
        notes.append(f"{fewest} rounds a side are too few at this level: measure more of them (bench --samples)")
    return conclude(
        base=base[0].arm,
        head=head[0].arm,
        control=None,
        rounds=[*base, *head, *again],
        found=judge_evidence(found, {}, settings),
        counts=counts,
        settings=settings,
        notes=notes,
        is_timed=is_timed,
    )


def _unpaired(base: pairs.ByTurn, head: pairs.ByTurn) -> Change | None:
    one, other = (np.array(list(values.values()), dtype=float) for values in (base, head))
    if not len(one) or not len(other):
        return None
    return Change(
        pairs=min(len(one), len(other)),
        base=float(np.median(one)),
        head=float(np.median(other)),
        estimate=rank_sum.shift(one, other),
        p_value=rank_sum.p_value(one, other),
        interval=lambda level: rank_sum.interval(one, other, level),
    )


def _evidence(base: Floats, head: Floats, levels: Iterable[float]) -> Evidence:
    return Evidence(
        pairs=min(len(base), len(head)),
        estimate=rank_sum.shift(base, head),
        p_value=rank_sum.p_value(base, head),
        interval_at={level: rank_sum.interval(base, head, level) for level in levels},
        unit="rounds a side",
    )


def _logs(rounds: Sequence[Round], in_c: Sequence[Round] | None, settings: Settings) -> dict[float, Floats]:
    """Return the logs of each quantile, relative to the yardstick's in the same turn when there is one."""
    logs = pairs.log_quantiles(rounds, settings.quantiles)
    if in_c is None:
        return {p: np.array(list(values.values())) for p, values in logs.items()}
    return pairs.ratios(pairs.log_quantiles(in_c, settings.quantiles), logs)


def _yardstick(key: Key, base: Rounds, head: Rounds, settings: Settings) -> Key | None:
    """Return the yardstick of an arm: one that did the same with the same parameters, the same one in both files.

    The one of its place, as in a bench's table, else the first by name. One that has no turn with the arm is none.
    """
    of_same = (one for one in base if one[2] == YARDSTICK and (one[1], one[4]) == (key[1], key[4]))
    fitting = {
        one[3]: one
        for one in sorted(of_same, reverse=True)  # of two that are one program, the first by name
        if all(
            one in of and any(len(logs) for logs in _logs(of[key], of[one], settings).values()) for of in (base, head)
        )
    }
    named = yardstick.base_of(key[3], key[2], tuple(fitting))
    return fitting[named] if named is not None else min(fitting.values(), default=None)


def _is_spared(key: Key) -> bool:
    return key[2] == YARDSTICK or key[3] == DIRECT


def _base_and_control(stored: Receipts) -> tuple[object, object]:
    """Return which arm of a duel is its base, and which is the base once more; nothing of other receipts."""
    plan = stored.run.host.get("duel") if stored.run.kind == "duel" else None
    return (plan.get("base"), plan.get("control")) if isinstance(plan, dict) else (None, None)


def _by_key(rounds: Iterable[Round]) -> Rounds:
    found: Rounds = {}
    for round_ in rounds:
        parameters = json.dumps(round_.parameters, sort_keys=True)
        found.setdefault((round_.arm, round_.case, round_.engine, round_.waker, parameters), []).append(round_)
    return found


def _named(keys: Iterable[Key]) -> str:
    names = [f"{arm} ({case}, {engine}, {waker})" for arm, case, engine, waker, _ in keys]
    return ", ".join(names) or "nothing"


def _parameters_apart(base: Iterable[Key], head: Iterable[Key]) -> str:
    """Return in which parameters the arms differ that are the same but for them; empty when there are none."""
    of_head = {key[:4]: json.loads(key[4]) for key in head}
    found = []
    for key in base:
        one, other = json.loads(key[4]), of_head.get(key[:4])
        if other is not None:
            apart = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
            found += [f"{name} is {one.get(name)} and {other.get(name)}" for name in apart]
    return "; ".join(dict.fromkeys(found))
