"""One arm: a Launcher in a fresh process that serves what the stimulus rings.

    python -P launcher/bench/measure/arm.py TREE SPEC

It speaks the yardstick's protocol (yardstick/yardstick.h) on standard input and output, which are one socket: "r" when
its Waker watches, along with the fds that the stimulus needs, "d" when all is served; it stays until the input ends,
and then says in JSON what it counted. Exit code 77: it cannot run here, and the reason is on standard error. SIGUSR2
says that nobody believes in it any more: it gives up where it is, and reports.

TREE is the tree that is measured, whatever is installed; this file and its neighbours are of the tree that measures.
The garbage collector is off, and what was allocated before is frozen: its pauses are the harness's, not the Waker's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from time import monotonic_ns
from types import FrameType
from typing import Any

if __name__ == "__main__":  # two trees: the machine is of one, launcher.bench of the other
    from importlib import util

    sys.path.insert(0, sys.argv[1])
    _here = Path(__file__).resolve().parents[1]
    _found = util.spec_from_file_location(
        "launcher.bench", _here / "__init__.py", submodule_search_locations=[str(_here)]
    )
    assert _found is not None
    import launcher  # noqa: F401 - the package of that tree

    sys.modules["launcher.bench"] = util.module_from_spec(_found)

import waker
from launcher.api import Broken, Device, Notify
from launcher.bench.measure.ledger import HEADER_WORDS, INTENDED, ROW_WORDS, SENT, SERVED, SERVED_AT, WAKE, Ledger
from launcher.bench.measure.props import Churned, Filled, Rings, Served, Typed
from launcher.bench.measure.tally import counts, cpu_of_threads, traced
from launcher.config import RunConfig
from launcher.devices.console import Console
from launcher.machine import Machine, open_machine
from shared.errors import EXIT_CANNOT_RUN_HERE, CannotRunError, LabError, SourceRefused, UsageError
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room

GIVE_UP = signal.SIGUSR2
"""Tells an arm that nobody believes in it any more."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks whoever measures to stop."""

_PR_SET_PDEATHSIG = 1
_GOES_ON = (Broken, Notify)


