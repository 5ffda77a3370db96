"""A disk: a virtio-blk (VirtIO 1.3, 5.2) on a file, whose bytes are moved by somebody else while the Guest goes on.

A request is a chain: 16 bytes of header and what is to be written, then room for what is to be read and, in its last
byte, the status (5.2.6). How that is cut into buffers is the driver's choice (2.7.4.1): only the bytes count here.

- *The Guest is not believed.* A request that is not within the disk, or of no whole sectors, is answered with an
  error status before anything touches the file, so the file neither grows nor shrinks. Only one without a byte for the
  status breaks the queue: there is no place to say so.
- *A write is acknowledged when the file has all of it*, so a Launcher that is killed right after loses nothing. A
  power cut is another matter: for that there is FLUSH, which is fdatasync(2). For a driver that did not accept FLUSH
  each write is on the disk before it is acknowledged (5.2.6.2). The legacy BARRIER is not offered: FLUSH does its work.
- *What comes together goes together*: one order to the back-end for all that a notification brought, one break for
  all that is done by then. Chains are popped one by one all the same: the ring's batch forms save 0.1 us of a read's
  20, but with the first batch numpy is loaded, which takes as long as 10,000 reads.
- *The ring is the vCPU's thread's.* Back-ends (blockio/) get views and numbers; what they have done comes back
  through an fd that the Waker watches.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from launcher.devices.blockio import BlockIO, Job, Kind, open_io
from launcher.devices.disk import SECTOR, open_disk
from shared.errors import RingError
from shared.virtio import (
    BLK_FLUSH,
    BLK_ID_BYTES,
    BLK_RO,
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_SEG_MAX,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
    BLOCK,
    RING_FEATURES,
)
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

HEADER = struct.Struct("<I4xQ")
"""A request's header (5.2.6): type, reserved, sector."""

CONFIG = struct.Struct("<QII")
"""The device's configuration (5.2.4), as far as it is offered: sectors, size_max (not offered), seg_max."""

_QUEUE_SIZE = 128


