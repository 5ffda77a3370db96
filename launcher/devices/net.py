"""The network: a virtio-net (VirtIO 1.3, 5.1) between a Guest's two rings and a TAP interface.

Queue 0 takes frames to the Guest, queue 1 the Guest's to the host. A frame goes by one readv or writev straight between
the TAP and the Guest's buffers; before it stands a header that tells of offloads. None is offered, so the header is ten
bytes (5.1.6, without MRG_RXBUF), all zero to the Guest, and asks for nothing from it.

A network may lose frames, and this is where: one that the Guest gave too little room for, one that no Ethernet carries,
one that the interface did not take, one whose header asks for what was not agreed upon. They are dropped and counted.
What no driver would do by mistake of its network is a `RingError`: a buffer that cannot be written, or holds no header.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from launcher.devices.tap import Tap
from shared.errors import LabError, RingError
from shared.room import Room
from shared.virtio import ANY_LAYOUT, NET, NET_MAC, RING_FEATURES
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

HEADER_SIZE = 10
_HEADER = bytes(HEADER_SIZE)
_MAC_SIZE = 6
_QUEUE_SIZE = 128  # a ring of 128 takes two pages, as one of 64 does
# Ethernet's: 14 bytes of header; and then a VLAN tag and 1,500 bytes. Jumbo frames would have to be agreed upon.
_SMALLEST_FRAME, _LARGEST_FRAME = 14, 1518
# Frames of one wake-up. The TAP is level-triggered, so what is left comes with the next; the Guest is to run meanwhile.
_AT_ONCE = 32
# A system call takes 1,024 pieces. A frame in more than these is put together first.
_PIECES = 64
# What the interface says for a frame that it cannot take now (down, congested, out of memory), or never.
_NOT_TAKEN = (errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL, errno.EMSGSIZE)
# After readv's own buffers: what is written here did not fit. What it holds, nobody reads.
_BEYOND = memoryview(bytearray(1))


class Net:
    """A network device on a TAP, which it closes. The vCPU's thread calls it."""

    type_id = NET
    queue_sizes: tuple[int, ...] = (_QUEUE_SIZE, _QUEUE_SIZE)
    features = RING_FEATURES | 1 << NET_MAC | 1 << ANY_LAYOUT

    def __init__(self, tap: Tap, name: str = "net", room: Room | None = None) -> None:
        """Put the Guest on this interface; with a `room`, a ring-aware Waker leaves it alone without a buffer."""
        self.name = name
        self.config = make_mac(tap)
        self.received = self.sent = 0
        """Frames that the Guest was given, and that it sent."""
        self.receive_drops = self.send_drops = 0
        """Frames that were lost here, on their way to the Guest and from it."""
        self._tap = tap
        self._fd = tap.fileno()
        self._source = Source(self._fd, name)
        self._room = room
        self._queues: Sequence[Virtqueue] = ()
        self._spare: Chain | None = None
        self._is_starved = False

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Have nothing watched: without a driver there is no buffer."""
        if self._room is not None:
            self._source.room = self._room.at(rings[0].avail_idx)
        return ()

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Take both queues; what came for the Guest before it was ready comes now."""
        self._queues = queues
        queues[0].disable_notify()  # it is of interest only while we starve
        self._is_starved = False
        self._tell_room()
        return (self._source,)

    def on_ready(self, source: Source) -> bool:
        """Give the Guest what has come; False when it has no buffer for it."""
        if not self._queues:
            return False
        queue = self._queues[0]
        chain = self._take_buffer(queue)
        self._is_starved = chain is None and self._room is None
        for _ in range(_AT_ONCE):
            if chain is None or not self._receive(queue, chain):
                break
            # Here no kick is asked for: perhaps no frame waits for the buffer that is not there.
            chain, self._spare = self._spare or queue.pop(), None
        else:
            self._spare = chain
        self._tell_room()
        return not self._is_starved

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Send what the Guest gave; or take up receiving again when it has given buffers to receive into."""
        if queue == 1:
            if self._queues:
                self._send(self._queues[1])
            return ()
        self._tell_room()
        if not self._is_starved:
            return ()
        self._is_starved = False
        self._queues[0].disable_notify()
        return (self._source,)

    def lines(self) -> Sequence[int]:
        """Ask for the interrupts that the Guest wants to have."""
        return [line for line, queue in enumerate(self._queues) if queue.needs_interrupt()]

    def reset(self) -> None:
        """Forget the queues."""
        self._queues = ()
        self._spare = None
        self._is_starved = False
        if self._room is not None:
            self._room.forget()

    def close(self) -> None:
        """Take the interface away."""
        self._tap.close()

    def summary(self) -> str:
        """Say what was moved and what was lost."""
        return (
            f"{self.name} ({self._tap.name}): {self.received} frames received and {self.receive_drops} dropped, "
            f"{self.sent} sent and {self.send_drops} dropped"
        )

    # ---- To the Guest ----

    def _take_buffer(self, queue: Virtqueue) -> Chain | None:
        """Return a buffer; without one, have the Guest notify when it gives one (with a room, _tell_room does that)."""
        chain, self._spare = self._spare or queue.pop(), None
        if chain is None and self._room is None and queue.enable_notify():
            queue.disable_notify()
            chain = queue.pop()
        return chain

    def _receive(self, queue: Virtqueue, chain: Chain) -> bool:
        """Move one frame into the buffer; False when there is none. A buffer that was not used stays for the next."""
        if chain.readable:
            # VirtIO 1.3, 5.1.6.3: the receive queue holds buffers for the device to write.
            raise RingError(queue.name, chain.head, "is a buffer for a frame that the device cannot write")
        views = chain.writable
        gathered = None
        if len(views) == 1 and len(views[0]) > HEADER_SIZE:
            room = len(views[0])
            views = [views[0][HEADER_SIZE:], _BEYOND]
        else:
            room = chain.writable_bytes
            views = [*_without_header(views), _BEYOND]
            if len(views) > _PIECES:
                gathered = memoryview(bytearray(_LARGEST_FRAME + 1))
                views = [gathered]
        try:
            size = os.readv(self._fd, views)
        except BlockingIOError:
            self._spare = chain
            return False
        except OSError as error:
            raise self._lost(error) from error
        if HEADER_SIZE + size > room or size > _LARGEST_FRAME:
            self.receive_drops += 1
            self._spare = chain
            return True
        chain.write(_HEADER if gathered is None else _HEADER + gathered[:size])
        queue.push(chain, HEADER_SIZE + size)
        self.received += 1
        return True

    def _tell_room(self) -> None:
        if self._room is not None and self._queues:
            self._room.tell(self._queues[0], spare=self._spare is not None)

    # ---- From the Guest ----

    def _send(self, queue: Virtqueue) -> None:
        queue.disable_notify()
        while True:
            while (chain := queue.pop()) is not None:
                if chain.writable:
                    # VirtIO 1.3, 5.1.6.2: the transmit queue holds buffers for the device to read.
                    raise RingError(queue.name, chain.head, "is a frame to send that the device is to write")
                if self._write(queue, chain):
                    self.sent += 1
                else:
                    self.send_drops += 1
                queue.push(chain, 0)
            if not queue.enable_notify():
                return
            queue.disable_notify()

    def _write(self, queue: Virtqueue, chain: Chain) -> bool:
        """Send one frame; False when it is dropped."""
        views = chain.readable
        first = views[0]
        size = len(first) if len(views) == 1 else chain.readable_bytes
        if size < HEADER_SIZE:
            raise RingError(queue.name, chain.head, f"holds {size} bytes, less than the header of {HEADER_SIZE}")
        asks = first[0] | first[1] if len(first) > 1 else first[0] | views[1][0]
        # Flags and gso_type are 0 where no offload was agreed upon (5.1.6.2.1); what else is there then means nothing.
        if asks or not _SMALLEST_FRAME <= size - HEADER_SIZE <= _LARGEST_FRAME:
            return False
        views = [first[HEADER_SIZE:]] if len(views) == 1 else _without_header(views)
        if len(views) > _PIECES:
            views = [memoryview(b"".join(views))]
        try:
            os.writev(self._fd, views)
        except OSError as error:
            if error.errno not in _NOT_TAKEN:
                raise self._lost(error) from error
            return False
        return True

    def _lost(self, error: OSError) -> LabError:
        interface = f"interface {self._tap.name}"
        if error.errno == errno.EBADFD:
            return LabError(f"{self.name}: {interface} was deleted under the Guest; leave that to the Launcher")
        return LabError(f"{self.name}: {interface} gives and takes no frames: {error.strerror}")


def make_mac(tap: Tap) -> bytes:
    """Return a locally administered address for the Guest: the same for the same --tunnet ADDR, random on a bridge."""
    address = tap.tunnet.address
    if address is not None:
        return b"\x02\x00" + address.ip.packed
    mac = bytearray(os.urandom(_MAC_SIZE))
    mac[0] = mac[0] & 0xFC | 0x02  # locally administered, and no group's
    return bytes(mac)


def _without_header(views: Sequence[memoryview]) -> list[memoryview]:
    """Return what follows the header, in whatever pieces it lies (ANY_LAYOUT); nothing of what is shorter."""
    left = HEADER_SIZE
    for at, view in enumerate(views):
        if len(view) > left:
            return [view[left:], *views[at + 1 :]]
        left -= len(view)
    return []
