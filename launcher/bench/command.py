"""`launcher bench`: what the command line asks for becomes a session, a file of receipts, and a table."""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import waker
from launcher import engines
from launcher.bench.measure import provenance, yardstick
from launcher.bench.measure.cases import Case, Value, get
from launcher.bench.measure.rounds import PATIENCE_S, placement
from launcher.bench.measure.session import ArmPlan, Session, choose_amount, is_yardstick
from launcher.bench.show.summary import Summary, front, summarise
from launcher.bench.show.table import lost_remarks, next_command, print_table, remarks
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.store import receipts
from launcher.bench.store.records import Round, Run
from launcher.words import say, shown
from shared.errors import (
    EXIT_BROKEN_RULE,
    EXIT_CANNOT_RUN_HERE,
    EXIT_ERROR,
    EXIT_FINE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_MEASURED,
    CannotRunError,
    UsageError,
)

_BUSY_PERCENT = 15.0


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


@dataclass(slots=True)
class Chosen:
    """The arms of a session, and what is not among them, with the reason."""

    arms: list[ArmPlan] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def main(request: Request) -> int:
    """Run the session; print what came of it; return the exit code. The main thread only."""
    case = get(request.case)
    names, reason = _choose_engines(case, request.engines)
    chosen = choose_arms(case, request.wakers, names, parse_settings(case, request.settings))
    wants_yardsticks = bool(request.wakers) and not any(_matching(waker.names(), one) for one in request.wakers)
    reasons = list(dict.fromkeys(chosen.skipped.values()))
    is_vain = not any(wants_yardsticks or not arm.is_yardstick for arm in chosen.arms)
    if not is_vain or len(reasons) > 1:
        for arm, why_not in chosen.skipped.items():
            say(f"{arm} is left out: {why_not}")
    if is_vain:
        raise CannotRunError(f"nothing here can run case {case.name}: {'; '.join(reasons)[:400]}")
    seed = random.randrange(1 << 31) if request.seed is None else request.seed
    amount = choose_amount(case, chosen.arms, request.samples, request.seconds)
    session = Session(case, chosen.arms, amount, seed, request.is_tracing, request.patience_s)
    run = Run(shlex.join(["launcher", *sys.argv[1:]]), "bench", provenance.host(seed), _now())
    path = request.output or receipts.default_path("bench")
    try:
        writer = receipts.Writer.create(path, run)
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file, or remove it") from None
    say(f"case {case.name}: {case.measures}")
    if (busy := provenance.busy_percent()) > _BUSY_PERCENT:
        say(f"others keep the processors {busy:.0f} % busy: wait until it is quiet, or believe the ratios alone")
    say(f"engine {', '.join(names)} ({reason}), {len(chosen.arms)} arms, {amount.rings} rings a round, seed {seed}")
    with writer:
        rounds, was_interrupted = _measure(session, writer)
    say(f"{len(rounds)} rounds are in {path}")
    for arm, why in (session.skipped | session.failed).items():
        say(f"{arm} {'is left out' if arm in session.skipped else 'FAILED'}: {why}")
    code = _show(case, rounds, seed, is_json=request.is_json)
    if was_interrupted:
        say("interrupted: what was measured until then is above")
        return EXIT_INTERRUPTED
    if not rounds and session.skipped and not session.failed:
        return EXIT_CANNOT_RUN_HERE
    return EXIT_ERROR if session.failed and code == EXIT_FINE else code


def show(path: Path, *, is_json: bool) -> int:
    """Print the tables of stored receipts, a case after the other; return the exit code they had."""
    stored = receipts.read(path)
    for note in stored.notes:
        say(note)
    if not stored.rounds:
        raise receipts.NothingMeasured(f"{path} holds a run and no round of it: nothing was measured")
    cases = dict.fromkeys(round_.case for round_ in stored.rounds)
    held = stored.run.host.get("seed")
    seed = held if type(held) is int else 0  # a foreign file's may be anything
    return max(_show(get(name), [r for r in stored.rounds if r.case == name], seed, is_json=is_json) for name in cases)


def choose_arms(
    case: Case, patterns: Sequence[str], engine_names: Sequence[str], settings: Mapping[str, Sequence[Value]]
) -> Chosen:
    """Return the arms that patterns of Wakers' names ask for, on each engine, with each combination of settings.

    Without patterns: all Wakers, what the case has of the yardstick, and the harness alone. Raises `UsageError` for a
    pattern that fits nothing, or a Waker named in full that does not fit the case.
    """
    chosen = Chosen()
    wanted = _expand(case, patterns)
    combinations = [dict(zip(settings, values, strict=True)) for values in product(*settings.values())]
    varied = {name for name, values in settings.items() if len(values) > 1}
    for engine_name in engine_names:
        for name in wanted:
            if name.startswith(yardstick.PREFIX):
                continue
            label = f"{engine_name}:{name}" if len(engine_names) > 1 else name
            if why_not := case.why_not(name, engine_name):
                chosen.skipped[label] = why_not
                continue
            _add(chosen, case, label, engine_name, name, combinations, varied)
    c_names = [name for name in wanted if name.startswith(yardstick.PREFIX)]
    why_none = {name: reason for name in c_names if (reason := _why_not_in_c(name, engine_names))}
    is_for_all = len(why_none) == len(c_names) and len(set(why_none.values())) == 1
    chosen.skipped |= {"the yardstick in C": why_none[c_names[0]]} if is_for_all else why_none
    for name in c_names:
        if name not in why_none:
            _add(chosen, case, name, yardstick.ENGINE, name, combinations, varied)
    return chosen


