"""A duel: two arms and a control take turns until the question is settled, or the plan is at its end.

The plan is made before the first round and tells how many blocks there are at most, and after which of them one may
look and stop (looks.py). It is in the head of the receipts, so that the verdict can be read from them again.

Latency counts from when a ring was *meant* to be sent. From when it was sent would be steadier, since the stimulus'
own lateness would drop out; but an arm that takes the processor away from the stimulus delays the ring itself, and
would not be charged for it. Both arms are rung by the same stimulus: its lateness is in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from time import monotonic

from launcher.bench.duels.rota import Rota, Tell, tell_nobody
from launcher.bench.judging import pairs
from launcher.bench.judging.judge import BROKEN, NOTHING_MEASURED, Verdict, judge, what_is_broken
from launcher.bench.judging.plan import pairs_needed
from launcher.bench.judging.verdict import Outcome, Settings
from launcher.bench.measure.cases import get
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.head import fields_of
from launcher.bench.measure.spec import ROOT
from launcher.bench.stats import looks
from launcher.bench.store.receipts import Receipts, ReceiptsError, Round
from shared.errors import CannotRunError, LabError

KIND = "duel"
DEFAULT_SECONDS = 100.0
ENOUGH_RINGS = 12_000
"""Times may not end a duel before each arm was rung so often: one break lost in 10,000 is to come to light first."""
FEWEST_ROUNDS = 3 + 6
"""Each arm is tried out, and then there is a block."""
SHARE = 0.95
"""Of the time that is left after trying out, what is planned: the rest is for what takes longer than it did."""

_FIELDS = {
    **dict.fromkeys(("base", "head", "control", "case"), str),
    **dict.fromkeys(("blocks", "rings", "seed"), int),
    **dict.fromkeys(("delta", "alpha"), float),
}


class DoesNotStart(LabError):  # noqa: N818 - an event
    """Say that an arm could not be started, and so nothing can be said of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before the first round."""

    base: str
    head: str
    control: str
    case: str
    blocks: int
    """How many there are at most."""
    rings: int
    seed: int
    delta: float
    alpha: float

    @property
    def ends(self) -> tuple[int, ...]:
        """After how many blocks one looks."""
        return looks.planned(self.blocks)

    def settings(self, rounds: list[Round]) -> Settings:
        """Return what these rounds, the first ones of the plan, are judged by: how much of alpha may be spent."""
        done = min(self.blocks, _pairs(rounds, self.base, self.head) / 2)  # a foreign file may have more
        passed: list[float] = [end for end in self.ends if end <= done]
        if done and done not in passed:
            passed.append(done)  # stopped between two looks: by a clock, a user or a broken arm, and not by the times
        return Settings(
            delta=self.delta, alpha=self.alpha, fractions=tuple(end / self.blocks for end in passed) or (1.0,)
        )

    def judge(self, rounds: list[Round]) -> Verdict:
        """Judge what there is."""
        case = get(self.case)
        verdict = judge(rounds, self.base, self.head, self.control, self.settings(rounds), is_timed=case.is_timed)
        if verdict.outcome == Outcome.CANNOT_TELL and (longer := self._what_would_tell(rounds, verdict)):
            verdict = replace(verdict, notes=[*verdict.notes, longer])
        rung = sum(r.counts.get("sent", len(r.latencies_ns)) for r in rounds if r.arm == self.head)
        if case.is_rung and case.is_timed and rung < ENOUGH_RINGS and verdict.outcome not in (BROKEN, NOTHING_MEASURED):
            note = f"rung {rung} times, too few to be sure to see one break in 10,000 lost: give it more --seconds"
            verdict = replace(verdict, notes=[*verdict.notes, note])
        done = len({round_.block for round_ in rounds})
        if done < self.blocks and not verdict.is_settled:
            note = f"{done} of {self.blocks} planned blocks were measured: alpha is spent in that proportion"
            verdict = replace(verdict, notes=[*verdict.notes, note])
        return verdict

    def _what_would_tell(self, rounds: list[Round], verdict: Verdict) -> str | None:
        """Say how long a duel would have to be on this machine; None where no length would do."""
        change = 2 * self.delta
        for found in verdict.quantiles:
            is_unfit = found.control is not None and abs(found.control) > verdict.settings.log_delta
            if found.quantile not in verdict.settings.gate or found.outcome is not Outcome.CANNOT_TELL or is_unfit:
                continue
            of_base, of_head = (
                pairs.log_quantiles([r for r in rounds if r.arm == arm], [found.quantile])
                for arm in (self.base, self.head)
            )
            needed = pairs_needed(pairs.ratios(of_base, of_head)[found.quantile], change, verdict.settings)
            if needed is not None and needed > found.pairs:
                return (
                    f"about {needed} pairs would find a slowdown of {found.name} by {100 * change:g} %, or clear of it "
                    f"what is the same; these were {found.pairs}"
                )
        return None

    def to_json(self) -> dict[str, object]:
        """Return it for the head of the receipts."""
        return asdict(self)


def plan_of(stored: Receipts) -> Plan:
    """Return the plan in the head of a duel's receipts; raise `ReceiptsError` for receipts of anything else."""
    fields = fields_of(stored, KIND, _FIELDS, "a duel: launcher bench --show prints it")
    if fields["blocks"] < 1 or not (0 < fields["delta"] < 0.5 and 0 < fields["alpha"] < 0.5):
        raise ReceiptsError(
            f"{stored.path}: its plan has {fields['blocks']} blocks, or an alpha or delta that is not between 0 and 0.5"
        )
    return Plan(**fields)


