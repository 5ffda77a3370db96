"""A duel judged as a whole: is it broken, is it slower, does it do more; and the one exit code that says so.

Correctness comes first and does not wait for statistics: one lost wake-up, one round that hung or died, and the duel is
broken, whatever the times say. Never one code for "slower" and "broken". A round that hung in a frame that was dropped
on its way proves nothing of its Waker: it is left out, and said to be.

Then the quantiles (verdict.py). Then the counts, a family of their own (counts.py): they are exact, so they show what
a change does (one more context switch for each wake-up) where times still drown in noise. They inform; they do not
decide, because a Waker that breaks twice as often and is faster is not worse for it. `lost` alone decides. Only of a
case in which there are no times to speak of (the cost of being idle) the counts are all there is, and decide by the
same words; where times were wanted and the rounds are too short to read any, nothing was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from launcher.bench.judging import pairs
from launcher.bench.judging.counts import FEWER, MORE, UNKNOWN, CountVerdict, judge_counts
from launcher.bench.judging.verdict import Outcome, QuantileVerdict, Settings, judge_ratios
from launcher.bench.stats import quantiles, signed_rank
from launcher.bench.stats.bootstrap import bca_interval
from launcher.bench.stats.signed_rank import Interval
from launcher.bench.store.receipts import OK, Round
from launcher.bench.store.records import HUNG
from launcher.words import shown
from shared.errors import EXIT_BROKEN_RULE, EXIT_FINE, EXIT_NOTHING_MEASURED, EXIT_REGRESSED, EXIT_UNDECIDED

BROKEN = "broken"
NOTHING_MEASURED = "nothing measured"

_SHOWN_SEQS = 5
_TINIEST = 1e-12  # of a level: a bootstrap has no more to say below


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison came to."""

    base: str
    head: str
    control: str | None
    outcome: str
    """One of `Outcome`, `BROKEN` or `NOTHING_MEASURED`."""
    sentence: str
    quantiles: list[QuantileVerdict]
    counts: list[CountVerdict]
    broken: list[str]
    """What was lost, hung or died, a sentence each, with what it takes to replay it."""
    settings: Settings
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """The exit code that means this outcome."""
        return {
            BROKEN: EXIT_BROKEN_RULE,
            NOTHING_MEASURED: EXIT_NOTHING_MEASURED,
            Outcome.REGRESSED: EXIT_REGRESSED,
            Outcome.CANNOT_TELL: EXIT_UNDECIDED,
        }.get(self.outcome, EXIT_FINE)

    @property
    def is_settled(self) -> bool:
        """Whether more blocks would not be worth their time: what a look asks.

        "Not regressed" settles it when no quantile is left that cannot be told: the gate alone would stop before a
        slower tail shows.
        """
        return self.outcome == BROKEN or is_settled(self.outcome, self.quantiles)

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "base": self.base,
            "head": self.head,
            "control": self.control,
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "sentence": self.sentence,
            "alpha": self.settings.alpha,
            "beta": self.settings.beta,
            "delta": self.settings.delta,
            "power": self.settings.power,
            "quantiles": [verdict.to_json() for verdict in self.quantiles],
            "counts": [verdict.to_json() for verdict in self.counts],
            "broken": self.broken,
            "notes": self.notes,
        }


