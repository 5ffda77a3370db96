"""A block device on a real file, and a driver's half of its ring that can cut a request into buffers as it likes."""

from __future__ import annotations

import select
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from struct import pack

from launcher.devices.block import Block
from shared.memory import GuestMemory
from shared.virtio import BLK_FLUSH, BLK_T_IN, BLK_T_OUT
from tests.support.rescue import PATIENCE_S
from tests.support.rings import Pair, layout_of

SECTOR = 512
UNTOUCHED = 0xEE
_ROOM_ADDR = 0x10000


def make_disk(path: Path, sectors: int = 16) -> bytes:
    """Write a file in which no two sectors are the same; return what is in it."""
    content = b"".join(pack("<Q", n).ljust(SECTOR, bytes([n % 251])) for n in range(sectors))
    path.write_bytes(content)
    return content


class Driver:
    """A device and the other half of its ring. `ask` gives a request, `answers` waits for all of them."""

    def __init__(
        self, memory: GuestMemory, text: str, io_name: str = "thread", *, features: int = 1 << BLK_FLUSH
    ) -> None:
        self.memory = memory
        self.device = Block(text, io_name)
        self.begin(features)

    def begin(self, features: int = 1 << BLK_FLUSH) -> None:
        """Begin anew, as after a reset."""
        self.pair = Pair(self.memory, layout_of(64))
        self.pair.device.features = features
        (self.source,) = self.device.attach([self.pair.layout])
        self.device.start([self.pair.device])
        self._asked: dict[int, tuple[int, int]] = {}
        self._next_addr = _ROOM_ADDR

    def ask(
        self,
        kind: int,
        sector: int = 0,
        data: bytes = b"",
        room: int = 0,
        *,
        header: bytes | None = None,
        cuts: Sequence[int] = (),
        room_cuts: Sequence[int] = (),
    ) -> None:
        """Offer a request: `cuts` are the places at which what is sent is cut into buffers, `room_cuts` the room's."""
        sent = (pack("<IIQ", kind, 0, sector & (1 << 64) - 1) if header is None else header) + data
        at = self._take(len(sent) + room + 1)
        self.memory.view(at, len(sent))[:] = sent
        room_at = at + len(sent)
        self.memory.view(room_at, room + 1)[:] = bytes([UNTOUCHED]) * (room + 1)
        self._asked[at] = room_at, room
        readable = _buffers(at, len(sent), cuts or (16,))
        self.pair.driver.add(readable, _buffers(room_at, room + 1, room_cuts or (room,)), at)

    def kick(self) -> None:
        """Notify."""
        if self.pair.driver.kick_needed():
            self.device.on_notify(0)

    def answers(self) -> list[tuple[int, bytes, int]]:
        """Wait for all; return status, room, and how much was written according to the device, in the order asked."""
        self.kick()
        found: dict[int, tuple[int, bytes, int]] = {}
        poll = select.poll()
        poll.register(self.source.fd, select.POLLIN)
        while len(found) < len(self._asked):
            while (used := self.pair.driver.reap()) is not None:
                at, written = used
                assert isinstance(at, int)
                room_at, room = self._asked[at]
                found[at] = (
                    self.memory.view(room_at + room, 1)[0],
                    bytes(self.memory.view(room_at, room)),
                    written,
                )
            if len(found) < len(self._asked):
                assert poll.poll(PATIENCE_S * 1000), "the device does not answer"
                assert self.device.on_ready(self.source)
        answers = [found[at] for at in self._asked]
        self._asked, self._next_addr = {}, _ROOM_ADDR
        return answers

    def read(self, sector: int, count: int = 1) -> tuple[int, bytes]:
        """Read some sectors."""
        self.ask(BLK_T_IN, sector, room=count * SECTOR)
        ((status, data, _),) = self.answers()
        return status, data

    def write(self, sector: int, data: bytes) -> int:
        """Write some sectors; return the status."""
        self.ask(BLK_T_OUT, sector, data)
        ((status, _, _),) = self.answers()
        return status

    def _take(self, length: int) -> int:
        at, self._next_addr = self._next_addr, self._next_addr + length
        assert self._next_addr <= self.memory.size, "the test asks for more than fits its memory"
        return at


def _buffers(at: int, length: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Return (address, length) of the pieces; none is empty."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < length}), length]
    return [(at + one, other - one) for one, other in pairwise(edges) if other > one]
