"""Many start-stop cycles of `run`, each with another engine, Waker and Guest, ended in another way: nothing is left.

And the same inside one process: a machine that is opened, run and closed again and again keeps no fd, no thread, no
mapping, and does not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import NamedTuple, TypeVar

import psutil

sys.path.insert(0, str(Path(__file__).parent))  # -P leaves it out
import census

import waker
from launcher import engines
from launcher.config import RunConfig
from launcher.devices.console import Console
from launcher.machine import open_machine
from waker import RING_AWARE

PATIENCE_S = 60.0
LAUNCHER = (sys.executable, "-P", "-m", "launcher")
_DISK = "disk-{number}"  # each cycle has its own: they are locked
_MOST_GROWTH = 4 << 20
_MOST_MAPPINGS = 8  # the allocator's own; a leak would be hundreds
_WARM_UP = 50
_SETTLE_S = 5.0

T = TypeVar("T")


class Failure(Exception):  # noqa: N818
    """One cycle did not end as it must."""


class Cycle(NamedTuple):
    """One `run`: its options, and how it ends."""

    number: int
    engine: str
    waker: str
    options: list[str]
    end: str
    seed: int


class Run:
    """A Launcher in a session of its own."""

    def __init__(self, cycle: Cycle, *guest: str, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*LAUNCHER, "run", f"--engine={cycle.engine}", f"--waker={cycle.waker}", *cycle.options, *options, *guest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.said = b""

    def wait_until_it_runs(self) -> None:
        assert self.process.stderr is not None
        while b"\n" not in self.said:
            if not select.select([self.process.stderr], [], [], PATIENCE_S)[0]:
                raise Failure("it did not start")
            data = os.read(self.process.stderr.fileno(), 65536)
            if not data:
                raise Failure(f"it ended before it ran: {self.said!r}")
            self.said += data

    def type(self, keys: bytes) -> None:
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), keys)

    def signal(self, signo: signal.Signals) -> None:
        self.process.send_signal(signo)

    def kill_waker(self) -> None:
        """Kill its Waker, if that is a process."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def ends(self, *codes: int, shown: bytes | None = None) -> None:
        """Wait for its end, which must be with one of these codes, and for that of all that it started."""
        output, said = self.process.communicate(timeout=PATIENCE_S)
        self.said += said
        end = monotonic() + PATIENCE_S
        while left := census.reap_orphans(self.process.pid):
            if monotonic() > end:
                raise Failure(f"left behind: processes {left}")
            select.select([], [], [], 0.005)
        if self.process.returncode not in codes:
            raise Failure(f"exit code {self.process.returncode} instead of {codes}: {self.said.decode()!r}")
        if shown is not None and output != shown:
            raise Failure(f"showed {output!r} instead of {shown!r}")


def end_of_input(cycle: Cycle) -> None:
    run = Run(cycle, "echo")
    run.type(b"hello")
    run.ends(0, shown=b"hello")


def sigterm(cycle: Cycle) -> None:
    run = Run(cycle, random.Random(cycle.seed).choice(("echo", "idle", "spin")))
    run.wait_until_it_runs()
    run.signal(signal.SIGTERM)
    run.ends(130)


def sigterm_early(cycle: Cycle) -> None:
    """At any moment of its start: where Python has no handler yet, the signal's own way ends it."""
    run = Run(cycle, "idle")
    select.select([], [], [], random.Random(cycle.seed).random() * 0.3)
    run.signal(signal.SIGTERM)
    run.ends(130, -signal.SIGTERM)


def sigkill(cycle: Cycle) -> None:
    run = Run(cycle, random.Random(cycle.seed).choice(("echo", "idle", "spin")))
    run.wait_until_it_runs()
    run.signal(signal.SIGKILL)
    run.ends(-signal.SIGKILL)


def timeout(cycle: Cycle) -> None:
    Run(cycle, random.Random(cycle.seed).choice(("idle", "spin")), options=["--timeout=0.05"]).ends(1)


