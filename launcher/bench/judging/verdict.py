"""The verdict: did it get slower? Three answers, and the third is "cannot tell".

For each quantile there is one number a pair of rounds, the log of the ratio head / base. From them come an estimate,
an interval and a level (signed_rank.py, looks.py), and from those:

    regressed       the interval is above zero, and the estimate is above the floor
    not regressed   the interval for equivalence ends below delta: it may be better, it is not worse by more than delta
    improved        a special case of that: the interval is below zero, and the estimate below minus the floor
    cannot tell     anything else

*Two ways to be wrong, two levels.* To say "regressed" of what is the same costs somebody a day: `alpha`, 1 % for the
whole family of quantiles, both directions (Holm). To say "not regressed" of what is slower by delta or more: `beta`,
5 % for each quantile, one-sided, which is the test of equivalence by interval (TOST; Schuirmann 1987) of
non-inferiority.

*The floor.* What is real and too small to matter is no regression: delta, 3 % unless asked otherwise. The interval
must leave out zero, and not delta: else a slowdown of 5 % would take six times the rounds (it must then be told from
3 %), and found it is to be, within two minutes. What is between zero and delta comes out as "not regressed" once the
interval is short enough, else as "cannot tell". A true change of exactly delta is called one way or the other by
chance: that is what a floor means.

*The control.* The base runs twice in each block, under two names. Whatever makes the two differ would also make base
and head differ. So their difference is judged by the same rules; if it is significant and above delta, the machine is
not fit to measure on and that quantile cannot be told. If not, what they differ by is still a floor: a change smaller
than what two identical arms show is not called a regression or an improvement. To take base and control together as
one larger base was rejected: it gains 15 % in width, and the test loses the symmetry that makes it exact.

*Which quantile decides.* A regression in any quantile of the family counts. "Cannot tell" counts in those of the gate
(p50): a p99 takes many times the rounds, and a gate that never says yes gets switched off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from launcher.bench.stats import looks, quantiles, signed_rank, statistics
from launcher.bench.stats.signed_rank import Floats, Interval

_SPREAD_LEVEL = 0.1  # of the interval that tells how far the pairs are apart: finite from 5 of them on, look or not


class Outcome(StrEnum):
    """What can be said of a quantile, or of a duel."""

    REGRESSED = "regressed"
    NOT_REGRESSED = "not regressed"
    IMPROVED = "improved"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for. Changes are ratios minus one: 0.03 is 3 %."""

    delta: float = 0.03
    alpha: float = 0.01
    """The chance to find a difference in any quantile where there is none; both directions together."""
    beta: float = 0.05
    """The chance to call a quantile "not regressed" that is slower by delta."""
    power: float = 0.95
    """The chance with which the smallest change that is reported as findable is found."""
    quantiles: tuple[float, ...] = quantiles.DEFAULT
    gate: tuple[float, ...] = (0.5,)
    fractions: tuple[float, ...] = (1.0,)
    """After which fractions of all blocks was looked, up to now; without looks there is one, at the end."""

    @property
    def log_delta(self) -> float:
        """Delta as the log of a ratio, in which faster and slower are symmetrical."""
        return math.log1p(self.delta)

    def level(self, alpha: float) -> float:
        """Return the two-sided level of this look, when `alpha` is for all looks together."""
        return looks.levels(alpha, self.fractions)[-1]


