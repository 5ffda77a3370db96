"""A recording for the calibration: identical arms and slowed ones take turns for as long as somebody has.

The slowed arms are the same Waker with a delay before each break (shared/fault.py), as long as 5 % and 10 % of the p50
that was measured first. What that comes to in the end is measured as well.

The file is receipts like any other, and is to be kept for years, so rounds are made small: latencies in order of size
and rounded to 1 in 512 (a fifteenth of what a duel lets pass), without what they used. It can be stopped at any time
and gone on with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from launcher.bench.duels.rota import Rota, Tell, choose_rings, tell_nobody
from launcher.bench.duels.sides import Side, parse
from launcher.bench.judging import pairs
from launcher.bench.judging.judge import what_is_broken
from launcher.bench.measure.cases import Case
from launcher.bench.measure.head import fields_of, run_of
from launcher.bench.show.rates import Target
from launcher.bench.stats import quantiles, signed_rank
from launcher.bench.store.packing import Nanoseconds
from launcher.bench.store.receipts import OK, Receipts, ReceiptsError, Round, Writer
from shared.errors import LabError

KIND = "calibration"
BASE, AGAIN = "A", "A'"
SLOWER = {"A+5%": 0.05, "A+10%": 0.10}
TARGETS: dict[str, Target] = {
    AGAIN: Target("at most", 0.01),
    "A+5%": Target("at least", 0.90),
    "A+10%": Target("at least", 0.99),
}
"""How often "regressed" is to be said of each arm against A."""

_FIELDS = {
    **dict.fromkeys(("case", "engine"), str),
    **dict.fromkeys(("wakers", "parameters"), dict),
    **dict.fromkeys(("rings", "seed"), int),
    "p50_ns": float,
}
_TRIES = 15
_KEPT_BITS = 9
_COUNTS = ("sent", "served", "lost", "late", "spurious", "breaks", "broken_in_vain", "dropped")


@dataclass(frozen=True, slots=True)
class Arms:
    """What the head of a recording holds of its arms."""

    p50_ns: float
    wakers: dict[str, str]
    engine: str
    parameters: dict[str, Any]
    rings: int
    seed: int

    def rota(self, case: Case) -> Rota:
        """Return the rota of these arms; raises what `parse` does: a file's may be anything, or not run here."""
        settings = [f"{name}={value}" for name, value in self.parameters.items()]
        sides = [replace(parse(case, waker, self.engine, settings), name=name) for name, waker in self.wakers.items()]
        return Rota(case, sides, self.rings, self.seed)


def choose_arms(case: Case, side: Side, seed: int, tell: Tell = tell_nobody) -> Arms:
    """Measure the p50 of this side, and return the arms of a recording with it."""
    rota = Rota(case, [side], choose_rings(case, [side]), seed)
    p50s = []
    for number in range(_TRIES):
        tell(number, side)
        round_ = rota.round(side, seed + number)
        if round_.ended != OK or what_is_broken([round_]):
            why = [*what_is_broken([round_]), round_.ended][0]
            raise LabError(f"{why}: there is nothing to calibrate with")
        p50s.append(quantiles.read(round_.latencies_ns, [0.5])[0.5])
    p50_ns = float(np.median(p50s))
    slower = {name: f"{side.waker}+delay={share * p50_ns / 1e3:.2f}" for name, share in SLOWER.items()}
    wakers = {BASE: side.waker, AGAIN: side.waker, **slower}
    return Arms(p50_ns, wakers, side.engine, dict(side.parameters), rota.rings, seed)


def create(path: Path, case: Case, arms: Arms) -> Writer:
    """Begin a recording."""
    held = {"case": case.name, **asdict(arms)}
    return Writer.create(path, run_of(KIND, arms.seed, "scripts/calibrate", **{KIND: held}))


def arms_of(stored: Receipts) -> tuple[str, Arms]:
    """Return the case and the arms of a recording; raise `ReceiptsError` for receipts that are none."""
    fields = fields_of(stored, KIND, _FIELDS, "a calibration; name another file")
    case, arms = str(fields.pop("case")), Arms(**fields)
    if arms.wakers.keys() != {BASE, AGAIN, *SLOWER} or not all(type(waker) is str for waker in arms.wakers.values()):
        raise ReceiptsError(f"{stored.path}: its arms are {arms.wakers!r:.40}, and not {BASE}, {AGAIN} and slower ones")
    if not (0 < arms.rings < 1 << 31 and arms.p50_ns > 0):
        raise ReceiptsError(f"{stored.path}: its rounds have {arms.rings!r:.40} rings, or A a p50 of nothing")
    for round_ in stored.rounds:
        if round_.arm not in arms.wakers or round_.case != case or round_.duration_ns <= 0:
            where = f"{stored.path}: block {round_.block}, position {round_.position}"
            raise ReceiptsError(f"{where} is of an arm or a case that it has not, or took no time")
    return case, arms


def go_on(rota: Rota, writer: Writer, done: list[Round], seconds: float, tell: Tell = tell_nobody) -> None:
    """Record whole blocks after those that are there, for so many seconds; rounds are added to `done`, too."""
    end_s = monotonic() + seconds
    block = max((round_.block for round_ in done), default=-1) + 1
    while monotonic() < end_s:
        for round_ in rota.block(block, tell):
            small = slim(round_)
            writer.write(small)
            done.append(small)
        block += 1


def slim(round_: Round) -> Round:
    """Return the round with what calibration needs of it."""
    counts = {name: round_.counts[name] for name in _COUNTS if name in round_.counts}
    times = rounded(np.sort(round_.latencies_ns))
    return replace(round_, latencies_ns=times, counts=counts, usage=[], stages_ns={}, parameters={})


def rounded(values: Nanoseconds) -> Nanoseconds:
    """Round to so many significant bits."""
    _, exponents = np.frexp(values.astype(float))
    steps = np.left_shift(1, np.maximum(exponents - _KEPT_BITS, 0)).astype(np.int64)
    near: Nanoseconds = (values + steps // 2) // steps * steps
    return near


def achieved(rounds: list[Round], arm: str) -> tuple[float, signed_rank.Interval]:
    """Return by how much (log) the p50 of an arm was really above that of A, and the 95 % interval of that."""
    of_arm, of_base = (
        pairs.log_quantiles([r for r in rounds if r.arm == name], [0.5]).get(0.5, {}) for name in (arm, BASE)
    )
    differences = pairs.differences(of_base, of_arm)
    return signed_rank.hodges_lehmann(differences), signed_rank.interval(differences, 0.05)
