"""Runs the rules and says what came of it: a table for people, JSON Lines for programs."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import NamedTuple

import waker
from launcher import engines
from launcher.check.rig import ExpectedlyStale, RuleBroken, RuleSkipped
from launcher.check.rules import RULES
from launcher.machine import choose_breaker
from launcher.tables import console, printed
from shared.breaker import INLINE, KINDS
from shared.errors import EXIT_BROKEN_RULE, EXIT_CANNOT_RUN_HERE, EXIT_FINE, LabError, UsageError

DEADLINE_S = 60  # several times what the slowest rule takes here

PASS, FAIL, EXPECTED, SKIP = "pass", "fail", "expected", "skip"
_STYLES = {PASS: "green", FAIL: "bold red", EXPECTED: "yellow", SKIP: "dim"}
_WIDE_ENOUGH = 105

ALL = "all"
"""Every breaker that can stop the engine."""


class Finding(NamedTuple):
    """What came of one rule for one Waker on one engine."""

    waker: str
    engine: str
    rule: str
    outcome: str
    detail: str


def check(
    wakers: Sequence[str], engine_names: Sequence[str], rules: Sequence[str], kinds: Sequence[str] = ()
) -> Iterator[Finding]:
    """Try the rules on every pair, in order; the main thread only, which becomes the vCPU's.

    `kinds` are the breakers to try on every Waker; without them it is the one in its name, or the engine's default.
    """
    for engine_name in engine_names:
        engine = engines.get(engine_name)
        engine_missing = engine.why_not()
        for waker_name in _with_breakers(wakers, engine, kinds):
            why_not = (
                waker.why_not(waker_name)
                or (engine_missing and f"{engine_name}: {engine_missing}")
                or _why_no_pair(engine, waker_name)
            )
            for rule in rules:
                outcome, detail = (SKIP, why_not) if why_not else try_rule(rule, waker_name, engine_name)
                yield Finding(waker_name, engine_name, rule, outcome, detail)


def _expect_breaker(kind: str, engine_names: Sequence[str]) -> None:
    """Raise `UsageError` for a breaker that does not exist, or that stops none of these engines."""
    if kind not in (*KINDS, ALL):
        raise UsageError(f"breaker '{kind}' is not known; there are {ALL}, {', '.join(KINDS)}")
    if kind != ALL and not {engine.name for engine in engines.of_breaker(kind)} & set(engine_names):
        raise UsageError(engines.refuse_breaker(kind, engines.get(engine_names[0])))


def _expect_pair(waker_name: str, engine_names: Sequence[str], kinds: Sequence[str]) -> None:
    """Raise `UsageError` for a Waker that was asked for and can stop none of these engines, with its own breaker."""
    breaker = waker.parse(waker_name).breaker
    if breaker is not None and kinds:
        raise UsageError(f"waker '{waker_name}' names its breaker; leave out --breaker or '+{breaker}'")
    refusals = [_why_no_pair(engines.get(name), waker_name) for name in engine_names]
    if refusals[0] is not None and all(refusals):
        raise UsageError(refusals[0])


def _with_breakers(wakers: Sequence[str], engine: engines.Engine, kinds: Sequence[str]) -> Iterator[str]:
    """Yield each Waker with each of the breakers that can stop this engine, under its full name."""
    for name in wakers:
        parsed = waker.parse(name)
        if not kinds or parsed.breaker is not None:
            yield name
        elif parsed.place == INLINE:  # it is a breaker by itself, and says so of any other
            yield from [name] if ALL in kinds else (f"{name}+{kind}" for kind in kinds)
        else:
            yield from (f"{name}+{kind}" for kind in engine.breakers if kind in kinds or ALL in kinds)


def _why_no_pair(engine: engines.Engine, waker_name: str) -> str | None:
    try:
        choose_breaker(engine, waker_name)
    except UsageError as refusal:
        return str(refusal)
    return None


def try_rule(rule: str, waker_name: str, engine_name: str) -> tuple[str, str]:
    """Try one rule and return its outcome and the evidence."""
    try:
        with _deadline():
            return PASS, RULES[rule](waker_name, engine_name)
    except ExpectedlyStale as stale:
        return EXPECTED, str(stale)
    except RuleSkipped as reason:
        return SKIP, str(reason)
    except (RuleBroken, LabError) as broken:
        return FAIL, str(broken)
    except OSError as error:
        return FAIL, f"{type(error).__name__}: {error}"


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise `RuleBroken` in a rule that hangs: its own watchdog breaks the Guest with what may be broken itself."""

    def give_up(_signo: int, _frame: FrameType | None) -> None:
        raise RuleBroken(f"it hung for {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main(
    wakers: Sequence[str] | None,
    engine_names: Sequence[str] | None,
    rules: Sequence[str] | None,
    kinds: Sequence[str] | None = None,
    *,
    is_json: bool,
) -> int:
    """Check what was named (all that there is, without names), print it, and return the exit code."""
    for name in wakers or ():
        waker.parse(name)
    if engine_names:
        engine_names = [
            engines.choose(name, "idle").engine.name if name == engines.AUTO else name for name in engine_names
        ]
    for name in engine_names or ():
        engines.get(name)
    for rule in rules or ():
        if rule not in RULES:
            raise UsageError(f"rule '{rule}' is not known; there are {', '.join(RULES)}")
    engine_names = engine_names or engines.names()
    for kind in kinds or ():
        _expect_breaker(kind, engine_names)
    for name in wakers or ():
        _expect_pair(name, engine_names, kinds or ())
    findings = check(wakers or waker.names(), engine_names, rules or list(RULES), kinds or ())
    with _interrupted_between_rules() as check_interrupt:
        findings = _until(check_interrupt, findings)
        return _exit_code(_print_json(findings) if is_json else _print_table(findings))


