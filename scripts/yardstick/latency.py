"""Compares Wakers with the same algorithms in plain C, in one run: shuffled rounds, each in a fresh process.

    scripts/latency                                             the two tables of targets, for what is there
    scripts/latency --samples 1000 'python:idle:*' c:direct     these arms; names may hold * and ?
    scripts/latency --fds 1,10,100,1000,10000 --json FILE       the cost against the number of watched files
    scripts/latency --trace python:idle:process/select          the median of each hop

An arm is `c:PROGRAM` (direct, thread_select, process_select; kvm_sigio and kvm_thread_select, with a Guest that
computes) or `ENGINE:GUEST:WAKER`. A latency counts from the
stimulus' stamp, immediately before its write, to the Launcher having read it. Absolute times mean nothing on a
shared machine; ratios in one run do. Beside a ratio stands where the middle half of its blocks lies: that is the noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from provenance import output, provenance
from rounds import HERE, Arm, ArmFailed, Skipped, Stimulus, raise_fd_limit, run_round, wait_until_quiet
from tables import (
    BEST,
    QUANTILES,
    TARGETS,
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

sys.path.insert(0, str(HERE.parents[1]))

import waker
from shared.errors import LabError

SCHEMA = 1

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
    built = subprocess.run([HERE / "build"], check=False)
    if built.returncode:
        return built.returncode
    raise_fd_limit()
    sizes = options.fds or [1]
    wanted = options.trace or options.arms or (_CURVE_ARMS if options.fds else _DEFAULT_ARMS)
    arms = [Arm(name, size - 1) for name in _expand(wanted) for size in sizes]
    if not arms:
        return 77
    origin = _provenance(options)
    print(
        f"{origin['cpus']} processors {origin['cpu']}, Linux {origin['kernel']}, "
        f"Python {origin['python']}, {origin['revision']}, seed {options.seed}, load {origin['load']:.1f}"
    )
    done, has_failed = _run_all(arms, options)
    if options.trace:
        print_hops(done)
    elif options.fds:
        print_curve(done, sizes)
    else:
        print_table(done)
        print_targets(done)
    if options.json:
        _write_json(options, origin, done)
    if any(round_.lost for rounds in done.values() for round_ in rounds):
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
    parser.add_argument("--stimulus", choices=("sleep", "busy"), default="sleep", help="how it waits (%(default)s)")
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
    order, stimulus = random.Random(options.seed), Stimulus(options.gap_us, options.stimulus)
    done: Done = {arm: [] for arm in arms}
    blocks = math.ceil(options.samples / options.per_round)
    try:
        for block in range(blocks):
            order.shuffle(arms)
            seed = order.randrange(1 << 31)
            for arm in list(arms):
                if sys.stderr.isatty():
                    print(f"\r\033[Kblock {block + 1} of {blocks}: {arm.name} ", end="", file=sys.stderr, flush=True)
                wait_until_quiet(options.quiet)
                try:
                    done[arm].append(run_round(arm, options.per_round, seed, stimulus, is_tracing=bool(options.trace)))
                except (Skipped, ArmFailed) as reason:
                    files = f" with {arm.idle_fds + 1} files" if arm.idle_fds else ""
                    _say(f"{arm.name}{files}: {'skipped' if isinstance(reason, Skipped) else 'FAILED'}: {reason}")
                    has_failed |= isinstance(reason, ArmFailed)
                    arms.remove(arm)
                    done[arm].clear()
    except KeyboardInterrupt:
        _say("stopped; what was measured so far follows")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return {arm: rounds for arm, rounds in done.items() if rounds}, has_failed


def _provenance(options: argparse.Namespace) -> dict[str, object]:
    return provenance("scripts/latency", SCHEMA, options.seed) | {
        "cc": output(os.environ.get("CC", "cc"), "--version").partition("\n")[0],
        "gap_us": options.gap_us,
        "stimulus": options.stimulus,
        "quiet_s": options.quiet,
        "per_round": options.per_round,
    }


def _write_json(options: argparse.Namespace, origin: dict[str, object], done: Done) -> None:
    with options.json.open("w") as file:
        print(json.dumps(origin), file=file)
        for arm, rounds in done.items():
            latencies = pool(rounds)
            line: dict[str, object] = {
                "schema": SCHEMA,
                "kind": "arm",
                "arm": arm.name,
                "watched": arm.idle_fds + 1,
                "n": len(latencies),
                "lost": sum(round_.lost for round_ in rounds),
                **{f"p{q * 100:g}_ns": quantile(latencies, q) for q, needed in QUANTILES if len(latencies) >= needed},
                "max_ns": max(latencies, default=None),
                "cpu_ns_per_wake": round(cpu_us(rounds) * 1e3),
                "others": round(statistics.fmean(round_.others for round_ in rounds), 3),
                "p50_ns_of_rounds": [p50([round_]) for round_ in rounds],
            }
            if options.raw:
                line["latencies_ns"] = [round_.latencies for round_ in rounds]
                line["latencies_since_intended_ns"] = [round_.latencies_since_intended for round_ in rounds]
                line["seeds"] = [round_.seed for round_ in rounds]
            print(json.dumps(line), file=file)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
