"""Uses console, rng, net and block at the same time (all ADDR), until an EOT (0x04); then it says what each has done.

It sends back what is typed and answers the network as `pong` does, and meanwhile it writes a pattern over the first MiB
of the disk, reads it back and compares it, in turns, and asks for 32 random bytes with each request to the disk. A disk
that cannot be written is to hold the pattern that a run before has left there. At the EOT it ends the turn that it is
in. What it says then depends on what it was asked, and not on how fast that was. The twin of i386/all.c.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode, Irqs, panic
from launcher.guests.answers import is_ip, turn_round
from launcher.guests.disk import CHUNK, READ_ADDR, SECTOR, WANTED_ADDR, Disk, chunks, fill_base
from launcher.guests.network import Network
from launcher.guests.support import find_device, kick
from launcher.guests.words import Echo, Words
from shared.driverqueue import DriverQueue
from shared.virtio import BLK_T_FLUSH, BLK_T_IN, BLK_T_OUT, RNG

_MOST_SECTORS = (1 << 20) // SECTOR
_TAG = 1
_RANDOM_SIZE = 32
_RANDOM_ADDR = 0x1E000


def run(cpu: Cpu) -> GuestCode:
    """Do all at once until EOT."""
    network, disk, words = Network(cpu, "all"), Disk(cpu, "all"), Words(cpu, "all")
    rng = find_device(cpu, RNG, "all: entropy (run with --rng)")
    yield from network.start()
    yield from disk.start()
    (asked,) = yield from rng.start()
    yield from words.start()
    checker, entropy, answered = _Checker(cpu, disk), _Entropy(cpu, asked), 0
    yield from words.say(b"all: console, it sends back\n")
    yield from words.say(b"all: rng, it gives %d bytes at a time\n" % _RANDOM_SIZE)
    yield from words.say(b"all: net, %s\n" % network.text)
    yield from words.say(b"all: block, %d sectors%s\n" % (disk.sectors, b", read-only" * disk.is_read_only))
    echo = Echo(words)
    yield from network.receive()
    while True:
        for number, frame in network.arrivals():
            if turn_round(frame, network.mac, network.addr):
                answered += is_ip(frame)
                network.send(number, len(frame))
            else:
                network.give_back(number)
        yield from network.go_on()
        yield from echo.go_on()
        has_moved = yield from checker.go_on(is_last=echo.has_heard_eot)
        yield from entropy.go_on(has_moved=has_moved)
        if echo.is_over and checker.is_over and entropy.is_enough:
            break
        if network.may_sleep() and echo.may_sleep():
            yield HALT
    yield from words.say(b"all: console, %d bytes sent back\n" % echo.echoed)
    yield from words.say(b"all: rng, no %d bytes came twice\n" % _RANDOM_SIZE)
    yield from words.say(b"all: net, %d packets answered\n" % answered)
    yield from words.say(b"all: block, %d sectors right\n" % checker.sectors)
    yield Shutdown()


class _Checker:
    """Writes a part of the disk and reads it again, in turns; a request at a time."""

    def __init__(self, cpu: Cpu, disk: Disk) -> None:
        self.sectors = min(disk.sectors, _MOST_SECTORS)
        self.is_over = False
        self._disk = disk
        self._requests: Iterator[tuple[int, int, int]] = iter(())
        self._asked: tuple[int, int, int] | None = None
        fill_base(cpu.memory.view(WANTED_ADDR, CHUNK), _TAG)

    def go_on(self, *, is_last: bool) -> Generator[Notify, Irqs, bool]:
        """Judge what is done, and begin the next unless this turn is the last; whether anything was done."""
        has_moved = False
        while not self.is_over and (self._asked is None or self._disk.is_done()):
            if self._asked is not None:
                self._judge(*self._asked)
                has_moved = True
            following = next(self._requests, None)
            if following is None:
                if is_last and self._asked is not None:
                    self.is_over = True
                    break
                self._requests = self._turn()
                following = next(self._requests)
            self._asked = following
            self._begin(*following)
            yield from kick(self._disk.queue)
        return has_moved

    def _turn(self) -> Iterator[tuple[int, int, int]]:
        if not self._disk.is_read_only:
            for sector, length in chunks(self.sectors):
                yield BLK_T_OUT, sector, length
        yield BLK_T_FLUSH, 0, 0
        for sector, length in chunks(self.sectors):
            yield BLK_T_IN, sector, length

    def _begin(self, kind: int, sector: int, length: int) -> None:
        if kind != BLK_T_FLUSH:
            self._disk.want(_TAG, sector, length)
        self._disk.begin(kind, sector, READ_ADDR if kind == BLK_T_IN else WANTED_ADDR, length)

    def _judge(self, kind: int, sector: int, length: int) -> None:
        self._disk.check_status()
        if kind == BLK_T_IN:
            self._disk.check_bytes(sector, length)


class _Entropy:
    """Asks for random bytes, and looks whether they are others than the last time."""

    def __init__(self, cpu: Cpu, queue: DriverQueue[int]) -> None:
        self._memory, self._queue = cpu.memory, queue
        self._have = self._answers = 0
        self._last = b""
        self._ask()

    @property
    def is_enough(self) -> bool:
        """Whether there were two answers to compare."""
        return self._answers >= 2

    def go_on(self, *, has_moved: bool) -> Generator[Notify, Irqs, None]:
        """Take what came: an answer may be shorter than what was asked for. Ask anew when the disk `has_moved`."""
        yield from kick(self._queue)
        while (used := self._queue.reap()) is not None:
            self._have += used[1]
            if self._have == _RANDOM_SIZE:
                self._judge()
                if self.is_enough:
                    break
            self._ask()
            yield from kick(self._queue)
        if has_moved and not self._queue.in_flight:
            self._ask()
            yield from kick(self._queue)

    def _ask(self) -> None:
        self._have %= _RANDOM_SIZE
        self._queue.add([], [(_RANDOM_ADDR + self._have, _RANDOM_SIZE - self._have)], 0)

    def _judge(self) -> None:
        found = bytes(self._memory.view(_RANDOM_ADDR, _RANDOM_SIZE))
        if found == self._last:
            panic(f"all: the same {_RANDOM_SIZE} random bytes came twice")
        self._last = found
        self._answers += 1
