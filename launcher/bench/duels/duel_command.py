"""`launcher duel`: what the command line asks for becomes two arms and a control, receipts, and a verdict."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from launcher.bench.duels import duel, gate, worktree
from launcher.bench.duels.duel import KIND, Plan
from launcher.bench.duels.next_command import MOST_SEED, next_command, replay_command
from launcher.bench.duels.rota import Rota, choose_rings, expect_rings, takes_s
from launcher.bench.duels.sides import Side, parse
from launcher.bench.judging.judge import Verdict, second_opinion
from launcher.bench.judging.verdict import Settings
from launcher.bench.measure import provenance, yardstick
from launcher.bench.measure.cases import Case, get
from launcher.bench.measure.head import run_of
from launcher.bench.measure.rounds import PATIENCE_S
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.show.verdict_table import asked, print_verdicts
from launcher.bench.stats import quantiles
from launcher.bench.store import receipts
from launcher.bench.store.receipts import Round
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from launcher.tables import printed
from launcher.words import called, say
from shared.errors import Interrupted, UsageError, worst


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; what is None or empty was left to us."""

    case: str = "wake"
    wakers: Sequence[str] = ()
    against: str | None = None
    """A revision: the base is one Waker out of its code."""
    engine: str = AUTO
    settings: Sequence[str] = ()
    own: tuple[Sequence[str], Sequence[str]] = ((), ())
    """What is set for A alone, and for B alone."""
    seconds: float = duel.DEFAULT_SECONDS
    rings: int | None = None
    patience_s: float = PATIENCE_S
    delta: float | None = None
    alpha: float | None = None
    seed: int | None = None
    is_json: bool = False
    is_annotated: bool = False
    output: Path | None = None


def main(request: Request) -> int:
    """Run the duel; return the exit code. The main thread only."""
    began_s = monotonic()
    with (
        gate.annotating_refusals(is_asked=request.is_annotated),
        terminated_as_interrupted(),
        ExitStack() as closing,
    ):
        case = get(request.case)
        base, head = _choose_sides(request, case, closing)
        return _measure(request, case, base, head, began_s)


def show(path: Path, request: Request) -> int:
    """Judge stored receipts of a duel once more, by what it was asked to keep or by what is asked now."""
    with gate.annotating_refusals(is_asked=request.is_annotated):
        stored = receipts.read(path)
        for note in stored.notes:
            say(note)
        plan = duel.plan_of(stored)
        duel.expect_of(plan, stored)
    plan = replace(
        plan,
        delta=plan.delta if request.delta is None else request.delta,
        alpha=plan.alpha if request.alpha is None else request.alpha,
    )
    return report(stored.rounds, plan, request, replay_command(stored.run.command, plan.seed), path)


def report(rounds: list[Round], plan: Plan, request: Request, replay: str, path: Path) -> int:
    """Judge, print the verdict and what to do next; return its exit code."""
    verdict = plan.judge(rounds)
    then = called(next_command(verdict, plan, rounds, replay, path))
    if request.is_annotated or gate.is_wanted():
        gate.annotate(verdict, called(replay))
    with printed(verdict.exit_code):
        if request.is_json:
            line = {"kind": KIND, **verdict.to_json(), "bca": _second_opinion(rounds, verdict), "plan": plan.to_json()}
            line |= {"receipts": str(path), "next": then}
            print(json.dumps(line, allow_nan=False), flush=True)
        else:
            most = max([*(one.pairs for one in verdict.quantiles), *(one.pairs for one in verdict.counts)], default=0)
            print(f"{most} pairs, of at most {2 * plan.blocks} that were planned; {asked(verdict.settings)}")
            print_verdicts([verdict])
            print(f"next: {then}", flush=True)
    return verdict.exit_code


def _second_opinion(rounds: list[Round], verdict: Verdict) -> dict[str, list[float | None]]:
    """Return for JSON the bootstrap's interval of each. Where it is far from the verdict's, look at the rounds."""
    return {
        quantiles.name(p): [math.expm1(end) if math.isfinite(end) else None for end in (interval.low, interval.high)]
        for p, interval in second_opinion(rounds, verdict).items()
    }


