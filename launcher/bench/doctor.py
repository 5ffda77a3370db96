"""`launcher doctor`: what this machine can run, and how far the times that it gives can be trusted.

Each check says PASS, WARN or FAIL, what it found, and for the latter two what can be done. A WARN costs precision or a
Waker; a FAIL means that nothing can be measured. It takes about a second, and changes nothing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from time import monotonic_ns, sleep
from typing import NamedTuple

import waker
from launcher import engines
from launcher.bench.measure import provenance, yardstick
from launcher.bench.measure.provenance import Ticks
from launcher.tables import console
from shared.errors import EXIT_CANNOT_RUN_HERE, EXIT_ERROR, EXIT_FINE, LabError

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_STYLES = {PASS: "green", WARN: "yellow", FAIL: "bold red"}

_SLOW_EXIT_NS = 4000
_MANY_FILES = 10_000 + 256
_ENOUGH_MEMLOCK = 8 << 20
_STEAL_PERCENT = 2.0
_LOST_PERCENT = 1.0
_GAP_NS = 20_000
_LOOK_S = 0.3
_SLEEP_US = 200


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: str
    found: str
    remedy: str = ""


def main(*, is_json: bool) -> int:
    """Print what is found as it is found; return the exit code."""
    levels = set()
    for finding in examine():
        levels.add(finding.level)
        if is_json:
            print(json.dumps({"kind": "finding", **finding._asdict()}), flush=True)
        else:
            _print(finding)
    if not _can_run():
        return EXIT_CANNOT_RUN_HERE
    return EXIT_ERROR if FAIL in levels else EXIT_FINE


def examine() -> Iterator[Finding]:
    """Yield what each check finds; a check that fails itself is a finding, too."""
    for check in _CHECKS:
        try:
            yield from check()
        except (LabError, OSError) as error:
            yield Finding(
                check.__name__.strip("_"), WARN, f"cannot be looked at: {error}", "see the sentence before this"
            )


def _engines() -> Iterator[Finding]:
    for name in engines.names():
        reason = engines.get(name).why_not()
        if reason is None:
            yield Finding(f"engine {name}", PASS, engines.get(name).description)
        else:
            remedy = (
                "give this user /dev/kvm (group kvm), or measure on engine python" if name == "kvm" else "install it"
            )
            yield Finding(f"engine {name}", WARN, reason, remedy)


def _kvm() -> Iterator[Finding]:
    took_ns = provenance.kvm_exit_ns()
    if took_ns is None:
        return
    where = f"an exit takes {took_ns / 1e3:.1f} us; in a virtual machine: {provenance.nested()}"
    if took_ns <= _SLOW_EXIT_NS:
        yield Finding("kvm exits", PASS, where)
    else:
        remedy = "it is nested or emulated: compare Wakers within it, and take absolute times from bare metal"
        yield Finding("kvm exits", WARN, where, remedy)


def _wakers() -> Iterator[Finding]:
    reasons = {name: reason for name in waker.names() if (reason := waker.why_not(name)) is not None}
    running = len(waker.names()) - len(reasons)
    if not reasons:
        yield Finding("wakers", PASS, f"all {running} can run")
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, why in reasons.items() if why == reason)
        remedy = "sysctl kernel.io_uring_disabled=0, or allow it in the container" if "uring" in names else ""
        yield Finding("wakers", WARN, f"{names}: {reason}", remedy or "use one of the others")


def _io_uring() -> Iterator[Finding]:
    reason = waker.why_not("inline/uring")
    if reason is None:
        yield Finding("io_uring", PASS, "rings can be made")
    else:
        yield Finding("io_uring", WARN, reason, "sysctl kernel.io_uring_disabled=0, or allow it in the container")


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard >= _MANY_FILES:
        yield Finding("open files", PASS, f"{soft}, and up to {hard} when asked for")
    else:
        remedy = f"raise the hard limit: ulimit -Hn {_MANY_FILES}, or LimitNOFILE= of the service"
        yield Finding("open files", WARN, f"at most {hard}, too few for 10,000 sources", remedy)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if locked == resource.RLIM_INFINITY or locked >= _ENOUGH_MEMLOCK:
        shown = "no limit" if locked == resource.RLIM_INFINITY else f"{locked >> 10} KiB"
        yield Finding("locked memory", PASS, shown)
    else:
        remedy = "ulimit -l 8192: before Linux 5.12 a ring of io_uring counts here"
        yield Finding("locked memory", WARN, f"{locked >> 10} KiB", remedy)


def _processors() -> Iterator[Finding]:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{usable} of {there}: {provenance.cpu_model()}; virtual: {provenance.virtualisation()}"
    if usable == 1:
        remedy = "give it two: Launcher, Waker and stimulus share one, and --pin apart cannot be measured"
        yield Finding("processors", WARN, found, remedy)
    else:
        yield Finding("processors", PASS, found)
    governor = provenance.governor()
    if governor in ("performance", "unknown"):
        yield Finding("governor", PASS, governor if governor != "unknown" else "not this machine's business")
    else:
        yield Finding("governor", WARN, governor, "cpupower frequency-set -g performance, while you measure")


def _others() -> Iterator[Finding]:
    before = Ticks.now()
    sleep(_LOOK_S)
    now = Ticks.now().since(before)
    since_start = Ticks.now().steal_percent()
    found = f"{now.steal_percent():.1f} % now, {since_start:.1f} % since the start"
    if max(now.steal_percent(), since_start) > _STEAL_PERCENT:
        yield Finding("steal", WARN, found, "the host gives your time to others: measure longer, or elsewhere")
    else:
        yield Finding("steal", PASS, found)
    busy = 100 * now.busy()
    if busy > 100 * 0.2:
        yield Finding(
            "load", WARN, f"{busy:.0f} % of the processors are busy", "wait until it is quiet, or stop what runs"
        )
    else:
        yield Finding("load", PASS, f"{busy:.0f} % of the processors are busy")


def _clock() -> Iterator[Finding]:
    gaps, began_ns = [], monotonic_ns()
    before_ns = began_ns
    while before_ns - began_ns < _LOOK_S * 1e9:
        now_ns = monotonic_ns()
        if now_ns - before_ns > _GAP_NS:
            gaps.append(now_ns - before_ns)
        before_ns = now_ns
    lost = 100 * sum(gaps) / (before_ns - began_ns)
    found = f"a loop that looks at the clock lost {lost:.2f} % of its time in {len(gaps)} gaps"
    found += f", the longest {max(gaps) / 1e3:.0f} us" if gaps else ""
    if lost > _LOST_PERCENT:
        yield Finding("jitter", WARN, found, "something else runs on this processor; p99 will be its, not the Waker's")
    else:
        yield Finding("jitter", PASS, found)
    late = []
    for _ in range(100):
        due_ns = monotonic_ns() + _SLEEP_US * 1000
        sleep(_SLEEP_US / 1e6)
        late.append(monotonic_ns() - due_ns)
    late.sort()
    found = f"a sleep of {_SLEEP_US} us ends {late[50] / 1e3:.0f} us late, one in a hundred {late[98] / 1e3:.0f} us"
    if late[50] > 200_000:
        yield Finding("timer", WARN, found, "the stimulus will be late: set lead_us to more than this")
    else:
        yield Finding("timer", PASS, found)


def _yardstick() -> Iterator[Finding]:
    reasons = dict.fromkeys(filter(None, map(yardstick.why_not, yardstick.PROGRAMS)))
    for reason in reasons:
        yield Finding("C compiler", WARN, reason, "do what that says: without C, tables have no ratio to it")
    if not reasons:
        yield Finding("C compiler", PASS, yardstick.compiler_version())


def _python() -> Iterator[Finding]:
    gil = "with" if provenance.has_gil() else "without"
    yield Finding(
        "python", PASS, f"{sys.version.split()[0]}, {gil} the GIL, switch interval {sys.getswitchinterval()} s"
    )


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _engines,
    _kvm,
    _wakers,
    _io_uring,
    _limits,
    _processors,
    _others,
    _clock,
    _yardstick,
    _python,
)


def _can_run() -> bool:
    has_waker = any(waker.why_not(name) is None for name in waker.names())
    return has_waker and any(engines.get(name).why_not() is None for name in engines.names())


def _print(finding: Finding) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(finding.level, _STYLES[finding.level]), Text(f" {finding.check}: {finding.found}"), sep="")
    if finding.remedy:
        out.print(Text(f"     {finding.remedy}", "dim"))
