"""`launcher duel`: what the command line asks for becomes two arms and a control, receipts, and a verdict."""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from launcher.bench.duels import duel, gate, worktree
from launcher.bench.duels.duel import KIND, Plan
from launcher.bench.duels.rota import Rota, choose_rings
from launcher.bench.duels.sides import Side, parse
from launcher.bench.judging.judge import BROKEN, NOTHING_MEASURED, Verdict, second_opinion
from launcher.bench.judging.verdict import Outcome, Settings
from launcher.bench.measure import provenance
from launcher.bench.measure.cases import Case, get
from launcher.bench.measure.rounds import PATIENCE_S
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.show.verdict_table import asked, print_verdicts
from launcher.bench.stats import quantiles
from launcher.bench.store import receipts
from launcher.bench.store.receipts import Round, Run
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from launcher.tables import printed
from launcher.words import called, say
from shared.errors import Interrupted, UsageError, worst


def main(args: argparse.Namespace) -> int:
    """Run the duel, or judge a stored one; return the exit code. The main thread only."""
    if args.show is not None:
        return show(Path(args.show), args)
    began_s = monotonic()
    case = get(args.case)
    with terminated_as_interrupted(), ExitStack() as closing:
        base, head = _choose_sides(args, case, closing)
        return _measure(args, case, base, head, began_s)


def show(path: Path, args: argparse.Namespace) -> int:
    """Judge stored receipts of a duel once more, by what it was asked to keep or by what is asked now."""
    stored = receipts.read(path)
    for note in stored.notes:
        say(note)
    plan = duel.plan_of(stored)
    duel.expect_of(plan, stored)
    plan = replace(
        plan,
        delta=plan.delta if args.delta is None else args.delta / 100,
        alpha=plan.alpha if args.alpha is None else args.alpha / 100,
    )
    return report(stored.rounds, plan, args, replay_command(stored.run.command, plan.seed), path)


def report(rounds: list[Round], plan: Plan, args: argparse.Namespace, replay: str, path: Path) -> int:
    """Judge, print the verdict and what to do next; return its exit code."""
    verdict = plan.judge(rounds)
    then = called(next_command(verdict, plan, replay, path))
    if args.github or gate.is_wanted():
        gate.annotate(verdict, replay)
    with printed(verdict.exit_code):
        if args.json:
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


def next_command(verdict: Verdict, plan: Plan, replay: str, path: Path) -> str:
    """Return the command that says more than this one did."""
    if verdict.outcome == BROKEN:
        return replay
    if verdict.outcome == Outcome.CANNOT_TELL:
        return "launcher doctor --aa"
    if verdict.outcome == NOTHING_MEASURED:
        return f"launcher bench --case {plan.case}"
    if verdict.outcome == Outcome.REGRESSED:
        return f"launcher bench --case {plan.case} --stages"
    return shlex.join(["launcher", "export", str(path), "--format", "benchfmt"])


