"""`launcher doctor`: what this machine can run, and how far the times that it gives can be trusted.

Each check says PASS, WARN or FAIL, what it found, and for the latter two what can be done. A WARN costs precision or a
Waker; a FAIL means that nothing can be measured. It takes about a second, and changes nothing but the cache, which the
yardstick is compiled into.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from time import monotonic_ns, sleep
from typing import NamedTuple

import numpy as np

import waker
from launcher import engines
from launcher.bench.command import BUSY_PERCENT
from launcher.bench.measure import provenance, yardstick
from launcher.bench.measure.provenance import Ticks
from launcher.bench.stats import quantiles
from launcher.tables import console, printed
from launcher.words import called
from shared.errors import EXIT_CANNOT_RUN_HERE, EXIT_FINE, LabError

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_STYLES = {PASS: "green", WARN: "yellow", FAIL: "bold red"}

_SLOW_EXIT_NS = 4000
_MANY_FILES = 10_000 + 256
_ENOUGH_MEMLOCK = 8 << 20
_STEAL_PERCENT = 2.0
_LOST_PERCENT = 1.0
_GAP_NS = 20_000
_LOOK_S = 0.3
_SLEEP_US, _SLEEPS = 200, 300  # as many as a p99 takes
_LATE_NS = 200_000
_URING = "inline/uring"
_REMEDIES = {
    "kvm": "give this user /dev/kvm (group kvm), or measure on engine python",
    "unicorn": "pip install 'lguest-launcher[unicorn]'",
}
"""What brings an engine here."""


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: str
    found: str
    remedy: str = ""


def main(*, is_json: bool, is_first: bool = False) -> int:
    """Print what is found, and what to do next unless this is only the first part; return the exit code."""
    findings = list(examine())
    code = EXIT_CANNOT_RUN_HERE if FAIL in [finding.level for finding in findings] else EXIT_FINE
    then = called("launcher list engines" if code else "launcher bench")
    with printed(code):
        for finding in findings:
            if is_json:
                print(json.dumps({"kind": "finding", **finding._asdict()}))
            else:
                _print(finding)
        if code or not is_first:
            print(json.dumps({"kind": "doctor", "exit_code": code, "next": then}) if is_json else f"next: {then}")
    return code


def examine() -> Iterator[Finding]:
    """Yield what each check finds; a check that fails itself is a finding, too."""
    for check in _CHECKS:
        try:
            yield from check()
        except (LabError, OSError) as error:
            remedy = "let this user see it, or measure without knowing it"
            yield Finding(check.__name__.strip("_"), WARN, f"cannot be looked at: {error}", remedy)


def _engines() -> Iterator[Finding]:
    for name in engines.names():
        reason = engines.get(name).why_not()
        if reason is None:
            yield Finding(f"engine {name}", PASS, engines.get(name).description)
        else:
            yield Finding(f"engine {name}", WARN, reason, _REMEDIES.get(name, "measure on another engine"))


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
    if not reasons:
        yield Finding("wakers", PASS, f"all {len(waker.names())} can run")
    if _URING not in reasons:
        yield Finding("io_uring", PASS, "rings can be made")
    for reason in dict.fromkeys(reasons.values()):
        found = f"{', '.join(name for name, why in reasons.items() if why == reason)}: {reason}"
        if reason == reasons.get(_URING):
            remedy = "sysctl kernel.io_uring_disabled=0, or allow it in the container"
            yield Finding("io_uring", WARN, found, remedy)
        else:
            yield Finding("wakers", WARN, found, "use one of the others")


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
    elif provenance.is_one_core(sorted(os.sched_getaffinity(0))[:2]):
        remedy = "give it two of different cores (taskset): pinned apart, Launcher and Waker share one core's units"
        yield Finding("processors", WARN, f"{found}; the first two are one core", remedy)
    else:
        yield Finding("processors", PASS, found)
    if (quota := provenance.quota()) is not None and quota < usable:
        remedy = "raise cpu.max of its cgroup (docker run --cpus): who has used it up stands still for milliseconds"
        yield Finding("quota", WARN, f"{quota:g} processors' time of {usable}", remedy)
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
    if busy > BUSY_PERCENT:
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
    late_ns = []
    for _ in range(_SLEEPS):
        due_ns = monotonic_ns() + _SLEEP_US * 1000
        sleep(_SLEEP_US / 1e6)
        late_ns.append(monotonic_ns() - due_ns)
    median_ns, p99_ns = quantiles.read(np.array(late_ns), [0.5, 0.99]).values()
    found = f"a sleep of {_SLEEP_US} us ends {median_ns / 1e3:.0f} us late, one in a hundred {p99_ns / 1e3:.0f} us"
    if median_ns > _LATE_NS:
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


def _measuring() -> Iterator[Finding]:
    for what, reasons in (
        ("engine", [engines.get(name).why_not() for name in engines.names()]),
        ("Waker", [waker.why_not(name) for name in waker.names()]),
    ):
        if None not in reasons:
            found = f"nothing can be measured: no {what} can run here ({'; '.join(map(str, dict.fromkeys(reasons)))})"
            yield Finding("measuring", FAIL, found, "measure elsewhere, or let this user do what is said above")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _engines,
    _kvm,
    _wakers,
    _limits,
    _processors,
    _others,
    _clock,
    _yardstick,
    _python,
    _measuring,
)


def _print(finding: Finding) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(finding.level, _STYLES[finding.level]), Text(f" {finding.check}: {finding.found}"), sep="")
    if finding.remedy:
        out.print(Text(f"     {finding.remedy}", "dim"))
