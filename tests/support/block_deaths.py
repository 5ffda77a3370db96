"""A disk whose Waker, or whose Launcher, is killed at random moments: what must be in the file afterwards.

The suite does a little of this, scripts/block-deaths much.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import waker
from launcher.api import Broken, Shutdown
from launcher.config import RunConfig
from launcher.devices.block import Block
from launcher.devices.console import Console
from launcher.guests import blk, disk
from launcher.machine import Machine, open_machine

ROOT = Path(__file__).resolve().parents[2]
PAGE = 4096
PATIENCE_S = 300.0
"""How long a failure takes. Nothing that holds depends on it."""

# More within 10 s than waker/handle.py takes for an accident would end the run.
_MOST_KILLS = 15


class Survived(NamedTuple):
    """What the Guest said, how many Wakers were killed, how many replaced, and how long it took."""

    said: str
    kills: int
    replaced: int
    seconds: float


def kill_wakers(path: Path, waker_name: str, engine: str, io_name: str, seed: int) -> Survived:
    """Have the Guest `blk` write all of the file and read it back, while its Waker is killed again and again.

    A process is killed by SIGKILL a little after a random exit of the Guest's, wherever it is then; a thread at the
    exit, in the way its place has; inline nobody is there to be killed. Raises `AssertionError` when a wake-up was
    lost, or the file does not hold what was written.
    """
    sectors = path.stat().st_size // disk.SECTOR
    requests = 2 * sectors * disk.SECTOR // disk.CHUNK
    rng = random.Random(seed)
    moments = set(rng.sample(range(2 * requests), min(_MOST_KILLS, requests)))
    if waker.parse(waker_name).place == "inline":
        moments = set()
    config = RunConfig(image="blk", engine=engine, waker=waker_name, args=("all", str(seed)))
    begin, exits, kills = monotonic(), 0, 0
    with tempfile.TemporaryFile() as said, open(os.devnull, "rb") as nothing:
        with open_machine(
            config,
            lambda _memory, _page: [Console(nothing.fileno(), said.fileno()), Block(str(path), io_name)],
        ) as machine:
            with _watchdog(machine) as has_fired:
                while not isinstance(exit_ := machine.loop.run_once(), Shutdown):
                    assert isinstance(exit_, Broken) or hasattr(exit_, "addr"), exit_
                    assert not has_fired.is_set(), "a wake-up was lost"
                    if exits in moments:
                        kills += _kill(machine, rng)
                    exits += 1
            replaced = machine.loop.waker.stats().replaced
        said.seek(0)
        text = said.read().decode()
    _check_whole(path, seed)
    return Survived(text, kills, replaced, monotonic() - begin)


def _kill(machine: Machine, rng: random.Random) -> bool:
    """Have the Waker die; False when the one before is dead already and not replaced yet."""
    wake = machine.loop.waker
    if waker.parse(wake.name).place == "thread":
        wake.kill()
        return True
    try:
        pidfd = os.pidfd_open(wake.stats().pid)
    except ProcessLookupError:
        return False

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)

    threading.Timer(rng.uniform(0, 0.001), kill).start()
    return True


@contextlib.contextmanager
def _watchdog(machine: Machine) -> Iterator[threading.Event]:
    has_fired = threading.Event()

    def fire() -> None:
        has_fired.set()
        machine.loop.vcpu.breaker().break_out()

    timer = threading.Timer(PATIENCE_S, fire)
    timer.daemon = True
    timer.start()
    try:
        yield has_fired
    finally:
        timer.cancel()
        timer.join()


def _check_whole(path: Path, seed: int) -> None:
    wanted = bytearray(disk.CHUNK)
    disk.fill_base(memoryview(wanted), seed)
    with path.open("rb") as file:
        for sector in range(0, path.stat().st_size // disk.SECTOR, disk.CHUNK // disk.SECTOR):
            disk.tag(memoryview(wanted), seed, sector)
            found = file.read(disk.CHUNK)
            assert found == wanted[: len(found)], f"wrong bytes in the chunk from sector {sector} on"


class Killed(NamedTuple):
    """How many writes were acknowledged, and what the file has of the one that was not."""

    acknowledged: int
    pages_of_the_next: int


def kill_launcher(path: Path, waker_name: str, engine: str, io_name: str, seed: int, most: int = 200) -> Killed:
    """Kill a Launcher whose Guest logs (`blk log`) after a random number of acknowledged writes, and check the file.

    Raises `AssertionError` when the file has not all of each acknowledged write, or a page of the next one in part.
    """
    rng = random.Random(seed)
    path.write_bytes(bytes(blk.LOG_SECTORS * disk.SECTOR))
    argv = [
        *(sys.executable, "-m", "launcher", "run", f"--engine={engine}", f"--waker={waker_name}"),
        *(f"--block={path}", f"--block-io={io_name}", "blk", "log", "100000"),
    ]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = b""
        wanted = rng.randrange(1, most)
        while said.count(b"\n") < wanted:
            more = os.read(process.stdout.fileno(), 65536)
            assert more, process.communicate()[1]
            said += more
        for _ in range(rng.randrange(5000)):
            pass  # anywhere between two acknowledgements
        process.kill()
        said += process.stdout.read()
    numbers = [int(line) for line in said.split(b"\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    return Killed(len(numbers), _check_log(path.read_bytes(), len(numbers)))


def _check_log(content: bytes, acknowledged: int) -> int:
    """Compare each page of the log with what was acknowledged; return how many are of the write after that."""
    assert len(content) == blk.LOG_SECTORS * disk.SECTOR, "the file grew, or was cut"
    blocks = len(content) // blk.LOG_BLOCK
    of_the_next = 0
    for at in range(blocks):
        last = acknowledged - (acknowledged - 1 - at) % blocks if acknowledged > at else 0
        was, is_next = _block(last, at), _block(acknowledged + 1, at)
        found = content[at * blk.LOG_BLOCK :][: blk.LOG_BLOCK]
        for page in range(0, blk.LOG_BLOCK, PAGE):
            part = slice(page, page + PAGE)
            if found[part] == was[part]:
                continue
            assert at == acknowledged % blocks, f"block {at} has not what write {last} wrote there"
            assert found[part] == is_next[part], f"block {at} has a page of neither write {last} nor the next"
            of_the_next += 1
    return of_the_next


def _block(number: int, at: int) -> bytearray:
    block = bytearray(blk.LOG_BLOCK)
    if number:
        disk.fill_base(memoryview(block), 1)
        disk.tag(memoryview(block), number, at * (blk.LOG_BLOCK // disk.SECTOR))
    return block
