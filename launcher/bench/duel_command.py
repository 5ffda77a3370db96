"""`launcher duel`: what the command line asks for becomes two arms and a control, receipts, and a verdict."""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from launcher.bench import duel, gate, provenance, receipts, worktree
from launcher.bench.cases import Case, get
from launcher.bench.duel import KIND, Plan
from launcher.bench.judge import BROKEN, NOTHING_MEASURED, Verdict
from launcher.bench.receipts import Round, Run
from launcher.bench.rota import Rota, choose_rings
from launcher.bench.sides import Side, parse
from launcher.bench.terminal import progress, say, terminated_as_interrupted
from launcher.bench.verdict import Outcome, Settings
from launcher.bench.verdict_table import asked, print_verdicts
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from shared.errors import EXIT_INTERRUPTED, UsageError

_SHARE = 0.95
"""Of the time that is left after trying out, what is planned: the rest is for what takes longer than it did."""


def main(args: argparse.Namespace) -> int:
    """Run the duel, or judge a stored one; return the exit code. The main thread only."""
    if args.show is not None:
        return show(Path(args.show), args)
    began_s = monotonic()
    case = get(args.case)
    if not case.is_timed:
        raise UsageError(
            f"case {case.name} has no times to judge: launcher bench --case {case.name} counts what it costs"
        )
    with terminated_as_interrupted(), ExitStack() as closing:
        base, head = _choose_sides(args, case, closing)
        return _measure(args, case, base, head, began_s)


def show(path: Path, args: argparse.Namespace) -> int:
    """Judge stored receipts of a duel once more, by what it was asked to keep or by what is asked now."""
    stored = receipts.read(path)
    for note in stored.notes:
        say(note)
    plan = _with_asked(duel.plan_of(stored), args)
    return report(plan.judge(stored.rounds), plan, args, f"{stored.run.command} --seed {plan.seed}", path)


def report(verdict: Verdict, plan: Plan, args: argparse.Namespace, replay: str, path: Path) -> int:
    """Print the verdict and what to do next; return its exit code."""
    then = next_command(verdict, plan, replay, path)
    if args.json:
        line = {"kind": KIND, **verdict.to_json(), "plan": plan.to_json(), "receipts": str(path), "next": then}
        print(json.dumps(line, allow_nan=False), flush=True)
    else:
        print(asked(verdict))
        print_verdicts([verdict])
        print(f"next: {then}", flush=True)
    if args.github or gate.is_wanted():
        gate.annotate(verdict, replay)
    return verdict.exit_code


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
    seed = random.randrange(1 << 31) if args.seed is None else args.seed
    sides = [base, head, base.again()]
    rota = Rota(case, sides, args.rings or choose_rings(case, sides), seed)
    seconds = args.seconds or duel.DEFAULT_SECONDS
    plan = _with_asked(_plan(rota, blocks=1), args)
    rounds: list[Round] = []
    was_interrupted = False
    path = Path(args.output) if args.output else receipts.default_path(KIND)
    command = shlex.join(["launcher", *sys.argv[1:]])
    replay = command if args.seed is not None else f"{command} --seed {seed}"
    say(f"case {case.name} on engine {head.engine}: {head.name} against {base.name}, {rota.rings} rings a round")
    with progress() as tell:
        try:
            broken, block_s = duel.try_out(rota, lambda _block, side: tell(f"trying out {side.name}"))
            left_s = seconds - (monotonic() - began_s)
            blocks = 1 if broken else duel.choose_blocks(block_s, _SHARE * left_s)
            plan = _with_asked(_plan(rota, blocks), args)
            with _create(path, plan, command, head, base) as writer:
                for round_ in broken:
                    _keep(round_, writer, rounds)
                if not broken:
                    duel.fight(
                        rota,
                        plan,
                        lambda round_: _keep(round_, writer, rounds),
                        began_s + seconds,
                        lambda block, side: tell(f"block {block + 1} of at most {plan.blocks}: {side.name}"),
                    )
        except KeyboardInterrupt:
            was_interrupted = True
    if not rounds:
        say("interrupted: nothing was measured")
        return EXIT_INTERRUPTED
    say(f"{len(rounds)} rounds in {monotonic() - began_s:.0f} s are in {path}")
    code = report(plan.judge(rounds), plan, args, replay, path)
    if was_interrupted:
        say("interrupted: what was measured until then is above")
        return EXIT_INTERRUPTED
    return code


def _plan(rota: Rota, blocks: int) -> Plan:
    base, head, control = (side.name for side in rota.sides)
    asked = Settings()
    return Plan(base, head, control, rota.case.name, blocks, rota.rings, rota.seed, asked.delta, asked.alpha)


def _with_asked(plan: Plan, args: argparse.Namespace) -> Plan:
    delta = plan.delta if args.delta is None else args.delta / 100
    return replace(plan, delta=delta, alpha=plan.alpha if args.alpha is None else args.alpha / 100)


def _create(path: Path, plan: Plan, command: str, head: Side, base: Side) -> receipts.Writer:
    host = {
        **provenance.host(plan.seed),
        "base_git": provenance.revision(base.tree),
        "head_git": provenance.revision(head.tree),
        KIND: plan.to_json(),
    }
    try:
        return receipts.Writer.create(path, Run(command, KIND, host, datetime.now(UTC).isoformat(timespec="seconds")))
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file, or remove it") from None


def _keep(round_: Round, writer: receipts.Writer, rounds: list[Round]) -> None:
    writer.write(round_)
    rounds.append(round_)