def judge(
    rounds: Sequence[Round],
    base: str,
    head: str,
    control: str | None = None,
    settings: Settings | None = None,
    *,
    is_timed: bool = True,
) -> Verdict:
    """Judge arm `head` against arm `base` by the blocks that have both; `control` is the arm that is base once more.

    `is_timed` says whether times are the point of the case; else its counts are.
    """
    settings = settings or Settings()
    of = {arm: [r for r in rounds if r.arm == arm] for arm in (base, head, control) if arm is not None}
    logs = {arm: pairs.log_quantiles(found, settings.quantiles) for arm, found in of.items()}
    ratios = {p: found for p, found in pairs.ratios(logs[base], logs[head]).items() if len(found)}
    controls = pairs.ratios(logs[base], logs[control]) if control is not None else None
    counts = judge_counts(of[base], of[head], settings, control=[] if control is None else of[control])
    if is_timed:
        notes = _notes_on_short(logs, [arm for arm in (base, head) if any(r.ended == OK for r in of[arm])], settings)
        has_control = any(len(found) for found in (controls or {}).values())
    else:
        notes = _notes_on_few(counts, settings)
        has_control = any(count.control is not None for count in counts)
    if control is not None and not has_control:
        notes.append(f"the control '{control}' has no round that can be compared: the verdict stands without it")
    return conclude(
        base=base,
        head=head,
        control=control,
        rounds=[r for found in of.values() for r in found],
        found=judge_ratios(ratios, controls, settings),
        counts=counts,
        settings=settings,
        notes=notes,
        is_timed=is_timed,
    )


def second_opinion(rounds: Sequence[Round], verdict: Verdict) -> dict[float, Interval]:
    """Return for each quantile the BCa bootstrap interval of the same change at the same level; half a second or so.

    It stands on other assumptions (bootstrap.py). Where it is far from the verdict's own interval, look at the rounds.
    """
    logs = {
        arm: pairs.log_quantiles([r for r in rounds if r.arm == arm], verdict.settings.quantiles)
        for arm in (verdict.base, verdict.head)
    }
    ratios = pairs.ratios(logs[verdict.base], logs[verdict.head])
    # The same receipts give the same interval.
    return {
        found.quantile: bca_interval(ratios[found.quantile], found.level, seed=found.pairs)
        for found in verdict.quantiles
        if found.level > _TINIEST
    }


def conclude(
    *,
    base: str,
    head: str,
    control: str | None,
    rounds: Sequence[Round],
    found: list[QuantileVerdict],
    counts: list[CountVerdict],
    settings: Settings,
    notes: list[str],
    is_timed: bool = True,
) -> Verdict:
    """Put together what was found; correctness first."""
    broken = what_is_broken(rounds)
    outcome, sentence = overall(found, settings) if found or is_timed or not counts else _by_counts(counts)
    if broken:
        is_of_head = bool(what_is_broken([round_ for round_ in rounds if round_.arm == head]))
        whose = "" if is_of_head else "the base broke, and so far not what is judged; "
        outcome, sentence = BROKEN, whose + broken[0] + and_more(broken)
    notes = [*notes, *_notes_on_dropped(rounds)]
    return Verdict(base, head, control, outcome, sentence, found, counts, broken, settings, notes)


def what_is_broken(rounds: Sequence[Round]) -> list[str]:
    """Return a sentence for each round that lost a wake-up or did not come to its end."""
    found = []
    for round_ in rounds:
        where = f"{round_.arm}: block {round_.block}, position {round_.position}, seed {round_.seed}"
        lost = max(round_.counts.get("lost", 0), len(round_.lost_seqs))
        if lost:
            numbers = ", ".join(map(str, round_.lost_seqs[:_SHOWN_SEQS]))
            numbers += ", ..." if len(round_.lost_seqs) > _SHOWN_SEQS else ""
            found.append(
                f"{where}: {_many(lost, 'wake-up')} lost" + (f" (sequence number {numbers})" if numbers else "")
            )
        # What a later break made good was lost all the same.
        if in_vain := round_.counts.get("broken_in_vain", 0):
            found.append(f"{where}: {_many(in_vain, 'break')} lost on the way")
        if round_.ended != OK and not _is_of_the_network(round_):
            found.append(f"{where}: {shown(round_.ended)}")
    return found


def and_more(found: Sequence[str]) -> str:
    """Return how many there are beside the first, which is said."""
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _is_of_the_network(round_: Round) -> bool:
    """Whether a round hung for want of a frame that was dropped on its way: no Waker could have been woken by it."""
    return round_.ended == HUNG and round_.counts.get("dropped", 0) > 0