def expect_of(plan: Plan, receipts: Receipts) -> None:
    """Raise `ReceiptsError` when there are rounds in the file that the plan does not have."""
    for round_ in receipts.rounds:
        where = f"{receipts.path}: block {round_.block}, position {round_.position}"
        if round_.case != plan.case:
            raise ReceiptsError(f"{where} is of case {round_.case}, and the duel is of {plan.case}")
        if not 0 <= round_.block < plan.blocks:
            raise ReceiptsError(f"{where} is none of the {plan.blocks} blocks of its plan")


def try_out(rota: Rota, tell: Tell = tell_nobody) -> tuple[list[Round], float]:
    """Run a round of each arm that is not counted: caches fill, and how long rounds take is known.

    Returns the rounds that are broken, which count after all, and the seconds that a block takes. Raises
    `DoesNotStart` for an arm that does not.
    """
    tried = []
    for position, side in enumerate(rota.sides):
        tell(0, side)
        try:
            tried.append(rota.round(side, rota.seed, position=position))
        except (ArmFailed, CannotRunError) as reason:
            if side.tree == ROOT and isinstance(reason, CannotRunError):
                raise
            raise DoesNotStart(f"{side.name} does not start with the harness of today: {reason}") from None
        if what_is_broken(tried[-1:]):
            return tried[-1:], 0.0
    # The last one is the control, so the first one again: what that had to do once is done.
    *_, warm = tried
    block_ns = 2 * (sum(round_.duration_ns for round_ in tried[1:]) + warm.duration_ns)
    return [], block_ns / 1e9


def begin(rota: Rota, asked: Settings, seconds: float, tell: Tell = tell_nobody) -> tuple[Plan, list[Round]]:
    """Try the arms out; return the plan, and the round that was broken then, after which there is no more to do.

    Raises `DoesNotStart`, or what `run_round` raises.
    """
    began_s = monotonic()
    broken, block_s = try_out(rota, tell)
    blocks = 1 if broken else choose_blocks(block_s, SHARE * (seconds - (monotonic() - began_s)))
    base, head, control = (side.name for side in rota.sides)
    plan = Plan(base, head, control, rota.case.name, blocks, rota.rings, rota.seed, asked.delta, asked.alpha)
    return plan, broken


def choose_blocks(block_s: float, seconds: float) -> int:
    """Return how many blocks fit into the time."""
    return max(1, int(seconds / block_s))


def fight(rota: Rota, plan: Plan, keep: Callable[[Round], object], deadline_s: float, tell: Tell = tell_nobody) -> None:
    """Run block after block until a look settles it, the plan is at its end, or the clock; `keep` is given each round.

    A lost wake-up or a round that dies settles it at once. Raises `DoesNotStart` for an arm that no longer does.
    """
    rounds: list[Round] = []
    longest_s = 0.0
    for block in range(plan.blocks):
        began_s = monotonic()
        if block and began_s + longest_s > deadline_s:
            return
        try:
            for round_ in rota.block(block, tell):
                keep(round_)
                rounds.append(round_)
                if what_is_broken([round_]):
                    return
        except (ArmFailed, CannotRunError) as reason:
            raise DoesNotStart(f"{reason} (block {block} of the duel; before, it did start)") from None
        longest_s = max(longest_s, monotonic() - began_s)
        is_enough = 2 * (block + 1) * rota.rings >= ENOUGH_RINGS or not rota.case.is_rung
        if block + 1 in plan.ends and is_enough and plan.judge(rounds).is_settled:
            return


def _pairs(rounds: list[Round], base: str, head: str) -> int:
    """Return how many turns both arms have had."""
    of_base, of_head = (pairs.by_turn([r for r in rounds if r.arm == arm], lambda _: 0.0) for arm in (base, head))
    return sum(turn in of_head for turn in of_base)
