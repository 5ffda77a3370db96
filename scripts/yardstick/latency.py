"""Compares Wakers with the same algorithms in plain C, in one run: shuffled rounds, each in a fresh process.

    scripts/latency                                             the two tables of targets, for what is there
    scripts/latency --samples 1000 'python:idle:*' c:direct     these arms; names may hold * and ?
    scripts/latency --fds 1,10,100,1000,10000 --json FILE       the cost against the number of watched files
    scripts/latency --trace python:idle:process/select          the median of each hop

An arm is `c:PROGRAM` (direct, thread_select, process_select; kvm_sigio and kvm_thread_select, with a Guest that
computes) or `ENGINE:GUEST:WAKER`. A latency counts from the
time at which a ring was meant to be sent to the Launcher having read it. Absolute times mean nothing on a
shared machine; ratios in one run do. Beside a ratio stands where the middle half of its blocks lies: that is the noise.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from tables import (
    BEST,
    QUANTILES,
    TARGETS,
    Arm,
    Done,
    cpu_us,
    p50,
    pool,
    print_curve,
    print_hops,
    print_table,
    print_targets,
    quantile,
)

import waker
from launcher.bench.measure import cases, provenance
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.rounds import Plan, run_round
from shared.errors import CannotRunError, LabError

SCHEMA = 2
"""2: latencies count from the intended time."""

_QUIET_S, _QUIET_SHARE = 0.2, 0.08
_NEVER_ASLEEP_US = 1_000_000

_C_ARMS = ("c:direct", "c:thread_select", "c:process_select", "c:kvm_sigio", "c:kvm_thread_select")
_CURVE_ARMS = (*_C_ARMS[:3], "python:idle:*")
# What else may be the best of all.
_DEFAULT_ARMS = (
    *_C_ARMS,
    *(t.arm for t in TARGETS if t.arm != BEST),
    "python:idle:thread/spin",
    "python:idle:inline/*",
)


def main() -> int:
    """Measure what the command line asks for; return the exit code."""
    options = _parse_arguments()
    sizes = options.fds or [1]
    wanted = options.trace or options.arms or (_CURVE_ARMS if options.fds else _DEFAULT_ARMS)
    arms = [Arm(name, size - 1) for name in _expand(wanted) for size in sizes]
    if not arms:
        return 77
    host = provenance.host(options.seed)
    print(
        f"{host['cpus']} processors {host['cpu']}, Linux {host['kernel']}, "
        f"{host['python']}, {host['git']}, seed {options.seed}, load {host['load']:.1f}"
    )
    done, has_failed = _run_all(arms, options)
    if not done:
        return 1 if has_failed else 77
    if options.trace:
        print_hops(done)
    elif options.fds:
        print_curve(done, sizes)
    else:
        print_table(done)
        print_targets(done)
    if options.json:
        _write_json(options, host, done)
    if any(round_.lost_seqs for rounds in done.values() for round_ in rounds):
        return 4
    return 1 if has_failed else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arms", nargs="*", metavar="ARM", help="what to measure; without any, the tables of targets")
    parser.add_argument("--samples", type=int, default=5000, metavar="N", help="rings per arm (%(default)s)")
    parser.add_argument("--per-round", type=int, default=500, metavar="N", help="rings per round (%(default)s)")
    parser.add_argument("--gap-us", type=int, default=200, metavar="N", help="mean gap between rings (%(default)s)")
    parser.add_argument(
        "--stimulus", choices=("sleep", "busy"), default="sleep", help="how it waits for the most part (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of gaps and order")
    parser.add_argument(
        "--fds", type=lambda text: [int(part) for part in text.split(",")], metavar="N,N…", help="watched files"
    )
    parser.add_argument("--trace", action="append", metavar="ARM", help="stamp all stages, and print the hops")
    parser.add_argument(
        "--quiet", type=float, default=0, metavar="S", help="before each round, wait up to S s for others to be quiet"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON Lines: the run, then each arm")
    parser.add_argument("--raw", action="store_true", help="in the JSON, each latency too")
    options = parser.parse_args()
    options.per_round = min(options.per_round, options.samples)
    return options


def _expand(patterns: Iterable[str]) -> list[str]:
    """Return the arms that are there and can run; say why the others are not."""
    arms: dict[str, None] = {}
    for pattern in patterns:
        if pattern.startswith("c:"):
            found = [name for name in _C_ARMS if fnmatchcase(name, pattern)]
            if not found:
                _say(f"{pattern}: skipped: no such program; there are {', '.join(_C_ARMS)}")
        else:
            prefix, _, waker_pattern = pattern.rpartition(":")
            base, plus, breaker = waker_pattern.partition("+")
            names = [name for name in waker.names() if fnmatchcase(name, base)]
            if not names:
                _say(f"{pattern}: skipped: no such Waker yet")
            found = [f"{prefix}:{name}{plus}{breaker}" for name in names if not _is_missing(pattern, name)]
        arms.update(dict.fromkeys(found))
    return list(arms)


def _is_missing(pattern: str, name: str) -> bool:
    try:
        reason = waker.why_not(name)
    except LabError as error:
        reason = str(error)
    if reason is not None:
        _say(f"{pattern.rpartition(':')[0]}:{name}: skipped: {reason}")
    return reason is not None


def _run_all(arms: list[Arm], options: argparse.Namespace) -> tuple[Done, bool]:
    """Run blocks: in each, every arm once, in random order, with the same gaps. Also say whether an arm failed."""
    has_failed = False
    order = random.Random(options.seed)
    done: Done = {arm: [] for arm in arms}
    blocks = math.ceil(options.samples / options.per_round)
    try:
        for block in range(blocks):
            order.shuffle(arms)
            seed = order.randrange(1 << 31)
            for arm in list(arms):
                if sys.stderr.isatty():
                    print(f"\r\033[Kblock {block + 1} of {blocks}: {arm.name} ", end="", file=sys.stderr, flush=True)
                _wait_until_quiet(options.quiet)
                try:
                    done[arm].append(run_round(_plan(arm, options, seed, block)))
                except (CannotRunError, ArmFailed) as reason:
                    files = f" with {arm.idle_fds + 1} files" if arm.idle_fds else ""
                    _say(f"{arm.name}{files}: {'FAILED' if isinstance(reason, ArmFailed) else 'skipped'}: {reason}")
                    has_failed |= isinstance(reason, ArmFailed)
                    arms.remove(arm)
                    done[arm].clear()
    except KeyboardInterrupt:
        _say("stopped; what was measured so far follows")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return {arm: rounds for arm, rounds in done.items() if rounds}, has_failed


def _plan(arm: Arm, options: argparse.Namespace, seed: int, block: int) -> Plan:
    """Return one round of this arm, as the cases of the instrument have it."""
    engine, guest, name = (
        ("c", "spin" if "kvm" in arm.name else "idle", arm.name) if arm.is_c else arm.name.split(":", 2)
    )
    case = cases.get("wake-busy" if guest == "spin" else "fanin")
    parameters = {**case.defaults(), "idle_us": float(options.gap_us), "memory_mib": 2}
    if guest == "idle":
        parameters["sources"] = arm.idle_fds + 1
    if options.stimulus == "busy":
        parameters["lead_us"] = _NEVER_ASLEEP_US
    return Plan(
        arm=arm.name,
        case=case.name,
        engine=engine,
        waker=name,
        parameters=parameters,
        rings=options.per_round,
        seed=seed,
        block=block,
        is_tracing=bool(options.trace) and not arm.is_c,
        patience_s=10.0,
    )


def _wait_until_quiet(patience_s: float) -> None:
    """Return when the machine has had next to nothing to do for a moment, or when patience ends.

    What waits before a round is honest; dropping a round after it is not.
    """
    end, before = time.monotonic() + patience_s, provenance.Ticks.now()
    while time.monotonic() < end:
        time.sleep(_QUIET_S)
        now = provenance.Ticks.now()
        if now.since(before).busy() <= _QUIET_SHARE:
            return
        before = now


def _write_json(options: argparse.Namespace, host: dict[str, object], done: Done) -> None:
    run = {
        "schema": SCHEMA,
        "kind": "run",
        "command": shlex.join(["scripts/latency", *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "gap_us": options.gap_us,
        "stimulus": options.stimulus,
        "quiet_s": options.quiet,
        "per_round": options.per_round,
        **host,
    }
    with options.json.open("w") as file:
        print(json.dumps(run), file=file)
        for arm, rounds in done.items():
            latencies = pool(rounds)
            line: dict[str, object] = {
                "schema": SCHEMA,
                "kind": "arm",
                "arm": arm.name,
                "watched": arm.idle_fds + 1,
                "n": len(latencies),
                "lost": sum(len(round_.lost_seqs) for round_ in rounds),
                **{f"p{q * 100:g}_ns": quantile(latencies, q) for q, needed in QUANTILES if len(latencies) >= needed},
                "max_ns": max(latencies, default=None),
                "cpu_ns_per_wake": round(cpu_us(rounds) * 1e3),
                "p50_ns_of_rounds": [p50([round_]) for round_ in rounds],
            }
            if options.raw:
                line["latencies_ns"] = [round_.latencies_ns.tolist() for round_ in rounds]
                line["seeds"] = [round_.seed for round_ in rounds]
            print(json.dumps(line), file=file)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