class GivenUp(BaseException):
    """Raised where it hangs."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What the arm is to be: all plain values, so that it can be handed over as JSON."""

    device: str
    engine: str
    guest: str
    waker: str
    ledger: int
    fds: list[int]
    idle: int
    seed: int
    own: dict[str, Any]
    """What was set of the parameters that the case alone has."""
    memory_mib: int
    switch_us: int
    is_tracing: bool

    def to_json(self) -> str:
        """Return it as an argument."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


def main(spec: Spec) -> int:
    """Be the arm; return the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody is left to measure for
    signal.signal(GIVE_UP, _give_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for whoever measures, who ends us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # which waited while we were started
    sys.setswitchinterval(spec.switch_us / 1e6)
    with Ledger(spec.ledger) as ledger, socket.socket(fileno=os.dup(1)) as control:
        try:
            _DEVICES[spec.device](spec, ledger, control)
        except (CannotRunError, SourceRefused, UsageError) as error:
            print(error, file=sys.stderr)
            return EXIT_CANNOT_RUN_HERE
        except LabError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


def _give_up(_signo: int, _frame: FrameType | None) -> None:
    raise GivenUp


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()


# ---- With a Waker ----


def _run_rings(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    def make(_memory: GuestMemory, page: Page) -> list[Device]:
        idle_kind = "pipe" if waker.parse(spec.waker).strategy == "sigio" else "eventfd"  # which send no SIGIO
        return [Rings(spec.fds, Served(ledger, page, len(spec.fds)), spec.idle, idle_kind)]

    _run(spec, ledger, control, make)


def _run_console(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    def make(memory: GuestMemory, page: Page) -> list[Device]:
        room = Room(memory, page, slot=0) if waker.parse(spec.waker).is_ring_aware else None
        return [Typed(spec.fds[0], Served(ledger, page), int(spec.own["payload"]), room)]

    _run(spec, ledger, control, make)


def _run_vring(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    made: list[Filled] = []

    def make(memory: GuestMemory, page: Page) -> list[Device]:
        made.append(Filled(memory, page, Served(ledger, page)))
        return [made[0]]

    def greet(machine: Machine) -> None:
        ring, device = made[0].layout, made[0]
        layout = f"{ring.num} {ring.desc} {ring.avail} {ring.used}".encode()
        socket.send_fds(control, [b"r" + layout], [machine.memory.fileno(), device.fd.doorbell])

    _run(spec, ledger, control, make, greet)


def _run_churn(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    made: list[Churned] = []

    def make(memory: GuestMemory, page: Page) -> list[Device]:
        is_aware = waker.parse(spec.waker).is_ring_aware
        made.append(Churned(spec.fds, Served(ledger, page), memory, page, is_aware=is_aware))
        return [made[0]]

    def refill(machine: Machine) -> None:
        if made[0].is_starved:
            machine.loop.watch(made[0].refill())
            machine.loop.waker.nudge()

    _run(spec, ledger, control, make, after=refill)


def _run_ping(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    """Have the Guest answer pings. The TAP is in a network of this process' own; the stimulus gets a socket of it."""
    from launcher.bench.measure import namespace, pinged  # late: the tree may be older than what it takes

    namespace.enter()
    made: list[pinged.Pinged] = []
    typed, _never_closed = os.pipe()  # the Guest's console, at which nobody types
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def make(memory: GuestMemory, page: Page) -> list[Device]:
        is_aware = waker.parse(spec.waker).is_ring_aware
        made.append(pinged.Pinged(Served(ledger, page), Room(memory, page, 1) if is_aware else None))
        return [Console(typed, sink, room=Room(memory, page, 0) if is_aware else None), made[0]]

    def greet(machine: Machine) -> None:
        while not made[0].is_started:
            _run_once(machine)
        with made[0].open_socket() as asker:
            socket.send_fds(control, [b"r"], [asker.fileno()])

    _run(spec, ledger, control, make, greet, args=(pinged.GUEST_ADDR,), count=lambda: {"dropped": made[0].dropped()})


def _run_block(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    from launcher.bench.measure.reads import Reads  # late, as above

    made: list[Reads] = []

    def make(memory: GuestMemory, page: Page) -> list[Device]:
        served = Served(ledger, page)
        made.append(Reads(memory, spec.memory_mib << 20, ledger, served, spec.seed, spec.own))
        return [made[0]]

    def greet(machine: Machine) -> None:
        control.send(b"r")
        control.recv(1)
        made[0].begin()

    _run(spec, ledger, control, make, greet)


def _run(
    spec: Spec,
    ledger: Ledger,
    control: socket.socket,
    make: Callable[[GuestMemory, Page], list[Device]],
    greet: Callable[[Machine], object] | None = None,
    after: Callable[[Machine], object] | None = None,
    args: tuple[str, ...] = (),
    count: Callable[[], dict[str, int]] = dict,
) -> None:
    """Run the machine until all is served; `count` yields what there is to count besides."""
    words, rings = ledger.words, ledger.rings
    with open_machine(_config(spec, args), make) as machine:
        _freeze()
        cpu_before = cpu_of_threads()
        if greet is None:
            control.send(b"r")
        else:
            greet(machine)
        ended = "ok"
        try:
            while words[SERVED] < rings:
                _run_once(machine)
                if after is not None:
                    after(machine)
        except GivenUp:
            ended = "hung"
        _finish(control, machine, ended, cpu_before, counts=counts(machine) | count())


def _run_once(machine: Machine) -> None:
    exit_ = machine.loop.run_once()
    if not isinstance(exit_, _GOES_ON):
        raise LabError(f"its Guest came to an end that nobody asked for: {exit_}")


def _config(spec: Spec, args: tuple[str, ...] = ()) -> RunConfig:
    return RunConfig(
        image=spec.guest,
        args=args,
        engine=spec.engine,
        waker=spec.waker,
        memory_mib=spec.memory_mib,
        is_tracing=spec.is_tracing,
    )


def _finish(control: socket.socket, machine: Machine, ended: str, cpu_before: dict[str, int], **more: object) -> None:
    """Say that it is over, stay while the costs are read, and report."""
    signal.signal(GIVE_UP, signal.SIG_IGN)
    cpu_ns = {name: ns - cpu_before.get(name, 0) for name, ns in cpu_of_threads().items()}
    report = {"ended": ended, "cpu_ns": cpu_ns, **more}
    _stay(control, report | traced(machine))


def _stay(control: socket.socket, report: dict[str, Any]) -> None:
    control.send(b"d")
    with suppress(GivenUp):
        while control.recv(1):
            pass
    control.sendall(json.dumps(report).encode())


# ---- Without one ----


def _run_direct(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    """Look at the pipe until there is something in it, and serve that: the harness, and nothing else."""
    left, fd, taken = ledger.rings, spec.fds[0], bytearray(4096)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    # As in C: os.read would allocate 4 KiB anew, which takes 0.1 us of the 1.3 that all of this does.
    look, read, note = poll.poll, FileIO(fd, closefd=False).readinto, Served(ledger, None).note
    _freeze()
    control.send(b"r")
    ended = "ok"
    try:
        while left > 0:
            if look(0):  # three times as quick as a read that raises
                count = read(taken)
                note(0, count, monotonic_ns())
                left -= count
    except GivenUp:
        ended = "hung"
    _stay(control, {"ended": ended, "counts": {}, "cpu_ns": {}})


def _run_start(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    """Start a Waker, stop it, and start another: a row for each, from nothing to watching. The last one stays."""
    words = ledger.words
    made: list[Rings] = []

    def make(_memory: GuestMemory, page: Page) -> list[Device]:
        made.append(Rings(spec.fds, Served(ledger, page)))
        return [made[0]]

    with open_machine(_config(spec), make) as machine:
        loop = machine.loop
        loop.waker.stop()
        _freeze()
        cpu_before = cpu_of_threads()
        control.send(b"r")
        control.recv(1)
        stopped_ns = []
        for number in range(ledger.rings):
            at = HEADER_WORDS + number * ROW_WORDS
            words[at + INTENDED] = words[at + SENT] = monotonic_ns()
            started = waker.start(spec.waker, machine.memory, machine.page, loop.vcpu.breaker(), made[0].sources)
            words[at + SERVED_AT] = monotonic_ns()
            words[at + WAKE] = number + 1
            words[SERVED] = number + 1
            if number + 1 < ledger.rings:
                began_ns = monotonic_ns()
                started.stop()
                stopped_ns.append(monotonic_ns() - began_ns)
        loop.waker = started
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended_cpu_ns = int((children.ru_utime + children.ru_stime) * 1e9)
        counted = counts(machine)
        _finish(control, machine, "ok", cpu_before, counts=counted, stopped_ns=stopped_ns, ended_cpu_ns=ended_cpu_ns)
        started.stop()


_DEVICES: dict[str, Callable[[Spec, Ledger, socket.socket], None]] = {
    "rings": _run_rings,
    "console": _run_console,
    "vring": _run_vring,
    "churn": _run_churn,
    "net": _run_ping,
    "disk": _run_block,
    "start": _run_start,
    "direct": _run_direct,
}


if __name__ == "__main__":
    sys.exit(main(Spec(**json.loads(sys.argv[2]))))