def crash(cycle: Cycle) -> None:
    run = Run(cycle, "restart")
    run.type(b"c")
    run.ends(1, shown=b"up\n")


def restart(cycle: Cycle) -> None:
    run = Run(cycle, "restart")
    run.type(b"rs")
    run.ends(0, shown=b"up\nup\n")


def waker_killed(cycle: Cycle) -> None:
    run = Run(cycle, "echo")
    run.wait_until_it_runs()
    run.kill_waker()
    run.type(b"still there")
    run.ends(0, shown=b"still there")


ENDS: dict[str, Callable[[Cycle], None]] = {
    function.__name__.replace("_", " "): function
    for function in (end_of_input, sigterm, sigterm_early, sigkill, timeout, crash, restart, waker_killed)
}


def plan(count: int, seed: int, devices: list[list[str]]) -> Iterator[Cycle]:
    """Yield so many cycles: every engine, Waker and end in turn, their breakers and devices by chance."""
    chance = random.Random(seed)
    pairs = [
        (engine, name)
        for engine in engines.names()
        if not engines.get(engine).why_not()
        for name in waker.names()
        if not waker.why_not(name)
    ]
    chance.shuffle(pairs)
    for number in range(count):
        engine, name = pairs[number % len(pairs)]
        end = list(ENDS)[(number + number // len(pairs)) % len(ENDS)]
        parsed = waker.parse(name)
        if parsed.place != "inline" and chance.random() < 0.3:
            name += f"+{chance.choice(engines.get(engine).breakers)}"
        if not parsed.needs_private_memory and chance.random() < 0.2:
            name += f"+{RING_AWARE}"
        options = [option.format(number=number) for device in devices if chance.random() < 0.5 for option in device]
        if parsed.strategy == "sigio":
            options = [option for option in options if option == "--rng"]  # what else there is, it may refuse
        yield Cycle(number, engine, name, options, end, chance.randrange(1 << 30))


def available_devices(folder: Path, *, is_apart: bool) -> list[list[str]]:
    """Return the options for devices that this version and this user have."""
    known = set(
        re.findall(
            r"--[a-z-]+",
            subprocess.run([*LAUNCHER, "run", "--help"], capture_output=True, text=True, check=True).stdout,
        )
    )
    devices = [["--rng"]]
    if "--block" in known:
        devices.append(["--block", f"{folder}/{_DISK}"])
    if "--tunnet" in known and is_apart:
        census.make_bridge()
        devices.append(["--tunnet", f"bridge:{census.BRIDGE}"])
    return devices


def run_cycles(count: int, jobs: int, seed: int, *, is_apart: bool) -> bool:
    """Run them, print what came of it, and return whether all is well."""
    with tempfile.TemporaryDirectory() as folder:
        devices = available_devices(Path(folder), is_apart=is_apart)
        cycles = list(plan(count, seed, devices))
        begin = monotonic()
        with ThreadPoolExecutor(jobs) as pool:
            all_there = threading.Barrier(jobs)  # its threads, before the count begins
            list(pool.map(lambda _: all_there.wait(), range(jobs)))
            before = census.take(is_apart)
            failures = [sentence for sentence in pool.map(_try, cycles) if sentence]
            after = _settled(lambda: census.take(is_apart), before)
        took = monotonic() - begin
    for sentence in failures:
        print(f"FAILED: {sentence}")
    print(f"{count} cycles of run in {took:.0f} s, {jobs} at a time, seed {seed}; {len(failures)} failed")
    for title, counts in (
        ("ended by", Counter(cycle.end for cycle in cycles)),
        ("engines", Counter(cycle.engine for cycle in cycles)),
        ("Wakers", Counter(cycle.waker.partition("+")[0] for cycle in cycles)),
        ("options", Counter(option for cycle in cycles for option in cycle.options if option.startswith("--"))),
    ):
        print(f"{title}: {', '.join(f'{name} {times}' for name, times in sorted(counts.items()))}")
    return _compare(before, after) and not failures


def _try(cycle: Cycle) -> str | None:
    try:
        with contextlib.ExitStack() as closing:
            if "--block" in cycle.options:
                disk = Path(cycle.options[cycle.options.index("--block") + 1])
                disk.write_bytes(bytes(1 << 20))
                closing.callback(disk.unlink)
            ENDS[cycle.end](cycle)
    except (Failure, OSError, subprocess.SubprocessError) as error:
        return f"cycle {cycle.number}, {cycle.engine} {cycle.waker} {' '.join(cycle.options)}, {cycle.end}: {error}"
    return None


def _compare(before: dict[str, list[str]], after: dict[str, list[str]]) -> bool:
    print(f"{'':14} before  after")
    is_same = True
    for kind, here in before.items():
        left = sorted(set(after[kind]) - set(here))
        print(f"{kind:14} {len(here):6} {len(after[kind]):6}{'  LEFT BEHIND: ' + ', '.join(left) if left else ''}")
        is_same &= not left
    return is_same


def run_inside(count: int) -> bool:
    """Open, run and close a machine so often in this process; print what is left, and return whether all is well."""
    pairs = [
        (engine, name)
        for engine in engines.names()
        if not engines.get(engine).why_not()
        for name in ("fork/poll", "thread/select", "process/select", "process/epoll", "inline/uring", "inline/sigio")
        if not waker.why_not(name)
    ]
    begin = monotonic()
    before: dict[str, int] = {}
    warm_up = min(_WARM_UP, count)
    for number in range(warm_up + count):
        if number == warm_up:
            before = _usage()
        engine, name = pairs[number % len(pairs)]
        ours, theirs = os.pipe()
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            config = RunConfig(image="say", args=("hello",), engine=engine, waker=name, memory_mib=2)
            with open_machine(config, lambda _memory, _page: [Console(ours, sink)]) as machine:  # noqa: B023
                machine.loop.run()
        finally:
            for fd in (ours, theirs, sink):
                os.close(fd)
    after = _settled(_usage, before, kinds=("fds", "threads", "children"))
    print(f"{count} machines opened, run and closed in one process in {monotonic() - begin:.0f} s")
    print(f"{'':14} before   after")
    for kind, amount in before.items():
        print(f"{kind:14} {amount:6} {after[kind]:7}")
    return (
        after["fds"] == before["fds"]
        and after["threads"] <= before["threads"]  # one that was joined may have been counted before
        and after["children"] == before["children"]
        and after["mappings"] - before["mappings"] <= _MOST_MAPPINGS
        and (after["KiB resident"] - before["KiB resident"]) << 10 <= _MOST_GROWTH
    )


def _settled(count: Callable[[], dict[str, T]], before: dict[str, T], kinds: Sequence[str] = ()) -> dict[str, T]:
    """Count until it is as before, or patience ends: a thread that was joined stays in the kernel a little longer."""
    end = monotonic() + _SETTLE_S
    while True:
        after = count()
        if all(after[kind] == before[kind] for kind in kinds or before) or monotonic() > end:
            return after
        select.select([], [], [], 0.01)


def _usage() -> dict[str, int]:
    process = psutil.Process()
    return {
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children()),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "KiB resident": process.memory_info().rss >> 10,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/cycles", description="Start and stop run; nothing may be left.")
    parser.add_argument("count", nargs="?", type=int, default=1000, help="how many cycles (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is left to chance (%(default)s)")
    parser.add_argument("--inside", type=int, metavar="N", help="how many inside one process (as many)")
    options = parser.parse_args()
    inside = options.count if options.inside is None else options.inside
    is_well = not inside or run_inside(inside)
    census.adopt_orphans()
    is_apart = census.be_apart()
    if not is_apart:
        print(
            "cycles: no right to make namespaces: no interfaces are tried, and others' names are counted",
            file=sys.stderr,
        )
    if options.count:
        is_well &= run_cycles(options.count, options.jobs, options.seed, is_apart=is_apart)
    return 0 if is_well else 4


if __name__ == "__main__":
    sys.exit(main())
