"""Throughput and latency of the real devices, per engine and Waker, and what their handlers cost.

    scripts/devices                                      all of it, in about a minute
    scripts/devices --json data/devices.jsonl            the same as data
    scripts/devices --part block process/select          one part, one Waker (or `all`)

console   a byte typed, and back from the Guest echo: its round trip, as who types sees it
net       an ICMP echo, and back from the Guest pong: its round trip, as who pings sees it
block     4 KiB reads at random places, 1 and 32 under way, of a file in the page cache: it is the way that is measured,
          and no disk. On the engine python the Guest times each (reader.py); on the others `blk read` has no clock, and
          the time is from its first word to its last, so that of one read is the mean.
handlers  processor time of one small buffer in the Launcher (handlers.py); more than 15 us is too much: exit code 4
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from time import perf_counter, perf_counter_ns
from typing import NamedTuple

# The tree that is measured is the one in which this file lies, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from handlers import costs

import waker
from launcher import engines
from launcher.bench import provenance
from launcher.devices.blockio import NAMES
from tests.support.pong import ping, pong

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCHEMA = 1
PARTS = ("console", "net", "block", "handlers")
WAKERS = ("process/select", "thread/select", "process/epoll", "inline/uring")
LIMIT_US = 15.0
SECTOR = 512
_PATIENCE_S = 30

Row = dict[str, object]


class Arm(NamedTuple):
    """An engine and a Waker."""

    engine: str
    waker: str

    @property
    def options(self) -> list[str]:
        return [f"--engine={self.engine}", f"--waker={self.waker}"]


def main() -> int:
    """Measure what was asked for; return the exit code."""
    options = _parse_arguments()
    wakers = waker.names() if options.wakers == ["all"] else options.wakers or list(WAKERS)
    arms = [Arm(engine, name) for engine in options.engine or ("python", "kvm") for name in wakers]
    command = shlex.join(["scripts/devices", *sys.argv[1:]])
    rows: list[Row] = [{"schema": SCHEMA, "kind": "run", "command": command} | provenance.host(options.seed)]
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(_pattern(options.mib))
        for row in _measure(options, arms, disk):
            rows.append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if any("failed" in row for row in rows):
        return 1
    return 4 if any(row.get("is_too_much") for row in rows) else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/devices", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wakers", nargs="*", metavar="WAKER", help=f"only these, or all ({' '.join(WAKERS)})")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one (repeatable)")
    parser.add_argument("--engine", action="append", choices=engines.names(), help="only this (python and kvm)")
    parser.add_argument("--io", action="append", choices=NAMES, help="only this back-end of the disk (repeatable)")
    parser.add_argument("--depth", action="append", type=int, help="so many reads at a time (repeatable; 1 and 32)")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="round trips, buffers (%(default)s)")
    parser.add_argument("--reads", type=int, default=10_000, metavar="N", help="with several at a time (%(default)s)")
    parser.add_argument("--mib", type=int, default=64, metavar="N", help="how large the file is (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the places that are read (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there as JSON Lines, too")
    return parser.parse_intermixed_args()


def _measure(options: argparse.Namespace, arms: list[Arm], disk: Path) -> Iterator[Row]:
    parts = options.part or PARTS
    if "handlers" in parts:
        for what, found_ns in costs(disk, options.samples):
            row = {"kind": "handler", "what": what} | _quantiles(found_ns)
            yield row | {"is_too_much": float(str(row["p50_us"])) > LIMIT_US}
    for arm in arms:
        reason = waker.why_not(arm.waker) or engines.get(arm.engine).why_not()
        if reason:
            yield {"kind": "skipped", **arm._asdict(), "reason": reason}
            continue
        if "console" in parts:
            yield {"kind": "console", **arm._asdict()} | _console(arm, options.samples)
        if "net" in parts:
            yield {"kind": "net", **arm._asdict()} | _net(arm, options.samples)
        if "block" in parts:
            for io in options.io or NAMES:
                for depth in options.depth or (1, 32):
                    count = options.reads if depth > 1 else max(options.reads // 10, 100)
                    found = _block(arm, disk, io, depth, count, options.seed)
                    yield {"kind": "block", **arm._asdict(), "io": io, "depth": depth} | found


def _console(arm: Arm, count: int) -> Row:
    found = []
    with _launch(*arm.options, "echo") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for _ in range(1 + count):
            begin = perf_counter_ns()
            running.stdin.write(b"x")
            if running.stdout.read(1) != b"x":
                return {"failed": "another byte came back"}
            found.append(perf_counter_ns() - begin)
        del found[0]  # the start of it all was in that
        running.stdin.close()
        running.wait(_PATIENCE_S)
    return _quantiles(found)


def _net(arm: Arm, count: int) -> Row:
    with pong(*arm.options):
        found = [round(seconds * 1e9) for seconds in ping(count)]
    return _quantiles(found) if len(found) == count else {"failed": f"{count - len(found)} answers are missing"}


def _block(arm: Arm, disk: Path, io: str, depth: int, count: int, seed: int) -> Row:
    options = [*arm.options, f"--block=ro:{disk}", f"--block-io={io}"]
    numbers = [str(depth), str(count), str(seed)]
    is_timed = arm.engine == "python"
    guest = [str(HERE / "reader.py")] if is_timed else ["blk", "read"]
    with _launch(*options, *guest, *numbers) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        begin = perf_counter()
        last = running.stdout.readline()
        seconds = perf_counter() - begin
        running.wait(_PATIENCE_S)
    if running.returncode:
        return {"failed": f"exit code {running.returncode}"}
    if is_timed:
        return dict(json.loads(first))
    if last != b"blk: read %d pages, every one is right\n" % count:
        return {"failed": f"it said {first + last!r}"}
    return {"n": count, "reads_per_s": round(count / seconds), "mean_us": round(depth * seconds / count * 1e6, 1)}


def _launch(*args: str) -> subprocess.Popen[bytes]:
    """Run a Launcher whose console is two pipes, without buffers in between."""
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "run", f"--timeout={_PATIENCE_S}", *args],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def _quantiles(found_ns: list[int]) -> Row:
    ordered = sorted(found_ns)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1e3, 2)

    # A quantile is given where the sample supports it: p99 wants 299.
    p99 = {"p99_us": at(0.99)} if len(ordered) >= 299 else {}
    return {"n": len(ordered), "p50_us": at(0.5), **p99, "max_us": round(ordered[-1] / 1e3, 2)}


def _pattern(mib: int) -> bytes:
    """Return a disk on which each sector begins with a tag and its own number, as `blk` writes them."""
    return b"".join(pack("<II", 1, sector).ljust(SECTOR, b"x") for sector in range(mib << 11))


if __name__ == "__main__":
    sys.exit(main())