@dataclass(frozen=True, slots=True)
class QuantileVerdict:
    """What the pairs say of one quantile. Changes are logs of ratios; `percent` makes them readable."""

    quantile: float
    outcome: Outcome
    reason: str
    pairs: int
    estimate: float
    interval: Interval
    level: float
    """Two-sided: what Holm and the look left of alpha."""
    p_value: float
    equivalence: Interval
    """The interval from which "not regressed" is read, at twice beta two-sided."""
    floor: float
    """Delta, or what the control differs by when that is more."""
    control: float | None
    """The estimate of the control; None without one."""
    smallest: float
    """The smallest slowdown that these pairs would have shown."""

    @property
    def name(self) -> str:
        """What the quantile is called."""
        return quantiles.name(self.quantile)

    def to_json(self) -> dict[str, object]:
        """Return it for JSON; changes as ratios minus one, None where there is none."""
        return {
            "quantile": self.name,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "pairs": self.pairs,
            "change": _change(self.estimate),
            "low": _change(self.interval.low),
            "high": _change(self.interval.high),
            "level": self.level,
            "p_value": self.p_value,
            "equivalence_low": _change(self.equivalence.low),
            "equivalence_high": _change(self.equivalence.high),
            "floor": _change(self.floor),
            "control": _change(self.control),
            "smallest_findable": _change(self.smallest),
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a comparison, paired or not, found for one quantile, before anybody judges it."""

    pairs: int
    """Or, where nothing pairs them, the rounds of the side that has fewer."""
    estimate: float
    p_value: float
    interval_at: Mapping[float, Interval]
    """By two-sided level: those of `levels_needed`."""
    unit: str = "pairs"


def judge_ratios(
    ratios: Mapping[float, Floats], control: Mapping[float, Floats] | None, settings: Settings
) -> list[QuantileVerdict]:
    """Judge the log ratios of paired rounds, by quantile; `control` are those of the control arm to the base."""
    found = {p: paired_evidence(ratios[p], levels_needed(len(ratios), settings)) for p in ratios}
    controls: dict[float, Evidence] = {}
    if control is not None:
        needed = levels_needed(len(control), settings)
        controls = {p: paired_evidence(control[p], needed) for p in control if len(control[p])}
    return judge_evidence(found, controls, settings)


def paired_evidence(differences: Floats, levels: tuple[float, ...]) -> Evidence:
    """Return what the signed-rank test and its kin say."""
    walsh = signed_rank.walsh_averages(differences)
    n = len(differences)
    return Evidence(
        pairs=n,
        estimate=signed_rank.hodges_lehmann(differences),
        p_value=signed_rank.p_value(differences),
        interval_at={level: signed_rank.interval_of_walsh(walsh, n, level) for level in levels},
    )


def levels_needed(family: int, settings: Settings) -> tuple[float, ...]:
    """Return the two-sided levels at which intervals are wanted: those that Holm may come to, and some fixed ones."""
    holm = [settings.level(settings.alpha / divisor) for divisor in range(1, family + 1)]
    return (*holm, _equivalence_level(settings), _SPREAD_LEVEL)


def judge_evidence(
    found: Mapping[float, Evidence], controls: Mapping[float, Evidence], settings: Settings
) -> list[QuantileVerdict]:
    """Judge a family of quantiles; see the top of this file."""
    levels = _holm(found, settings)
    control_levels = _holm(controls, settings)
    return [
        _judge(p, found[p], levels[p], controls.get(p), control_levels.get(p, 0.0), settings) for p in sorted(found)
    ]


def percent(change: float) -> str:
    """Return the log of a ratio as readers know it: +5.1 %."""
    if not math.isfinite(change):
        return "?"
    return f"{100 * math.expm1(change):+.1f} %"


def _holm(found: Mapping[float, Evidence], settings: Settings) -> dict[float, float]:
    level_of = [settings.level(settings.alpha / divisor) for divisor in range(1, len(found) + 1)]
    levels = statistics.holm_levels([evidence.p_value for evidence in found.values()], level_of)
    return dict(zip(found, levels, strict=True))


def _judge(
    p: float, found: Evidence, level: float, control: Evidence | None, control_level: float, settings: Settings
) -> QuantileVerdict:
    interval, equivalence = found.interval_at[level], found.interval_at[_equivalence_level(settings)]
    delta = settings.log_delta
    floor = max(delta, abs(control.estimate)) if control else delta
    error = statistics.standard_error(found.interval_at[_SPREAD_LEVEL], _SPREAD_LEVEL)
    smallest = statistics.smallest_found(interval.half_width, error, settings.power, floor)
    if control and _is_unfit(control, control_level, delta):
        outcome = Outcome.CANNOT_TELL
        reason = (
            f"two identical arms differ by {percent(control.estimate)}: "
            "this machine is not fit to measure it now (launcher doctor)"
        )
    elif interval.low > 0 and found.estimate > floor:
        outcome, reason = Outcome.REGRESSED, f"slower: {percent(found.estimate)}, at least {percent(interval.low)}"
    elif interval.high < 0 and found.estimate < -floor:
        outcome, reason = Outcome.IMPROVED, f"faster: {percent(found.estimate)}, at least {percent(interval.high)}"
    elif equivalence.high < delta:
        outcome = Outcome.NOT_REGRESSED
        reason = f"at most {percent(equivalence.high)}, within the {percent(delta)} that are allowed"
    else:
        outcome, reason = Outcome.CANNOT_TELL, _why_not(found, interval, floor, smallest, settings)
    return QuantileVerdict(
        quantile=p,
        outcome=outcome,
        reason=reason,
        pairs=found.pairs,
        estimate=found.estimate,
        interval=interval,
        level=level,
        p_value=found.p_value,
        equivalence=equivalence,
        floor=floor,
        control=control.estimate if control else None,
        smallest=smallest,
    )


def _equivalence_level(settings: Settings) -> float:
    return settings.level(2 * settings.beta)


def _is_unfit(control: Evidence, level: float, delta: float) -> bool:
    interval = control.interval_at[level]
    return (interval.low > 0 or interval.high < 0) and abs(control.estimate) > delta


def _why_not(found: Evidence, interval: Interval, floor: float, smallest: float, settings: Settings) -> str:
    """Say why it cannot be told, and what would help."""
    if not math.isfinite(interval.low):
        return f"{found.pairs} {found.unit} are too few at this level: measure more"
    if floor > settings.log_delta and abs(found.estimate) <= floor and (interval.low > 0 or interval.high < 0):
        return f"{percent(found.estimate)} is no more than what two identical arms differ by ({percent(floor)})"
    if interval.low > 0:
        return f"slower, but perhaps by less than the {percent(settings.log_delta)} that are allowed: measure more"
    return (
        f"between {percent(interval.low)} and {percent(interval.high)}: these {found.unit} would have shown "
        f"{percent(smallest)} or more; measure more, or on a quieter machine"
    )


def _change(log_ratio: float | None) -> float | None:
    return None if log_ratio is None or not math.isfinite(log_ratio) else math.expm1(log_ratio)
