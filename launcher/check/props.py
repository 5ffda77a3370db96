"""What the rules need besides the rig: another process that fills a ring, many open files, a Launcher to kill."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import psutil

from launcher.check.rig import Rig, RuleBroken, RuleSkipped
from launcher.devices.peer import VringPeer
from launcher.devices.pulse import Pulse
from shared.virtqueue import Virtqueue
from shared.vring import ring_doorbell
from waker import Source


def count_switches(rig: Rig) -> int | None:
    """How often the Waker's process was scheduled; None for one that has no process of its own."""
    pid = rig.machine.loop.waker.stats().pid
    if pid == os.getpid():
        return None
    counts = psutil.Process(pid).num_ctx_switches()
    return int(counts.voluntary) + int(counts.involuntary)


@contextlib.contextmanager
def filler(rig: Rig) -> Iterator[Callable[[str], None]]:
    """Yield what fills the Guest's next buffer: another process, wherever memory can be given to one."""
    memory, vring = rig.machine.memory, rig.vring
    if memory.is_shared:
        with VringPeer(memory, vring.layout, vring.fd) as peer:
            yield peer.fill
        return
    queue = Virtqueue(memory, vring.layout, "vring")

    def fill(text: str) -> None:
        chain = queue.pop()
        assert chain is not None  # the rule has just offered it
        queue.push(chain, chain.write(text.encode()))
        ring_doorbell(vring.fd.doorbell)

    yield fill


@contextlib.contextmanager
def many_fds(count: int) -> Iterator[None]:
    """Raise the limit of open files as far as it goes, for this process and the Wakers it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 256:
        raise RuleSkipped(f"RLIMIT_NOFILE's hard limit is {hard}; {count + 256} open files are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_some(pulse: Pulse, count: int) -> list[Source]:
    """Open `count` more sources, or as many as there is room for (some take two fds)."""
    sources: list[Source] = []
    try:
        while len(sources) < count:
            sources.append(pulse.open())
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    return sources


def names_left() -> set[str]:
    """Return the names of all POSIX shared memory, semaphores and message queues that there are."""
    found = set()
    for folder in ("/dev/shm", "/dev/mqueue"):
        with contextlib.suppress(OSError):
            found |= {str(path) for path in Path(folder).iterdir()}
    return found


def kill_a_launcher(waker_name: str, engine: str) -> float:
    """Run a Launcher, kill it while its Guest sleeps, and return after how many seconds its Waker was gone."""
    argv = [sys.executable, "-P", "-m", "launcher", "run", "--engine", engine, "--waker", waker_name, "idle"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as launcher:
        assert launcher.stderr is not None
        said = launcher.stderr.readline().decode()
        if not said.startswith("launcher: guest idle"):
            launcher.kill()
            raise RuleBroken(f"a Launcher did not start: {said.strip()}")
        pids = [launcher.pid, *(child.pid for child in psutil.Process(launcher.pid).children(recursive=True))]
        pidfds = [os.pidfd_open(pid) for pid in pids]
        try:
            launcher.send_signal(signal.SIGKILL)
            start = monotonic()
            for pid, pidfd in zip(pids, pidfds, strict=True):
                if not select.select([pidfd], [], [], 5.0)[0]:
                    os.kill(pid, signal.SIGKILL)
                    raise RuleBroken(f"process {pid} was still there 5 s after its Launcher died")
            return monotonic() - start
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
