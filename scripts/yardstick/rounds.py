"""Rounds: an arm in a fresh process, a stimulus that rings it, and what came of it."""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE.parents[1] / "build" / "yardstick"

_SKIPS = (3, 77)
_PATIENCE_S = 10.0
"""How long an arm may be silent after the last ring. What is unread by then is lost."""
_START_S = 60.0
_MANY_FDS = 1 << 16
_QUIET_S, _QUIET_SHARE = 0.2, 0.08
_WORDS_PER_SAMPLE = 3
_CPUCLOCK_SCHED = 2  # a process' CPU clock by its pid: include/linux/posix-timers.h


class ArmFailed(Exception):  # noqa: N818 - an event
    """Say how an arm ended that should have run."""


class Skipped(Exception):  # noqa: N818 - an event
    """Say why an arm cannot run here."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is measured: `c:PROGRAM` or `ENGINE:GUEST:WAKER`, with so many idle files watched besides."""

    name: str
    idle_fds: int = 0

    @property
    def is_c(self) -> bool:
        """Whether it is one of the yardstick's programs."""
        return self.name.startswith("c:")

    def argv(self, pipe: int, record: int, samples: int, is_tracing: bool) -> list[str]:
        """Return the command line that runs it."""
        numbers = [str(pipe), str(record), str(samples), str(self.idle_fds)]
        if self.is_c:
            return [str(PROGRAMS / self.name.removeprefix("c:")), *numbers]
        engine, guest, waker_name = self.name.split(":", 2)
        extra = ["trace"] if is_tracing else []
        return [sys.executable, str(HERE / "launcher_arm.py"), *numbers, engine, guest, waker_name, *extra]


@dataclass(frozen=True, slots=True)
class Stimulus:
    """How an arm is rung."""

    mean_gap_us: int = 200
    style: str = "sleep"

    def argv(self, pipe: int, samples: int, seed: int) -> list[str]:
        """Return the command line that rings `pipe`."""
        return [str(PROGRAMS / "stimulus"), str(pipe), str(samples), str(self.mean_gap_us), str(seed), self.style]


@dataclass(slots=True)
class Round:
    """What came of one round: times in ns, in the order in which the rings were read."""

    arm: Arm
    seed: int
    sent: list[int]
    intended: list[int]
    read: list[int]
    lost: int
    cpu_ns: int
    others: float
    """How much of the machine others used meanwhile, 0 to 1, as far as the kernel's ticks tell."""
    stamps: list[tuple[str, int]] = field(default_factory=list)

    @property
    def latencies(self) -> list[int]:
        """From the stamp before the write to after the read."""
        return [read - sent for read, sent in zip(self.read, self.sent, strict=True)]

    @property
    def latencies_since_intended(self) -> list[int]:
        """From when the ring was meant to be sent: the stimulus' own lateness counts."""
        return [read - intended for read, intended in zip(self.read, self.intended, strict=True)]


def raise_fd_limit() -> None:
    """Let arms open as many files as they may; more than the hard limit where that is allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < _MANY_FDS:
        with suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_MANY_FDS, _MANY_FDS))
            return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_round(arm: Arm, samples: int, seed: int, stimulus: Stimulus, *, is_tracing: bool = False) -> Round:
    """Run one arm in a fresh process and ring it `samples` times.

    Raises `Skipped` when it cannot run here, `ArmFailed` when it ends before it is ready. Later it may end as it likes:
    what it has not read is lost.
    """
    with ExitStack() as closing:
        reader, writer = os.pipe()
        closing.callback(os.close, reader)
        closing.callback(os.close, writer)
        os.set_blocking(reader, False)
        record = os.memfd_create("record")
        closing.callback(os.close, record)
        os.ftruncate(record, 8 * (1 + samples * _WORDS_PER_SAMPLE))
        process = subprocess.Popen(
            arm.argv(reader, record, samples, is_tracing),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(reader, record),
        )
        closing.enter_context(process)
        closing.callback(_end, process)
        if _next_byte(process, _START_S) != b"r":
            _end(process)
            said = process.stderr.read().decode().strip() if process.stderr else ""
            if process.returncode in _SKIPS:
                raise Skipped(said.splitlines()[-1] if said else "it said nothing")
            raise ArmFailed(f"it left with {process.returncode} before it was ready: {said[-400:]}")
        pids = _pids(process.pid)
        cpu_before, all_before = sum(map(_cpu_ns, pids)), Ticks.now()
        own_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(stimulus.argv(writer, samples, seed), pass_fds=(writer,), check=True)
        has_hung = _next_byte(process, _PATIENCE_S) != b"d"
        own_after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_ns, all_after = sum(map(_cpu_ns, pids)) - cpu_before, Ticks.now()
        stimulus_s = own_after.ru_utime + own_after.ru_stime - own_before.ru_utime - own_before.ru_stime
        others = all_after.busy_since(all_before) - all_after.share_since(all_before, cpu_ns / 1e9 + stimulus_s)
        stamps = [] if has_hung else _take_rest(process)
        with mmap.mmap(record, 0) as mapping, memoryview(mapping) as content, content.cast("Q") as words:
            flat = words[1 : 1 + words[0] * _WORDS_PER_SAMPLE].tolist()
        lost = samples - len(flat) // _WORDS_PER_SAMPLE
        return Round(arm, seed, flat[0::3], flat[1::3], flat[2::3], lost, cpu_ns, max(0.0, others), stamps)


class Ticks(NamedTuple):
    """What all processors have done since the machine started, in ticks."""

    idle: int
    all: int

    @classmethod
    def now(cls) -> Ticks:
        """Read /proc/stat: user nice system idle iowait irq softirq steal."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(ticks[3] + ticks[4], sum(ticks))

    def busy_since(self, before: Ticks) -> float:
        """Return the share of the time since then in which processors were busy."""
        return 1 - (self.idle - before.idle) / max(1, self.all - before.all)

    def share_since(self, before: Ticks, cpu_s: float) -> float:
        """Return what share of the time since then so much CPU time is."""
        return cpu_s * os.sysconf("SC_CLK_TCK") / max(1, self.all - before.all)


def wait_until_quiet(patience_s: float) -> None:
    """Return when the machine has had next to nothing to do for a moment, or when patience ends.

    What waits before a round is honest; dropping a round after it is not.
    """
    end, before = time.monotonic() + patience_s, Ticks.now()
    while time.monotonic() < end:
        time.sleep(_QUIET_S)
        now = Ticks.now()
        if now.busy_since(before) <= _QUIET_SHARE:
            return
        before = now


def _pids(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _cpu_ns(pid: int) -> int:
    """CPU time of a process and all its threads, to the nanosecond; 0 when it is gone."""
    try:
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return 0


def _next_byte(process: subprocess.Popen[bytes], patience_s: float) -> bytes:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], patience_s)[0]:
        return b""
    return os.read(process.stdout.fileno(), 1)


def _take_rest(process: subprocess.Popen[bytes]) -> list[tuple[str, int]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    said = process.stdout.read()
    return [(stage, time_ns) for stage, time_ns in json.loads(said)] if said.strip() else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have it go, by itself if it can: its end of file has come."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