def parse_settings(case: Case, texts: Sequence[str]) -> dict[str, list[Value]]:
    """Return the values of each parameter that `NAME=VALUE[,VALUE…]` sets; raise `UsageError` for what it cannot be."""
    settings: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"setting '{text}' is not NAME=VALUE; case {case.name} has {', '.join(case.parameters)}")
        settings[name] = [case.parse(name, value) for value in values.split(",")]
    for pin in settings.get("pin", []):
        placement(str(pin), is_busy=False)  # say now that there are not enough processors
    return settings


def _add(
    chosen: Chosen,
    case: Case,
    label: str,
    engine_name: str,
    name: str,
    combinations: Sequence[dict[str, Value]],
    varied: set[str],
) -> None:
    for combination in combinations:
        shown = "".join(f" {key}={value}" for key, value in combination.items() if key in varied)
        chosen.arms.append(ArmPlan(f"{label}{shown}", engine_name, name, {**case.defaults(), **combination}))


def _expand(case: Case, patterns: Sequence[str]) -> list[str]:
    """Return the names that the patterns fit, each once, and what the case has to compare them with."""
    known = [*waker.names(), *case.yardsticks]
    if not patterns:
        return [*case.wakers(), *case.yardsticks]
    names: dict[str, None] = {}
    for pattern in patterns:
        base, plus, options = pattern.partition("+")
        found = _matching(known, pattern)
        if not found:
            if not is_yardstick(pattern):
                waker.parse(pattern)  # says what there is
            raise UsageError(f"'{pattern}' is nothing that case {case.name} has; it has {', '.join(known)}")
        for name in found:
            if not is_yardstick(name) and name == base:
                waker.parse(pattern)  # refuse what was named in full; what a pattern fits is left out with the reason
            names[name if is_yardstick(name) else f"{name}{plus}{options}"] = None
    return list(dict.fromkeys([*names, *case.yardsticks]))


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that fit a pattern, whatever options stand behind it."""
    return [name for name in names if fnmatchcase(name, pattern.partition("+")[0])]


def _why_not_in_c(name: str, engine_names: Sequence[str]) -> str | None:
    if name.startswith("c:kvm_"):
        if "kvm" not in engine_names:
            return "with a Guest that computes it needs engine kvm"
        if reason := engines.get("kvm").why_not():
            return reason
    return yardstick.why_not(name.removeprefix(yardstick.PREFIX))


def _choose_engines(case: Case, wanted: Sequence[str]) -> tuple[list[str], str]:
    """Return the engines and why these; raise what `engines.choose` raises."""
    choices = [engines.choose(name, case.guest) for name in wanted or [engines.AUTO]]
    names = list(dict.fromkeys(choice.engine.name for choice in choices))
    return names, choices[0].reason if len(names) == 1 else "asked for"


def _measure(session: Session, writer: receipts.Writer) -> tuple[list[Round], bool]:
    """Run the session, each round written as it comes; return them, and whether somebody had enough before the end."""
    rounds: list[Round] = []
    with progress() as tell, terminated_as_interrupted():
        try:
            for round_ in session.run(lambda block, arm: tell(f"block {block + 1}: {arm.name}")):
                writer.write(round_)
                rounds.append(round_)
        except KeyboardInterrupt:
            return rounds, True
    return rounds, False


def _show(case: Case, rounds: Sequence[Round], seed: int, *, is_json: bool) -> int:
    """Print what the rounds come to; return the exit code that this means."""
    summaries = summarise(rounds)
    if not any(summary.n for summary in summaries):
        if rounds:
            _print(case, summaries, is_json=is_json)
        code = EXIT_NOTHING_MEASURED
    else:
        _print(case, summaries, is_json=is_json)
        code = EXIT_FINE
    lost = lost_remarks(summaries, seed)
    for sentence in lost:
        say(sentence)
    if not lost and any(summary.ended for summary in summaries):
        code = EXIT_ERROR
    return EXIT_BROKEN_RULE if lost else code


def _print(case: Case, summaries: Sequence[Summary], *, is_json: bool) -> None:
    if is_json:
        for summary in summaries:
            print(json.dumps({"kind": "arm", "case": case.name, **summary.to_json()}, allow_nan=False))
        last = {"kind": "bench", "front": [one.arm for one in front(summaries)], "next": next_command(case, summaries)}
        print(json.dumps(last), flush=True)
        return
    print_table(case, summaries)
    for sentence in remarks(case, summaries):
        print(shown(sentence))
    print(f"next: {next_command(case, summaries)}", flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
