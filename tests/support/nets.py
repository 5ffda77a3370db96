"""A network device between a cable, whose other end the test has, and a Guest's halves of its two rings."""

from __future__ import annotations

import select
import socket

from launcher.devices import tap
from launcher.devices.net import HEADER_SIZE, Net
from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from tests.support.rings import Hand

RINGS = 0x1000, 0x4000
FRAMES, OUTPUT = 0x8000, 0x18000
MEMORY_SIZE = 0x40000
NUM = 8
NO_OFFLOADS = bytes(HEADER_SIZE)


class Cable:
    """A TAP without an interface: a socket that keeps packets apart, as a TAP does frames, and cuts long ones short."""

    name = "cable"
    tunnet = tap.parse("192.168.77.1")

    def __init__(self) -> None:
        self.outside, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inside.setblocking(False)
        self.outside.setblocking(False)

    def fileno(self) -> int:
        return self._inside.fileno()

    def arrivals(self) -> list[bytes]:
        """Take all frames that the device sent."""
        found = []
        while select.select([self.outside], [], [], 0)[0] and (frame := self.outside.recv(1 << 20)):
            found.append(frame)
        return found

    def close(self) -> None:
        self.outside.close()
        self._inside.close()


class Desk:
    """The device, started, and a driver; `is_watched` is what the Loop would know."""

    def __init__(self, memory: GuestMemory, *, event_idx: bool = True, page: Page | None = None) -> None:
        self.memory, self.page, self.cable = memory, page, Cable()
        self.layouts = [VringLayout.contiguous(NUM, addr) for addr in RINGS]
        self.event_idx = event_idx
        self.net = Net(self.cable, "net0", Room(memory, page, 3) if page else None)  # type: ignore[arg-type]
        assert self.net.attach(self.layouts) == ()
        self.source = self.net._source
        self.changes = 0
        """How often the Launcher had to change what is watched, after the start."""
        self.start()

    def start(self) -> None:
        """Be the Guest's driver, which is ready now."""
        for layout in self.layouts:
            layout.zero(self.memory)
        self.queues = [
            Virtqueue(self.memory, layout, f"net0 queue {number}", event_idx=self.event_idx)
            for number, layout in enumerate(self.layouts)
        ]
        self.received, self.sent = (
            DriverQueue(self.memory, layout, "guest", event_idx=self.event_idx, indirect=True)
            for layout in self.layouts
        )
        self.hands = [Hand(self.memory, layout) for layout in self.layouts]
        self.is_watched = bool(self.net.start(self.queues))
        self._offered = 0

    def offer(self, *sizes: int) -> None:
        """Give one buffer, of pieces of these sizes, to receive into; notify when the device wants to know."""
        at = FRAMES + self._offered % NUM * 0x2000
        self._offered += 1
        pieces = []
        for size in sizes:
            pieces.append((at, size))
            at += size
        self.received.add([], pieces, pieces)  # type: ignore[arg-type]
        if self.received.kick_needed() and self.net.on_notify(0):
            self.changes += not self.is_watched
            self.is_watched = True

    def look(self) -> bool:
        """Have the device serve its interface if it is watched and ready; whether it did."""
        if not self.is_watched or not select.select([self.source.fd], [], [], 0)[0]:
            return False
        if self.source.room is not None:
            assert self.page is not None
            if not self.source.room.has_news(self.memory, self.page):
                return False
        self.is_watched = self.net.on_ready(self.source)
        self.changes += not self.is_watched
        return True

    def frames(self) -> list[bytes]:
        """Take all frames that were given to the Guest, with what stands before them."""
        found = []
        while (used := self.received.reap()) is not None:
            pieces, written = used
            found.append(b"".join(bytes(self.memory.view(*piece)) for piece in pieces)[:written])  # type: ignore[attr-defined]
        return found

    def send(self, data: bytes, *cuts: int) -> None:
        """Send header and frame, in one piece or cut into pieces of these sizes and a rest."""
        self.memory.view(OUTPUT, len(data))[:] = data
        pieces, at = [], 0
        for cut in cuts:
            pieces.append((OUTPUT + at, cut))
            at += cut
        self.sent.add([*pieces, (OUTPUT + at, len(data) - at)], [], 0)  # type: ignore[arg-type]
        if self.sent.kick_needed():
            assert self.net.on_notify(1) == ()
        assert self.sent.reap() == (0, 0)

    def close(self) -> None:
        self.net.close()
