"""The real duels of a calibration: fought one after the other, a line of JSON each, and what they came to.

A thousand virtual ones say how often the verdict is wrong; these say that a duel as anybody fights it does the same,
and how long it takes.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from launcher.bench.duels import duel
from launcher.bench.duels.recording import BASE, TARGETS, Arms
from launcher.bench.duels.rota import Rota
from launcher.bench.judging.judge import BROKEN, NOTHING_MEASURED
from launcher.bench.judging.verdict import Outcome, Settings
from launcher.bench.measure.cases import Case
from launcher.bench.show.rates import Row
from launcher.bench.stats import statistics
from launcher.bench.store.receipts import ReceiptsError
from launcher.words import shown

ENOUGH = 10
"""Fewer of a pair confirm nothing."""
MOST_SECONDS = 120.0
_A_DAY_S = 86_400
_OUTCOMES = (*map(str, Outcome), BROKEN, NOTHING_MEASURED)


def fight(
    case: Case,
    arms: Arms,
    path: Path,
    wanted: int,
    seconds: float = duel.DEFAULT_SECONDS,
    tell: Callable[[str], object] = lambda _text: None,
) -> None:
    """Fight real duels, one line of JSON each, until there are so many of each pair."""
    sides = {side.name: side for side in arms.rota(case).sides}
    done = fought(path)
    for number in range(wanted):
        for head in TARGETS:
            if done[head] > number:
                continue
            tell(f"real duel {number + 1} of {wanted}: {head} against A")
            # A' is an arm of its own here, so the control is A''.
            arms_of_it = [sides[BASE], sides[head], sides[BASE].again().again()]
            rota = Rota(case, arms_of_it, arms.rings, random.randrange(1, 1 << 31))
            line = _fight_one(rota, head, seconds)
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, json.dumps(line, allow_nan=False))


def _fight_one(rota: Rota, head: str, seconds: float) -> dict[str, object]:
    began_s = monotonic()
    plan, rounds = duel.begin(rota, Settings(), seconds)
    if not rounds:
        duel.fight(rota, plan, rounds.append, began_s + seconds)
    verdict = plan.judge(rounds)
    took_s = round(monotonic() - began_s, 1)
    return {
        "head": head,
        "outcome": str(verdict.outcome),
        "seconds": took_s,
        "plan": plan.to_json(),
        "sentence": verdict.sentence,
        "quantiles": [found.to_json() for found in verdict.quantiles],
    }


def rows(path: Path) -> Iterator[Row]:
    """Yield for each pair of arms that was fought what came of it."""
    lines = [line for line in _lines(path) if line["outcome"] != BROKEN]
    for head, target in TARGETS.items():
        if mine := [line for line in lines if line["head"] == head]:
            outcomes = Counter(str(line["outcome"]) for line in mine)
            longest_s = max(line["seconds"] for line in mine)
            bounds = statistics.share_bounds(outcomes[Outcome.REGRESSED], len(mine))
            reserve = f"met so far ({len(mine)} of {ENOUGH})" if len(mine) < ENOUGH else ""
            if longest_s > MOST_SECONDS:
                reserve = "TOO LONG"
            remark = f"the longest took {longest_s:.0f} s, of {MOST_SECONDS:.0f} s at most"
            yield Row(head, "real", len(mine), outcomes, bounds, target, remark, reserve)


def what_is_broken(path: Path) -> Iterator[str]:
    """Yield a sentence for each duel in which a wake-up was lost, or a round hung or died."""
    for line in _lines(path):
        if line["outcome"] == BROKEN:
            yield f"a real duel of A against {line['head']}: {shown(str(line.get('sentence')))}"


def fought(path: Path) -> Counter[str]:
    """Return how many real duels of each pair are in the file."""
    return Counter(line["head"] for line in _lines(path))


def _append(path: Path, line: str) -> None:
    is_torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if is_torn else "") + line + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the duels that are there; one that was cut off is none. Raises `ReceiptsError` for what is no duel."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not _is_duel(found):
            raise ReceiptsError(f"{path}, line {number} is no duel of a calibration; name another file with -o")
        yield found


def _is_duel(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    seconds = found.get("seconds")
    is_timed = isinstance(seconds, int | float) and 0 <= seconds < _A_DAY_S
    return is_timed and found.get("head") in [*TARGETS] and found.get("outcome") in _OUTCOMES