def is_settled(outcome: str, found: list[QuantileVerdict]) -> bool:
    """Tell whether the times are judged for good."""
    if outcome in (NOTHING_MEASURED, Outcome.CANNOT_TELL):
        return False
    return outcome == Outcome.REGRESSED or all(verdict.outcome != Outcome.CANNOT_TELL for verdict in found)


def overall(found: list[QuantileVerdict], settings: Settings) -> tuple[str, str]:
    """Return the outcome of the quantiles together, and why."""
    if not found:
        return NOTHING_MEASURED, "no block has a round of both arms that can be compared"

    def those(outcome: Outcome) -> list[QuantileVerdict]:
        return [verdict for verdict in found if verdict.outcome is outcome]

    if worse := those(Outcome.REGRESSED):
        return Outcome.REGRESSED, _reasons(worse)
    # Where the gate's own quantile is beyond the sample, the lowest that is not stands in for it.
    gate = [verdict for verdict in found if verdict.quantile in settings.gate] or found[:1]
    if unknown := [verdict for verdict in gate if verdict.outcome is Outcome.CANNOT_TELL]:
        return Outcome.CANNOT_TELL, _reasons(unknown)
    if better := those(Outcome.IMPROVED):
        return Outcome.IMPROVED, _reasons(better)
    return Outcome.NOT_REGRESSED, _reasons(gate)


def _by_counts(counts: list[CountVerdict]) -> tuple[str, str]:
    """Return the outcome where only counts were measured, and why."""

    def those(outcome: str) -> str:
        return ", ".join(f"{count.name} ({count.change})" for count in counts if count.outcome == outcome)

    by = "no times to speak of; by what it costs,"
    if more := those(MORE):
        return Outcome.REGRESSED, f"{by} more: {more}"
    if unfit := ", ".join(count.name for count in counts if count.is_unfit):
        why = f"two identical arms differ in {unfit}: this machine is not fit to measure it now (launcher doctor)"
        return Outcome.CANNOT_TELL, f"{by} cannot tell: {why}"
    if any(count.is_too_short for count in counts):
        return Outcome.CANNOT_TELL, f"{by} cannot tell: too few rounds at this level, measure more"
    if unknown := those(UNKNOWN):
        return Outcome.CANNOT_TELL, f"{by} cannot tell: {unknown}; measure more, or on a quieter machine"
    if fewer := those(FEWER):
        return Outcome.IMPROVED, f"{by} fewer: {fewer}"
    return Outcome.NOT_REGRESSED, f"{by} the same"


def _reasons(verdicts: list[QuantileVerdict]) -> str:
    return "; ".join(f"{verdict.name} {verdict.reason}" for verdict in verdicts)


def _notes_on_short(logs: Mapping[str, Collection[float]], arms: Sequence[str], settings: Settings) -> list[str]:
    """Say which quantiles the rounds of these arms, which have some, cannot speak for."""
    missing = ", ".join(quantiles.name(p) for p in settings.quantiles if any(p not in logs[arm] for arm in arms))
    return [f"{missing}: the rounds are too short to speak of it"] if missing else []


def _notes_on_few(counts: Sequence[CountVerdict], settings: Settings) -> list[str]:
    """Say how many pairs it takes where they are too few for any verdict; the first look spends next to nothing."""
    few = [count.pairs for count in counts if count.is_too_short]
    if not few or settings.alpha / len(counts) < _TINIEST:
        return []
    wanted = signed_rank.fewest_pairs(settings.alpha / len(counts))
    if min(few) >= wanted:  # an early look, which may not spend all of alpha
        return []
    return [f"{_many(min(few), 'pair')}, and it takes {wanted} or more: give it more --seconds"]


def _notes_on_dropped(rounds: Sequence[Round]) -> list[str]:
    count = sum(map(_is_of_the_network, rounds))
    return [f"{_many(count, 'round')} hung for want of frames that were dropped, and left out"] if count else []


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
