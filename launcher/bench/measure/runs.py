"""What an arm runs: a machine whose device is the case's, until all is served; then what it has to say of itself.

When the last ring is served it says so at once ("d"), and is quiet: what it costs is read from outside meanwhile. What
it counted it puts together afterwards. The garbage collector is off, and what was there before is frozen, before a
Waker is forked off: its pauses, and the pages that it would touch, are the harness's, not the Waker's. (In a Waker's
process of its own it is as Python has it: the loop there keeps nothing that it would have to look through.)
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from time import monotonic_ns
from typing import Any

import waker
from launcher.api import Broken, Device, Notify
from launcher.bench.measure.ledger import (
    HEADER_WORDS,
    INTENDED,
    PUBLISHED,
    ROW_WORDS,
    SENT,
    SERVED,
    SERVED_AT,
    WAKE,
    Ledger,
)
from launcher.bench.measure.props import Churned, Filled, Rings, Served, Typed
from launcher.bench.measure.spec import GIVE_UP, Spec
from launcher.bench.measure.tally import counts, cpu_of_threads, traced
from launcher.config import RunConfig
from launcher.devices.console import Console
from launcher.machine import Machine, open_machine
from shared.errors import LabError
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room

_GOES_ON = (Broken, Notify)


class GivenUp(BaseException):
    """Raised where it hangs."""


# ---- With a Waker ----


def _run_rings(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    def make(_memory: GuestMemory, page: Page) -> list[Device]:
        idle_kind = "pipe" if waker.parse(spec.waker).strategy == "sigio" else "eventfd"  # which send no SIGIO
        return [Rings(spec.fds, Served(ledger, page, len(spec.fds)), spec.idle, idle_kind)]

    _run(spec, ledger, control, make)


def _run_console(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    made: list[Typed] = []

    def make(memory: GuestMemory, page: Page) -> list[Device]:
        room = Room(memory, page, slot=0) if waker.parse(spec.waker).is_ring_aware else None
        made.append(Typed(spec.fds[0], Served(ledger, page), int(spec.own["payload"]), room))
        return [made[0]]

    def greet(machine: Machine) -> None:
        while not made[0].is_started:
            _run_once(machine)
        control.send(b"r")

    _run(spec, ledger, control, make, greet)


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
    _freeze()
    with open_machine(_config(spec, args), make) as machine:
        cpu_before = cpu_of_threads()
        if greet is None:
            control.send(b"r")
        else:
            greet(machine)
        with suppress(GivenUp), _deaf_afterwards():
            while words[SERVED] < rings:
                _run_once(machine)
                if after is not None:
                    after(machine)
        cpu_ns = _cpu_since(cpu_before)
        _report(control, lambda: {"cpu_ns": cpu_ns, "counts": counts(machine) | count(), **traced(machine)})


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


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()


@contextmanager
def _deaf_afterwards() -> Iterator[None]:
    """Hear no more of giving up at the end, which is where `GivenUp` may still come."""
    try:
        yield
    finally:
        signal.signal(GIVE_UP, signal.SIG_IGN)


def _cpu_since(before: dict[str, int]) -> dict[str, int]:
    return {name: ns - before.get(name, 0) for name, ns in cpu_of_threads().items()}


def _report(control: socket.socket, say: Callable[[], dict[str, Any]]) -> None:
    """Say that it is over, stay while the costs are read, and then say the rest."""
    control.send(b"d")
    while control.recv(1):
        pass
    control.sendall(json.dumps(say()).encode() + b"\n")


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
    with suppress(GivenUp), _deaf_afterwards():
        while left > 0:
            if look(0):  # three times as quick as a read that raises
                count = read(taken)
                note(0, count, monotonic_ns())
                left -= count
    _report(control, lambda: {"cpu_ns": {}, "counts": {}})


# ---- Wakers that come and go ----


def _run_start(spec: Spec, ledger: Ledger, control: socket.socket) -> None:
    """Start a Waker, stop it, and start another: a row for each, from nothing to watching. The last one stays."""
    words = ledger.words
    made: list[Rings] = []

    def make(_memory: GuestMemory, page: Page) -> list[Device]:
        made.append(Rings(spec.fds, Served(ledger, page)))
        return [made[0]]

    _freeze()
    with open_machine(_config(spec), make) as machine:
        loop = machine.loop
        loop.waker.stop()
        cpu_before, ended_before_ns = cpu_of_threads(), _ended_cpu_ns()
        control.send(b"r")
        control.recv(1)
        stopped_ns = []
        with suppress(GivenUp), _deaf_afterwards():
            for number in range(ledger.rings):
                words[PUBLISHED] = number + 1  # before the end of the last one: where that hangs, this one is waiting
                if number:
                    began_ns = monotonic_ns()
                    loop.waker.stop()
                    stopped_ns.append(monotonic_ns() - began_ns)
                at = HEADER_WORDS + number * ROW_WORDS
                words[at + INTENDED] = words[at + SENT] = monotonic_ns()
                loop.waker = waker.start(spec.waker, machine.memory, machine.page, loop.vcpu.breaker(), made[0].sources)
                words[at + SERVED_AT] = monotonic_ns()
                words[at + WAKE] = number + 1
                words[SERVED] = number + 1
        cpu_ns, ended_ns = _cpu_since(cpu_before), _ended_cpu_ns() - ended_before_ns
        more = {"stopped_ns": stopped_ns, "ended_cpu_ns": ended_ns, "cpu_ns": cpu_ns}
        _report(control, lambda: {"counts": counts(machine), **more})  # which stops the last one


def _ended_cpu_ns() -> int:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((children.ru_utime + children.ru_stime) * 1e9)


DEVICES: dict[str, Callable[[Spec, Ledger, socket.socket], None]] = {
    "rings": _run_rings,
    "console": _run_console,
    "vring": _run_vring,
    "churn": _run_churn,
    "net": _run_ping,
    "disk": _run_block,
    "start": _run_start,
    "direct": _run_direct,
}
