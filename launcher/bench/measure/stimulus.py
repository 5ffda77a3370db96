"""The stimulus: a process of its own that rings at the times in the ledger, and never waits for an answer.

    python -S -P -m launcher.bench.measure.stimulus LEDGER_FD LEAD_US BURST KIND ARGUMENTS…

It says "r" when it could begin, begins at the first byte of its standard input, and then stays until that ends, so that
what it used can be read. The next time counts from the intended one, not from when the last ring was served: an arm
that is slow gets no fewer rings for it, and the latency counts from when the ring was meant to be sent (no coordinated
omission).

It sleeps until LEAD_US before a ring is due, and looks at the clock from there on: a sleep ends 15 to 50 us late, and a
ring that is late by a timer's wake-up says nothing of a Waker. All of the time would be too much: on two processors,
Launcher and Waker would have to share the other one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic_ns, sleep

from launcher.bench.measure.ledger import HEADER_WORDS, INTENDED, PUBLISHED, ROW_WORDS, SENT, SERVED, SOURCE, Ledger
from shared.errors import EXIT_BROKEN_RULE

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_NEAR_NS = 2_000_000
"""The first ring is due so long after the start."""
UNDER_WAY = 256
"""How many pings may be without an answer: a TAP's queue takes 500 frames or more."""
_STRAGGLER_S = 1.0
_OVERHEAD = 1024
"""What a frame takes in a socket's queue besides its bytes, or more."""

Ring = Callable[[int, int], object]
"""Given the source and the sequence number, make that source ready."""


def main(argv: list[str]) -> int:
    """Be the stimulus; return the exit code."""
    ledger_fd, lead_us, burst, *_ = map(int, argv[:3])
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with Ledger(ledger_fd) as ledger:
        ring = _KINDS[argv[3]](argv[4:])
        gc.disable()
        with contextlib.suppress(BrokenPipeError):  # the arm could not begin
            os.write(1, b"r")
        if os.read(0, 1):
            try:
                _send(ledger, ring, lead_us * 1000, burst)
                while os.read(0, 1):
                    pass
                if isinstance(ring, Pings):
                    ring.finish(ledger.words[SERVED])
            except WrongAnswer as error:
                print(error, file=sys.stderr)
                return EXIT_BROKEN_RULE
    return 0


def _send(ledger: Ledger, ring: Ring, lead_ns: int, burst: int) -> None:
    words = ledger.words
    make_room = getattr(ring, "make_room", lambda _number: None)
    start_ns = monotonic_ns() + _NEAR_NS
    at = HEADER_WORDS
    for number in range(ledger.rings):
        intended_ns = words[at + INTENDED] + start_ns
        words[at + INTENDED] = intended_ns
        make_room(number)  # before it is sent, and before the clock is looked at
        if number % burst == 0:
            early_ns = intended_ns - lead_ns - monotonic_ns()
            if early_ns > 0:
                sleep(early_ns / 1e9)
            while monotonic_ns() < intended_ns:
                pass
        source = words[at + SOURCE]
        words[at + SENT] = monotonic_ns()
        words[PUBLISHED] = number + 1
        ring(source, number)
        at += ROW_WORDS


def _pipes(args: list[str]) -> Ring:
    """Write one byte into the pipe of the source: ARGUMENTS are the fds."""
    fds, write = [int(arg) for arg in args], os.write

    def ring(source: int, _number: int) -> None:
        write(fds[source], b"!")

    return ring


def _console(args: list[str]) -> Ring:
    """Type a line of so many bytes: ARGUMENTS are the fd and the number."""
    fd, size = map(int, args)

    def ring(_source: int, number: int) -> None:
        os.write(fd, payload(number, size))

    return ring


_PERIOD, _LONGEST = 64, 65536
_STREAM = bytes(0x20 + at % _PERIOD for at in range(_PERIOD + _LONGEST))


def stream(at: int, size: int) -> bytes:
    """Return so many bytes, up to 64 KiB, of what is typed from byte `at` on: each tells its place, none is a control.

    They are cut out, not made: this is done after a ring was due.
    """
    return _STREAM[at % _PERIOD : at % _PERIOD + size]


def payload(number: int, size: int) -> bytes:
    """Return the bytes that ring `number` brings."""
    return stream(number * size, size)


def _vring(args: list[str]) -> Ring:
    """Fill the Guest's next buffer: ARGUMENTS are the fds of memory and doorbell, the ring's layout, and the size."""
    from shared.memory import GuestMemory
    from shared.virtqueue import Virtqueue
    from shared.vring import ring_doorbell
    from shared.vring_layout import VringLayout

    memory_fd, doorbell, num, desc, avail, used, size = map(int, args)
    memory = GuestMemory.attach(memory_fd, is_writable=True)
    queue = Virtqueue(memory, VringLayout(num, desc, avail, used), "vring")

    def ring(_source: int, number: int) -> None:
        while (chain := queue.pop()) is None:
            pass  # the Guest is behind by a whole ring; the time that this takes counts
        queue.push(chain, chain.write(number.to_bytes(8, "little").ljust(size, b".")))
        if queue.needs_interrupt():
            ring_doorbell(doorbell)

    return ring


class Pings:
    """Send a datagram of so many bytes, and look at the answers that have come: ARGUMENTS are the socket and the size.

    When the answers lag far behind, it waits for them: an interface whose queue is full, or a socket's, loses frames,
    and these would be no Waker's fault. The time that this takes counts. An answer that never comes is told at the end.
    """

    def __init__(self, args: list[str]) -> None:
        fd, self._size = map(int, args)
        self._socket = socket.socket(fileno=fd)
        room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.under_way = max(1, min(UNDER_WAY, room // (2 * (self._size + _OVERHEAD))))
        self._expected = self._missing = 0

    def make_room(self, number: int) -> None:
        """Wait until the datagram of this number may be sent; raise `WrongAnswer` for an answer that is none."""
        while number - self._expected >= self.under_way:
            self._take(0)

    def __call__(self, _source: int, number: int) -> None:
        """Send the datagram of this number, and look at what has come; raises `WrongAnswer` as well."""
        self._socket.send(datagram(number, self._size))
        while self._take(socket.MSG_DONTWAIT):
            pass

    def finish(self, served: int) -> None:
        """Look at the answers that are left of so many; raise `WrongAnswer` if one is missing or wrong."""
        self._socket.settimeout(_STRAGGLER_S)
        try:
            while self._expected < served:
                self._take(0)
        except TimeoutError:
            self._missing += served - self._expected
        if self._missing:
            raise WrongAnswer(f"ping: {self._missing} of {served} answers did not come back")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take(self, flags: int) -> bool:
        try:
            answer = self._socket.recv(1 << 16, flags)
        except BlockingIOError:
            return False
        number = int.from_bytes(answer[:8], "little")
        if number < self._expected or answer != datagram(number, self._size):
            raise WrongAnswer(f"ping: what came is not what was sent as number {self._expected}")
        self._missing += number - self._expected
        self._expected = number + 1
        return True


class WrongAnswer(Exception):  # noqa: N818 - what came
    """Say which answer is none."""


def datagram(number: int, size: int) -> bytes:
    """Return what is sent as this number: the number, and bytes that tell where they belong."""
    return number.to_bytes(8, "little") + payload(number, size - 8)


_KINDS: dict[str, Callable[[list[str]], Ring]] = {
    "pipes": _pipes,
    "console": _console,
    "vring": _vring,
    "net": Pings,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