def _exit_code(outcomes: set[str]) -> int:
    if FAIL in outcomes:
        return EXIT_BROKEN_RULE
    return EXIT_FINE if outcomes - {SKIP} else EXIT_CANNOT_RUN_HERE


@contextmanager
def _interrupted_between_rules() -> Iterator[Callable[[], None]]:
    """Let a rule end before ^C is heeded: in the middle of one, machines are half open. A second ^C is heeded at once.

    What is yielded raises `KeyboardInterrupt` when it is time to.
    """
    count = 0

    def note(_signo: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt

    def heed() -> None:
        if count:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)


def _until(heed_interrupt: Callable[[], None], findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield finding
        heed_interrupt()


def _print_json(findings: Iterable[Finding]) -> set[str]:
    outcomes: set[str] = set()
    for finding in findings:
        outcomes.add(finding.outcome)
        with printed(_exit_code(outcomes)):
            print(json.dumps(finding._asdict()))
    return outcomes


def _print_table(findings: Iterable[Finding]) -> set[str]:
    from rich.console import Console

    rows: dict[tuple[str, str], dict[str, Finding]] = {}
    progress = Console(stderr=True)
    try:
        with progress.status("checking …") if sys.stderr.isatty() else nullcontext():
            for finding in findings:
                rows.setdefault((finding.engine, finding.waker), {})[finding.rule] = finding
    finally:
        outcomes = _print_rows(rows)  # also after ^C: what was found stays found
    return outcomes


def _print_rows(rows: dict[tuple[str, str], dict[str, Finding]]) -> set[str]:
    from rich.table import Table
    from rich.text import Text

    def _cell(outcome: str, is_narrow: bool) -> Text:
        return Text(outcome[0] if is_narrow else outcome, _STYLES[outcome])

    rules = list(dict.fromkeys(rule for row in rows.values() for rule in row))
    out = console()
    is_narrow = out.width < _WIDE_ENOUGH  # an outcome is one letter then
    table = Table(box=None, pad_edge=False)
    for heading in ("engine", "waker", *rules):
        table.add_column(heading, no_wrap=True)
    for (engine_name, waker_name), row in rows.items():
        cells = (_cell(row[rule].outcome, is_narrow) if rule in row else Text("") for rule in rules)
        table.add_row(engine_name, waker_name, *cells)
    findings = [finding for row in rows.values() for finding in row.values()]
    outcomes = {finding.outcome for finding in findings}
    with printed(_exit_code(outcomes)):
        out.print(table)
        if is_narrow:
            out.print("p pass, f fail, e expected, s skip", style="dim")
        for reason, engine_name, waker_name, rule in _folded([f for f in findings if f.outcome != PASS]):
            out.print(f"{engine_name} {waker_name} {rule}: {reason}", markup=False)
    return outcomes


def _folded(remarks: Sequence[Finding]) -> Iterator[tuple[str, str, str, str]]:
    """Say a reason once that skips a whole row."""
    said = set()
    for finding in remarks:
        if finding.outcome == SKIP:
            if (finding.engine, finding.waker, finding.detail) in said:
                continue
            said.add((finding.engine, finding.waker, finding.detail))
        yield f"{finding.outcome}: {finding.detail}", finding.engine, finding.waker, finding.rule