def replay_command(command: str, seed: int) -> str:
    """Return the command that rings all alike once more; where it wrote to is taken by then."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-o", "--output")
    parser.add_argument("--seed")
    try:
        _, kept = parser.parse_known_args(shlex.split(command))
    except (ValueError, argparse.ArgumentError):  # of a file that somebody else wrote
        kept = ["launcher", "duel"]
    return shlex.join([*kept, "--seed", str(seed)])


def _choose_sides(args: argparse.Namespace, case: Case, closing: ExitStack) -> tuple[Side, Side]:
    settings = [*(args.set or ()), *([f"pin={args.pin}"] if args.pin is not None else ())]
    engine = args.engine or AUTO
    if args.against is not None:
        if len(args.wakers) > 1 or args.a or args.b:
            raise UsageError("--against compares one Waker with itself: name one Waker, and set parameters with --set")
        head = parse(case, args.wakers[0] if args.wakers else DEFAULT_WAKER, engine, settings)
        commit = worktree.resolve(args.against)
        tree = closing.enter_context(worktree.checked_out(commit))
        base = Side(f"{args.against} ({commit[:12]})", head.engine, head.waker, head.parameters, tree)
        return base, Side("head", head.engine, head.waker, head.parameters)
    names = args.wakers * 2 if len(args.wakers) == 1 and (args.a or args.b) else args.wakers
    if len(names) != 2:
        raise UsageError(
            "a duel takes two Wakers (launcher duel process/select process/epoll), one with --a and --b set, "
            "or --against GIT_REV"
        )
    base, head = (
        parse(case, name, engine, settings, own or ()) for name, own in zip(names, (args.a, args.b), strict=True)
    )
    if base.is_same_as(head):
        raise UsageError(
            f"{base.name} and {head.name} are the same thing; launcher doctor --aa measures what that shows"
        )
    if base.name == head.name:  # --set and defaults made them differ
        raise UsageError(f"both arms are called {base.name}: say what differs with @NAME=VALUE")
    return base, head


def _measure(args: argparse.Namespace, case: Case, base: Side, head: Side, began_s: float) -> int:
    seed = random.randrange(1, 1 << 31) if args.seed is None else args.seed
    sides = [base, head, base.again()]
    rota = Rota(case, sides, args.rings or choose_rings(case, sides), seed, args.patience or PATIENCE_S)
    seconds = args.seconds or duel.DEFAULT_SECONDS
    path = Path(args.output) if args.output else receipts.default_path(KIND)
    receipts.expect_new(path)
    command = shlex.join(["launcher", *sys.argv[1:]])
    say(f"case {case.name} on engine {head.engine}: {head.name} against {base.name}, {rota.rings} rings a round")
    rounds: list[Round] = []
    plan: Plan | None = None
    stopped: Interrupted | receipts.NotWritten | None = None
    with progress() as tell:
        try:
            plan = duel.begin(
                rota, _asked(args), seconds, rounds.append, lambda _, side: tell(f"trying out {side.name}")
            )
            with _create(path, plan, command, head, base) as writer:
                for round_ in rounds:
                    writer.write(round_)

                def keep(round_: Round) -> None:
                    rounds.append(round_)
                    writer.write(round_)

                def show_where(block: int, side: Side) -> None:
                    tell(f"block {block + 1} of at most {blocks}: {side.name}")

                blocks = plan.blocks
                if not rounds:
                    duel.fight(rota, plan, keep, began_s + seconds, show_where)
        except KeyboardInterrupt:
            stopped = Interrupted("interrupted")
        except receipts.NotWritten as reason:
            stopped = reason
        except duel.DoesNotStart:
            if rounds:
                say(f"the {len(rounds)} rounds before are in {path}")
            raise
    if stopped is not None and (plan is None or not rounds):
        say(f"{stopped}: nothing was measured")
        return stopped.exit_code
    assert plan is not None  # else it was stopped
    if not isinstance(stopped, receipts.NotWritten):
        say(f"{len(rounds)} rounds in {monotonic() - began_s:.0f} s are in {path}")
    code = report(rounds, plan, args, replay_command(command, seed), path)
    if stopped is not None:
        say(f"{stopped}: what was measured until then is above")
        return worst(code, stopped.exit_code)
    return code


def _asked(args: argparse.Namespace) -> Settings:
    asked = Settings()
    return Settings(
        delta=asked.delta if args.delta is None else args.delta / 100,
        alpha=asked.alpha if args.alpha is None else args.alpha / 100,
    )


def _create(path: Path, plan: Plan, command: str, head: Side, base: Side) -> receipts.Writer:
    host = {
        **provenance.host(plan.seed),
        "base_git": provenance.revision(base.tree),
        "head_git": provenance.revision(head.tree),
        KIND: plan.to_json(),
    }
    return receipts.Writer.create(path, Run(command, KIND, host, datetime.now(UTC).isoformat(timespec="seconds")))
