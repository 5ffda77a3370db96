"""`launcher bench`: what the command line asks for becomes a session, a file of receipts, and a table."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.bench.arms import choose_arms, choose_engines, parse_settings
from launcher.bench.judging.judge import and_more
from launcher.bench.measure import provenance
from launcher.bench.measure.cases import Case, get
from launcher.bench.measure.head import run_of
from launcher.bench.measure.rounds import PATIENCE_S
from launcher.bench.measure.session import Session, choose_amount
from launcher.bench.show.next import after_bench
from launcher.bench.show.summary import front, summarise
from launcher.bench.show.table import lost_remarks, print_table, remarks
from launcher.bench.show.terminal import progress
from launcher.bench.store import receipts
from launcher.bench.store.records import Round
from launcher.tables import printed
from launcher.words import called, say, shown
from shared.errors import (
    EXIT_BROKEN_RULE,
    EXIT_CANNOT_RUN_HERE,
    EXIT_ERROR,
    EXIT_FINE,
    EXIT_NOTHING_MEASURED,
    CannotRunError,
    Interrupted,
    worst,
)

BUSY_PERCENT = 15.0
"""Others that keep the processors busier than this are said to be in the way."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; what is None or empty was left to us."""

    case: str = "wake"
    wakers: Sequence[str] = ()
    engines: Sequence[str] = ()
    settings: Sequence[str] = ()
    samples: int | None = None
    seconds: float | None = None
    seed: int | None = None
    patience_s: float = PATIENCE_S
    is_tracing: bool = False
    is_json: bool = False
    output: Path | None = None


def main(request: Request) -> int:
    """Run the session; print what came of it; return the exit code. The main thread only."""
    case = get(request.case)
    names, reason = choose_engines(case, request.engines)
    chosen = choose_arms(case, request.wakers, names, parse_settings(case, request.settings))
    reasons = list(dict.fromkeys(chosen.skipped.values()))
    if not chosen.is_vain or len(reasons) > 1:
        for arm, why_not in chosen.skipped.items():
            say(f"{arm} is left out: {why_not}")
    if chosen.is_vain:
        first, *others = [arm for arm, why_not in chosen.skipped.items() if why_not == reasons[0]]
        whose = f"{first} and {len(others)} more" if others else first
        more = f" (and {len(reasons) - 1} other reasons, above)" if len(reasons) > 1 else ""
        raise CannotRunError(f"nothing here can run case {case.name}: {whose}: {reasons[0]}{more}")
    seed = random.randrange(1, 1 << 31) if request.seed is None else request.seed
    amount = choose_amount(case, chosen.arms, request.samples, request.seconds)
    session = Session(case, chosen.arms, amount, seed, request.is_tracing, request.patience_s)
    path = request.output or receipts.default_path("bench")
    writer = receipts.Writer.create(path, run_of("bench", seed))
    say(f"case {case.name}: {case.measures}")
    if (busy := provenance.busy_percent()) > BUSY_PERCENT:
        say(f"others keep the processors {busy:.0f} % busy: wait until it is quiet, or believe the ratios alone")
    say(f"engine {', '.join(names)} ({reason}), {len(chosen.arms)} arms, {amount.rings} rings a round, seed {seed}")
    with writer:
        rounds, stopped = _measure(session, writer)
    if not isinstance(stopped, receipts.NotWritten):
        say(f"{len(rounds)} rounds are in {path}")
    for arm, why in (session.skipped | session.failed).items():
        say(f"{arm} {'is left out' if arm in session.skipped else 'FAILED'}: {why}")
    about = {
        "engines": names,
        "engine_reason": reason,
        "seed": seed,
        "receipts": str(path),
        "left_out": chosen.skipped | session.skipped,
        "failed": session.failed,
        "interrupted": isinstance(stopped, Interrupted),
    }
    ended = EXIT_FINE if stopped is None else stopped.exit_code
    if session.failed:
        ended = worst(ended, EXIT_ERROR)
    elif not rounds and session.skipped:
        ended = worst(ended, EXIT_CANNOT_RUN_HERE)
    code = _show(case, rounds, about, ended, is_json=request.is_json)
    if stopped is not None:
        say(f"{stopped}: {'what was measured until then is above' if rounds else 'nothing was measured'}")
    return code


def show(path: Path, *, is_json: bool) -> int:
    """Print the tables of stored receipts, a case after the other; return the exit code they had."""
    stored = receipts.read(path)
    for note in stored.notes:
        say(note)
    if not stored.rounds:
        raise receipts.NothingMeasured(f"{path} holds a run and no round of it: nothing was measured")
    cases = dict.fromkeys(round_.case for round_ in stored.rounds)
    held = stored.run.host.get("seed")
    seed = held if type(held) is int and 0 < held < 1 << 31 else None  # a foreign file's may be anything
    about = {"seed": seed, "receipts": str(path)}
    codes = [
        _show(get(name), [r for r in stored.rounds if r.case == name], about, EXIT_FINE, is_json=is_json)
        for name in cases
    ]
    return worst(*codes)


def _measure(session: Session, writer: receipts.Writer) -> tuple[list[Round], Interrupted | receipts.NotWritten | None]:
    """Run the session, each round written as it comes; return them, and what ended it before its end."""
    rounds: list[Round] = []
    with progress() as tell:
        try:
            for round_ in session.run(lambda block, arm: tell(f"block {block + 1}: {arm.name}")):
                rounds.append(round_)
                writer.write(round_)
        except KeyboardInterrupt:
            return rounds, Interrupted("interrupted")
        except receipts.NotWritten as reason:
            return rounds, reason
    return rounds, None


def _show(case: Case, rounds: Sequence[Round], about: Mapping[str, Any], ended: int, *, is_json: bool) -> int:
    """Print what the rounds come to; return the exit code that this means, or `ended` where that is worse."""
    summaries = summarise(rounds)
    lost = lost_remarks(summaries, about["seed"])
    lost += [f"BROKEN: {one.broken[0]}{and_more(one.broken)}" for one in summaries if one.is_broken and not one.lost]
    for sentence in lost:  # before the table: whoever reads that may go after its first line
        say(sentence)
    code = worst(
        ended,
        EXIT_BROKEN_RULE if any(summary.is_broken for summary in summaries) else EXIT_FINE,
        EXIT_FINE if any(summary.n for summary in summaries) else EXIT_NOTHING_MEASURED,
    )
    then = called(after_bench(case, summaries))
    with printed(code):
        if is_json:
            for summary in summaries:
                print(json.dumps({"kind": "arm", "case": case.name, **summary.to_json()}, allow_nan=False))
            last = {"kind": "bench", "case": case.name, **about, "front": [one.arm for one in front(summaries)]}
            print(json.dumps(last | {"exit_code": code, "next": then}, allow_nan=False))
        else:
            if summaries:
                print_table(case, summaries)
            for sentence in remarks(case, summaries):
                print(shown(sentence))
            print(f"next: {then}")
    return code
