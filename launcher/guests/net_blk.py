"""Serves its disk by UDP port 2007: each datagram is a request (net-blk ADDR), until an EOT (0x04); for load on both.

A datagram holds, in the byte order of the disk's own requests (VirtIO 1.3, 5.2.6):

    type      32 bits: 0 reads, 1 writes, 4 flushes, 8 asks for the disk's id
    tag       32 bits, for whoever asks: it comes back
    sector    64 bits
    room      32 bits: how many bytes the answer may bring; 0 for a write
    status    8 bits, which the answer sets: 0 is fine, 1 is not, 2 is unknown
    3 bytes of nothing, and then the data to be written, or what was read when all is fine

No byte is copied: the first 16 are the header that the disk gets, and what is written and read lies in the frame. So
what is asked is judged by the disk alone. Each frame that is under way is a request, and when none is left to receive
into, further ones wait at the host. To everything else the answer is that of `pong`. The twin of i386/net-blk.c.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from launcher.api import Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode
from launcher.guests.answers import datagram_size, find_datagram, resize_datagram, turn_round
from launcher.guests.disk import Disk
from launcher.guests.network import BUFFERS, Network
from launcher.guests.support import kick
from launcher.guests.words import Ear, Words
from shared.virtio import BLK_S_IOERR, BLK_S_OK

PORT = 2007
REQUEST = Struct("<IIQIB3x")
MOST = 2 * 512
"""How many bytes of data go into a datagram."""

_HEADER_SIZE, _STATUS_AT = 16, 20
_DESCRIPTORS = 4  # header, what is to be written, what is read, status: one of them is mostly missing


class _Asked(NamedTuple):
    """A request that is under way."""

    at: int  # where in the frame it begins
    room: int


def run(cpu: Cpu) -> GuestCode:
    """Serve until EOT."""
    network, disk, words = Network(cpu, "net-blk"), Disk(cpu, "net-blk"), Words(cpu, "net-blk")
    yield from network.start()
    yield from disk.start()
    yield from words.start()
    yield from words.say(b"net-blk: %s, %d sectors\n" % (network.text, disk.sectors))
    ear = Ear(words)
    under_way = [_Asked(0, 0)] * BUFFERS
    yield from network.receive(min(BUFFERS, disk.queue.layout.num // _DESCRIPTORS))
    while True:
        for number, frame in network.arrivals():
            if not turn_round(frame, network.mac, network.addr):
                network.give_back(number)
            elif (at := find_datagram(frame, PORT)) is None:
                network.send(number, len(frame))
            elif (size := datagram_size(frame, at)) < REQUEST.size:
                network.give_back(number)
            else:
                asked = under_way[number] = _Asked(at, REQUEST.unpack_from(frame, at)[3])
                if asked.room <= MOST:
                    _ask(network, disk, number, asked, size - REQUEST.size)
                else:
                    _answer(network, number, asked)
        yield from kick(disk.queue)
        while (used := disk.queue.reap()) is not None:
            _answer(network, used[0], under_way[used[0]])
        yield from network.go_on()
        yield from ear.go_on()
        if ear.has_heard_eot:
            yield Shutdown()
        if network.may_sleep():
            yield HALT


def _ask(network: Network, disk: Disk, number: int, asked: _Asked, sent: int) -> None:
    """Offer the disk what a frame asks for, with so many bytes to be written."""
    header = network.addr_of_frame(number) + asked.at
    data, status = header + REQUEST.size, header + _STATUS_AT
    readable, writable = [(header, _HEADER_SIZE)], [(status, 1)]
    if sent:
        readable.append((data, sent))
    if asked.room:
        writable.insert(0, (data, asked.room))
    disk.queue.add(readable, writable, number)


def _answer(network: Network, number: int, asked: _Asked) -> None:
    """Send what came of a request, without bytes when it failed."""
    frame = network.frame(number, asked.at + REQUEST.size)
    if asked.room > MOST:
        frame[asked.at + _STATUS_AT] = BLK_S_IOERR
    came = asked.room if frame[asked.at + _STATUS_AT] == BLK_S_OK else 0
    network.send(number, resize_datagram(frame, asked.at, REQUEST.size + came))