def _choose_sides(asked: Request, case: Case, closing: ExitStack) -> tuple[Side, Side]:
    if asked.against is not None:
        if len(asked.wakers) > 1 or any(asked.own):
            raise UsageError("--against compares one Waker with itself: name one Waker, and set parameters with --set")
        name = [*asked.wakers, DEFAULT_WAKER][0]
        if name.startswith(yardstick.PREFIX):
            raise UsageError(f"{name} is compiled out of the code here, whatever the revision: name a Waker")
        head = parse(case, name, asked.engine, asked.settings)
        commit = worktree.resolve(asked.against)
        tree = closing.enter_context(worktree.checked_out(commit))
        base = Side(f"{asked.against} ({commit[:12]})", head.engine, head.waker, head.parameters, tree)
        return base, Side("head", head.engine, head.waker, head.parameters)
    names = [*asked.wakers] * 2 if len(asked.wakers) == 1 and any(asked.own) else asked.wakers
    if len(names) != 2:
        raise UsageError(
            "a duel takes two Wakers (launcher duel process/select process/epoll), one with --a and --b set, "
            "or --against GIT_REV"
        )
    base, head = (
        parse(case, name, asked.engine, asked.settings, own) for name, own in zip(names, asked.own, strict=True)
    )
    if base.is_same_as(head):
        raise UsageError(
            f"{base.name} and {head.name} are the same thing; launcher doctor --aa measures what that shows"
        )
    if base.name == head.name:  # --set and defaults made them differ
        raise UsageError(f"both arms are called {base.name}: say what differs with @NAME=VALUE")
    return base, head


def _measure(request: Request, case: Case, base: Side, head: Side, began_s: float) -> int:
    seed = random.randrange(1, MOST_SEED) if request.seed is None else request.seed
    sides = [base, head, base.again()]
    if request.rings:
        expect_rings(request.rings, case, sides, duel.FEWEST_ROUNDS, request.seconds)
    rings = request.rings or choose_rings(case, sides, duel.FEWEST_ROUNDS, request.seconds)
    rota = Rota(case, sides, rings, seed, request.patience_s)
    path = request.output or receipts.default_path(KIND)
    with receipts.Writer.open(path) as writer:  # what cannot be written is said before anything is tried out
        say(f"case {case.name} on engine {head.engine}: {head.name} against {base.name}, {rota.rings} rings a round")
        if (least_s := takes_s(rota.rings, case, sides, duel.FEWEST_ROUNDS)) > request.seconds:
            say(f"trying out and one block take about {least_s:.0f} s, more than the {request.seconds:g} s there are")
        revisions = {"base_git": provenance.revision(base.tree), "head_git": provenance.revision(head.tree)}
        if request.against is not None and revisions["head_git"].endswith("+changes"):
            say(f"head is {revisions['head_git']}: what is not committed is measured, too")
        run = run_of(KIND, seed, **revisions)
        plan, rounds, stopped = _record(request, rota, run, writer, began_s)
    if stopped is not None and (plan is None or not rounds):
        say(f"{stopped}: nothing was measured")
        return stopped.exit_code
    assert plan is not None  # else it was stopped
    if not isinstance(stopped, receipts.NotWritten):
        say(f"{len(rounds)} rounds in {monotonic() - began_s:.0f} s are in {path}")
    code = report(rounds, plan, request, replay_command(run.command, seed), path)
    if stopped is not None:
        say(f"{stopped}: what was measured until then is above")
        return worst(code, stopped.exit_code)
    return code


def _record(
    request: Request, rota: Rota, run: receipts.Run, writer: receipts.Writer, began_s: float
) -> tuple[Plan | None, list[Round], Interrupted | receipts.NotWritten | None]:
    """Try the arms out and run the duel, each round written as it comes.

    Returns the plan, if it came to that, the rounds, and what ended it before its end.
    """
    rounds: list[Round] = []
    plan: Plan | None = None

    def keep(round_: Round) -> None:
        rounds.append(round_)
        writer.write(round_)

    with progress() as tell:
        try:
            plan, broken = duel.begin(
                rota, _asked(request), request.seconds, lambda _, side: tell(f"trying out {side.name}")
            )
            rounds += broken
            writer.begin(replace(run, host={**run.host, KIND: plan.to_json()}))
            for round_ in broken:
                writer.write(round_)
            if not broken:
                among = f"of at most {plan.blocks}"
                duel.fight(
                    rota,
                    plan,
                    keep,
                    began_s + request.seconds,
                    lambda block, side: tell(f"block {block + 1} {among}: {side.name}"),
                )
        except KeyboardInterrupt:
            return plan, rounds, Interrupted("interrupted")
        except receipts.NotWritten as reason:
            return plan, rounds, reason
        except duel.DoesNotStart:
            if rounds:
                say(f"the {len(rounds)} rounds before are in {writer.path}")
            raise
    return plan, rounds, None


def _asked(request: Request) -> Settings:
    asked = Settings()
    return Settings(
        delta=asked.delta if request.delta is None else request.delta,
        alpha=asked.alpha if request.alpha is None else request.alpha,
    )
