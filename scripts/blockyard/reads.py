"""4 KiB random reads a second and their latency, per Waker and depth; and what the device's handlers cost.

The reads are those of a Guest in Python on the engine `python` (reader.py), and its own work is in them: what is
counted is what a Guest gets. The file is in the page cache, so it is the way that is measured, and no disk. The
handlers are measured alone, as CPU time of the thread that serves the Guest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from select import poll
from struct import pack
from time import thread_time_ns

# The tree that is measured is the one in which this file lies, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import waker
from launcher.devices.block import Block
from launcher.devices.blockio import NAMES
from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout

ROOT = Path(__file__).resolve().parents[2]
WAKERS = ("process/select", "thread/select", "process/epoll", "inline/uring")
PAGE = 4096
_HEADERS, _DATA = 0x10000, 0x20000


def main() -> int:
    """Measure what was asked for; a JSON line each."""
    parser = argparse.ArgumentParser(prog="scripts/block", description=__doc__)
    parser.add_argument("wakers", nargs="*", metavar="WAKER", help=f"only these, or all ({' '.join(WAKERS)})")
    parser.add_argument("--io", action="append", choices=NAMES, help="only this one (repeatable)")
    parser.add_argument("--depth", action="append", type=int, help="so many at a time (repeatable; 1 and 32)")
    parser.add_argument("--reads", type=int, default=20_000, help="how many with 32 at a time (%(default)s)")
    parser.add_argument("--mib", type=int, default=64, help="how large the file is (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the places that are read (%(default)s)")
    parser.add_argument("--no-handlers", action="store_true", help="leave the handlers' cost out")
    options = parser.parse_args()
    wakers = waker.names() if options.wakers == ["all"] else options.wakers or WAKERS
    say({"run": " ".join(["scripts/block", *sys.argv[1:]]), "kernel": platform.release(), "processors": os.cpu_count()})
    has_failed = False
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(b"".join(pack("<Q", page).ljust(PAGE, b"x") for page in range(options.mib << 8)))
        for io in options.io or NAMES:
            if not options.no_handlers:
                for at_once in (1, 32):
                    say({"handlers": io, "requests": at_once} | handlers(disk, io, at_once))
            for name in wakers:
                for depth in options.depth or (1, 32):
                    count = options.reads if depth > 1 else max(options.reads // 10, 100)
                    has_failed |= not measure(disk, name, io, depth, count, options.seed)
    return 1 if has_failed else 0


def measure(disk: Path, name: str, io: str, depth: int, count: int, seed: int) -> bool:
    """Run the Guest that reads; False when that failed."""
    arm: dict[str, object] = {"waker": name, "io": io, "depth": depth}
    if reason := waker.why_not(name):
        say(arm | {"skipped": reason})
        return True
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launcher", "run", "--engine=python", "--timeout=60", f"--waker={name}"),
            *(f"--block=ro:{disk}", f"--block-io={io}", str(Path(__file__).with_name("reader.py"))),
            *(str(depth), str(count), str(seed)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        say(arm | {"failed": done.stderr.decode().splitlines()[-1]})
        return False
    say(arm | json.loads(done.stdout))
    return True


def handlers(disk: Path, io: str, at_once: int, rounds: int = 2000) -> dict[str, object]:
    """Return the CPU time of each handler for one read of 4 KiB, in microseconds, with so many at once."""
    layout, pages = VringLayout.contiguous(128, 0x1000), disk.stat().st_size // PAGE
    with GuestMemory.create(1 << 20) as memory:
        device = Block(f"ro:{disk}", io)
        (source,) = device.attach([layout])
        driver: DriverQueue[int] = DriverQueue(memory, layout, "driver", event_idx=True)
        device.start([Virtqueue(memory, layout, "device", event_idx=True, features=1 << 9)])
        ready = poll()
        ready.register(source.fd, 1)
        notify_ns = ready_ns = done = 0
        for turn in range(rounds):
            for slot in range(at_once):
                header, data = _HEADERS + 32 * slot, _DATA + PAGE * slot
                memory.view(header, 16)[:] = pack("<IIQ", 0, 0, (turn * 37 + slot) % pages * 8)
                driver.add([(header, 16)], [(data, PAGE), (header + 16, 1)], slot)
            driver.kick_needed()
            notify_ns += _cpu_ns(lambda: (device.on_notify(0), device.lines()))
            done += at_once
            while done:
                ready.poll()
                ready_ns += _cpu_ns(lambda: (device.on_ready(source), device.lines()))
                while driver.reap() is not None:
                    done -= 1
        device.close()
    each = rounds * at_once * 1000
    return {"on_notify_us": round(notify_ns / each, 2), "on_ready_us": round(ready_ns / each, 2)}


def _cpu_ns(handle: Callable[[], object]) -> int:
    begin = thread_time_ns()
    handle()
    return thread_time_ns() - begin


def say(line: dict[str, object]) -> None:
    """Print one JSON line."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