class Block:
    """The block device. The vCPU's thread calls it."""

    type_id = BLOCK
    queue_sizes: tuple[int, ...] = (_QUEUE_SIZE,)

    def __init__(self, text: str, io_name: str, number: int = 0) -> None:
        """Open the disk that `--block` names, with the back-end of that name.

        Raises `UsageError` when the one cannot be opened, or is in use, or the other cannot run here.
        """
        self.name = f"block{number}"
        self._disk = open_disk(text)
        try:
            self._io: BlockIO = open_io(io_name, self._disk)
        except BaseException:
            self._disk.close()
            raise
        self._source = Source(self._io.fd, self.name)
        self._id = Path(self._disk.path).name.encode(errors="surrogateescape")[:BLK_ID_BYTES]
        self.features = RING_FEATURES | 1 << BLK_FLUSH | 1 << BLK_SEG_MAX | self._disk.is_read_only << BLK_RO
        # Header and status may have a descriptor each.
        self.config = CONFIG.pack(self._disk.size // SECTOR, 0, _QUEUE_SIZE - 2)
        self._queue: Virtqueue | None = None
        self._is_durable = False
        self._is_closed = False

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Have the back-end's fd watched, for good: it is readable only when something is done."""
        return (self._source,)

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Take the queue; what was asked for by now is begun."""
        (self._queue,) = queues
        self._is_durable = not self._queue.features >> BLK_FLUSH & 1
        return self.on_notify(0)

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Begin what the Guest asks for; what needs no disk is answered at once."""
        ring = self._queue
        if ring is None:
            return ()
        ring.disable_notify()
        while True:
            jobs: list[Job] = []
            while (chain := ring.pop()) is not None:
                answer = self._take(ring, chain)
                if isinstance(answer, Job):
                    jobs.append(answer)
                else:
                    ring.push(chain, _finish(chain, *answer))
            if jobs:
                self._io.submit(jobs, is_durable=self._is_durable)
            if not ring.enable_notify():
                return ()
            ring.disable_notify()

    def on_ready(self, source: Source) -> bool:
        """Give back what the back-end has done."""
        for job, is_done in self._io.take():
            if self._queue is not None:
                self._queue.push(job.chain, _conclude(job, is_done=is_done))
        return True

    def lines(self) -> Sequence[int]:
        """Ask for the interrupt that the Guest wants to have."""
        return (0,) if self._queue is not None and self._queue.needs_interrupt() else ()

    def reset(self) -> None:
        """Forget the queue, once nobody reads or writes the Guest's buffers any more."""
        self._queue = None
        self._io.cancel()

    def close(self) -> None:
        """End the back-end and close the disk; a transfer that hangs keeps the disk open until the process ends."""
        if not self._is_closed:
            self._is_closed = True
            self._queue = None
            if self._io.close():
                self._disk.close()

    def _take(self, ring: Virtqueue, chain: Chain) -> Job | tuple[int, bytes]:
        """Return what a request asks of the disk, or its answer: a status, and bytes to be read."""
        readable, writable = chain.readable, chain.writable
        if not writable:
            raise RingError(ring.name, chain.head, "is a request without a byte for its status")
        # Most drivers give the header a buffer of its own; whatever is cut otherwise is joined up.
        if not readable or len(readable[0]) != HEADER.size:
            readable = _cut_header(readable)
            if len(readable[0]) < HEADER.size:
                return BLK_S_IOERR, b""
        kind, sector = HEADER.unpack(readable[0])
        sent = readable[1:]
        room = writable[:-1]
        if len(writable[-1]) > 1:
            room.append(writable[-1][:-1])
        if kind == BLK_T_IN and not sent:
            return self._transfer(Kind.READ, sector, room, chain)
        if kind == BLK_T_OUT and not room and not self._disk.is_read_only:
            return self._transfer(Kind.WRITE, sector, sent, chain)
        if kind == BLK_T_FLUSH and not room:
            return Job(Kind.FLUSH, 0, [], 0, chain)
        if kind == BLK_T_GET_ID and room:
            return BLK_S_OK, self._id.ljust(BLK_ID_BYTES, b"\0")
        # 5.2.6.2: IOERR for a write to what is read-only; so for data in the wrong direction. What else there may be
        # in a later VirtIO, it is not here.
        is_known = kind in (BLK_T_IN, BLK_T_OUT, BLK_T_FLUSH, BLK_T_GET_ID)
        return BLK_S_IOERR if is_known else BLK_S_UNSUPP, b""

    def _transfer(self, kind: Kind, sector: int, buffers: list[memoryview], chain: Chain) -> Job | tuple[int, bytes]:
        length = sum(map(len, buffers))
        offset = sector * SECTOR
        # 5.2.6.2; the sector is unsigned here, so a "negative" one lies far behind the end.
        if not length or length % SECTOR or offset + length > self._disk.size:
            return BLK_S_IOERR, b""
        return Job(kind, offset, buffers, length, chain)


def _cut_header(readable: Sequence[memoryview]) -> list[memoryview]:
    """Return a copy of the header, which may be too short, and what comes after it."""
    header, sent = bytearray(), []
    for view in readable:
        missing = HEADER.size - len(header)
        header += view[:missing]
        if missing < len(view):
            sent.append(view[missing:])
    return [memoryview(header), *sent]


def _conclude(job: Job, *, is_done: bool) -> int:
    """Write the status of a job; return how many bytes were written."""
    if not is_done:
        return _finish(job.chain, BLK_S_IOERR)
    return _finish(job.chain, BLK_S_OK, read=job.length if job.kind is Kind.READ else 0)


def _finish(chain: Chain, status: int, data: bytes = b"", read: int = 0) -> int:
    """Write the status, after `data` or where `read` bytes have come already; return how many bytes were written.

    These are counted from the first byte of the room on (2.7.8.2); after a failed read, which left a gap before the
    status, there are none.
    """
    room = chain.writable_bytes - 1
    if data:
        read = chain.write(data[:room])
    chain.writable[-1][-1] = status
    return room + 1 if read == room else read
