"""Who asks the Guest `net-blk`: reads and writes by UDP, so many at a time, and every byte is compared with a model."""

from __future__ import annotations

import random
import select
import socket
from collections import deque
from time import perf_counter
from typing import NamedTuple

from launcher.guests.net_blk import PORT, REQUEST
from shared.virtio import BLK_S_OK, BLK_T_FLUSH, BLK_T_IN, BLK_T_OUT
from tests.support.pong import GUEST, PATIENCE_S

SECTOR = 512


class Answer(NamedTuple):
    """What came back for a request."""

    kind: int
    tag: int
    sector: int
    room: int
    status: int
    data: bytes


class Load(NamedTuple):
    """What a load came to; a wrong byte, status or answer is an AssertionError instead."""

    reads: int
    writes: int
    seconds: float


class Client:
    """Asks the Guest. Use it in a `with`."""

    def __init__(self, addr: str = GUEST, port: int = PORT) -> None:
        self._end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._end.connect((addr, port))

    def send(self, kind: int, tag: int = 0, sector: int = 0, room: int = 0, data: bytes = b"") -> None:
        """Send one request."""
        self._end.send(REQUEST.pack(kind, tag, sector, room, 0xFF) + data)

    def send_bytes(self, datagram: bytes) -> None:
        """Send anything."""
        self._end.send(datagram)

    def receive(self) -> Answer:
        """Wait for one answer."""
        assert select.select([self._end], [], [], PATIENCE_S)[0], "no answer came"
        datagram = self._end.recv(65536)
        return Answer(*REQUEST.unpack_from(datagram), datagram[REQUEST.size :])

    def ask(self, kind: int, sector: int = 0, room: int = 0, data: bytes = b"") -> tuple[int, bytes]:
        """Send one request and wait for its answer; return status and data."""
        self.send(kind, 77, sector, room, data)
        answer = self.receive()
        assert answer[:4] == (kind, 77, sector, room)
        return answer.status, answer.data

    def load(self, disk: bytearray, count: int, depth: int, seed: int) -> Load:
        """Read and write one or two sectors at random places, `depth` requests under way, and flush at the end.

        `disk` is what the disk holds, and is changed as it is. Two that are under way never touch the same sector when
        one of them writes: no order is promised among them.
        """
        rng = random.Random(seed)
        waiting = deque(_make_up(rng, len(disk) // SECTOR) for _ in range(count))
        under_way: dict[int, tuple[int, int, bytes]] = {}
        busy: dict[int, set[int]] = {}
        tags = iter(range(count))
        writes, begin = sum(kind == BLK_T_OUT for kind, _, _ in waiting), perf_counter()
        while waiting or under_way:
            while waiting and len(under_way) < depth:
                kind, sector, data = waiting[0]
                sectors = set(range(sector, sector + len(data) // SECTOR))
                if any(sectors & busy[tag] and BLK_T_OUT in (kind, other) for tag, (other, _, _) in under_way.items()):
                    break
                waiting.popleft()
                tag = next(tags)
                under_way[tag], busy[tag] = (kind, sector, data), sectors
                is_read = kind == BLK_T_IN
                self.send(kind, tag, sector, len(data) if is_read else 0, b"" if is_read else data)
            answer = self.receive()
            kind, sector, data = under_way.pop(answer.tag)
            at = slice(sector * SECTOR, sector * SECTOR + len(data))
            if kind == BLK_T_OUT:
                disk[at] = data
            expected = bytes(disk[at]) if kind == BLK_T_IN else b""
            assert (answer.kind, answer.sector, answer.status, answer.data) == (kind, sector, BLK_S_OK, expected)
        seconds = perf_counter() - begin
        assert self.ask(BLK_T_FLUSH) == (BLK_S_OK, b"")
        return Load(count - writes, writes, seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()


def _make_up(rng: random.Random, sectors: int) -> tuple[int, int, bytes]:
    """Return kind, sector and data; of a read, only how much there is of it counts."""
    count = rng.randint(1, 2)
    return rng.choice([BLK_T_IN, BLK_T_OUT]), rng.randint(0, sectors - count), rng.randbytes(count * SECTOR)
