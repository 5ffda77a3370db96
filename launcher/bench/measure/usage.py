"""What a round costs: CPU time and context switches of each process and thread, and memory of each process.

Read from outside, before the first ring and after the last, while nobody runs. CPU time comes from the process' clock,
to the nanosecond; that of a single thread can only be asked for inside, so the arm reports it, and what a thread of the
Waker's process or the stimulus' took is not known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from launcher.bench.store.records import Usage

_CPUCLOCK_SCHED = 2  # a process' CPU clock by its pid: include/linux/posix-timers.h

LAUNCHER, WAKER, STIMULUS, THREAD = "launcher", "waker", "stimulus", "thread"
ENDED = "waker:ended"
"""All Wakers' processes that came and went within a round."""

Cost = Literal["cpu_ns", "voluntary", "involuntary", "pss_bytes"]


def of_ours(usages: Iterable[Usage], *costs: Cost) -> int | None:
    """Return what Launcher and Wakers cost together; None where that is not known of each of them.

    Their further threads are part of them, and the stimulus is the harness. Of a Waker that is gone the CPU time is
    known; memory it has none, and how often it was switched nobody could ask any more.
    """
    found: list[int | None] = []
    for usage in usages:
        if usage.role in (LAUNCHER, WAKER):
            found += [getattr(usage, cost) for cost in costs]
        elif usage.role == ENDED:
            found += [usage.cpu_ns if cost == "cpu_ns" else None for cost in costs if cost != "pss_bytes"]
    known = [cost for cost in found if cost is not None]
    return sum(known) if known and len(known) == len(found) else None


class _Seen(NamedTuple):
    cpu_ns: int
    calls: int | None  # of read and write, and their kin
    switches: dict[int, tuple[int, int]]  # of each thread: voluntary, involuntary


class Meter:
    """The processes of one round, from its making to `stop`."""

    def __init__(self, arm_pid: int, stimulus_pid: int | None) -> None:
        """Begin to count: the arm, all its children, and the stimulus, if there is one."""
        self._arm_pid = arm_pid
        self._roles = {arm_pid: LAUNCHER, **dict.fromkeys(_children(arm_pid), WAKER)}
        if stimulus_pid is not None:
            self._roles[stimulus_pid] = STIMULUS
        self._before = {process: _look(process) for process in self._roles}
        self._after: dict[int, _Seen] = {}
        self._pss: dict[int, int | None] = {}

    def pin(self, launcher_cpu: int, waker_cpu: int, stimulus_cpu: int) -> None:
        """Put the Launcher's main thread on one processor, all the rest of the arm on another, the stimulus on one."""
        for process, role in self._roles.items():
            for tid in _threads(process):
                cpu = stimulus_cpu if role == STIMULUS else launcher_cpu if tid == self._arm_pid else waker_cpu
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(tid, {cpu})

    def stop(self) -> None:
        """Take the last count, while all are still there; a Waker that came meanwhile began at nothing."""
        for child in _children(self._arm_pid):
            self._roles.setdefault(child, WAKER)
        self._after = {process: _look(process) for process in self._roles}
        self._pss = {process: _pss_bytes(process) for process in self._roles}

    def usage(self, thread_cpu_ns: Mapping[str, int], ended_cpu_ns: int = 0) -> list[Usage]:
        """Return what each process used, which is that of all its threads, and after it each of its further threads.

        `thread_cpu_ns` is what the arm says of its own threads, by tid, `ended_cpu_ns` of its children that are gone.
        """
        usage = []
        for process, role in self._roles.items():
            before, after = self._before.get(process, _Seen(0, 0, {})), self._after[process]
            switches = {tid: _since(count, before.switches.get(tid)) for tid, count in after.switches.items()}
            voluntary, involuntary = (sum(count[which] for count in switches.values()) for which in (0, 1))
            used_ns = max(0, after.cpu_ns - before.cpu_ns)
            usage.append(Usage(role, used_ns, voluntary, involuntary, self._pss[process]))
            usage += [
                Usage(f"{role}:{THREAD}", thread_cpu_ns.get(str(tid)), *count)
                for tid, count in switches.items()
                if tid != process
            ]
        return [*usage, Usage(ENDED, ended_cpu_ns, 0, 0, None)] if ended_cpu_ns else usage

    def reads_and_writes(self) -> int | None:
        """Return how many system calls of the arm read or wrote; of the others none can be counted from outside."""
        total = 0
        for process, role in self._roles.items():
            if role != STIMULUS:
                before = self._before.get(process, _Seen(0, 0, {})).calls
                after = self._after[process].calls
                if before is None or after is None:
                    return None
                total += after - before
        return total


def _since(count: tuple[int, int], before: tuple[int, int] | None) -> tuple[int, int]:
    return count if before is None else (count[0] - before[0], count[1] - before[1])


def _cpu_ns(pid: int) -> int:
    """CPU time of a process and all its threads; 0 when it is gone."""
    with suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return 0


def _look(pid: int) -> _Seen:
    switches = {}
    for tid in _threads(pid):
        with suppress(OSError):
            status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
            counts = dict(line.split(":\t") for line in status.splitlines() if "_ctxt_switches:\t" in line)
            if counts:
                voluntary, involuntary = counts["voluntary_ctxt_switches"], counts["nonvoluntary_ctxt_switches"]
                switches[tid] = int(voluntary), int(involuntary)
    return _Seen(_cpu_ns(pid), _calls(pid), switches)


def _calls(pid: int) -> int | None:
    """Return how many system calls read or wrote something so far; None where the kernel does not count them."""
    try:
        words = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(words["syscr"]) + int(words["syscw"])
    except (OSError, ValueError, KeyError):
        return None


def _threads(pid: int) -> list[int]:
    with suppress(OSError):
        return sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    return []


def _children(pid: int) -> list[int]:
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def _pss_bytes(pid: int) -> int | None:
    """Memory of a process, where what is shared counts by its share; None when nobody may know."""
    with suppress(psutil.Error, OSError, AttributeError):
        return int(psutil.Process(pid).memory_full_info().pss)
    return None
