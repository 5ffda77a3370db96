"""Ethernet frames for the `pong` Guest, right in every field and checksum, or as wrong as a test wants them."""

from __future__ import annotations

import random
from struct import pack

from tests.support.pong import checksum

HOST_MAC, GUEST_MAC = bytes.fromhex("021122334455"), bytes.fromhex("0200c0a84d01")
HOST_ADDR, GUEST_ADDR = bytes([192, 168, 77, 1]), bytes([192, 168, 77, 2])
ICMP, UDP = 1, 17


def arp(operation: int = 1, target: bytes = GUEST_ADDR, to: bytes = b"\xff" * 6) -> bytes:
    """Return who asks who has `target`."""
    packet = pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, HOST_MAC, HOST_ADDR, bytes(6), target)
    return to + HOST_MAC + b"\x08\x06" + packet


def ip(
    protocol: int,
    body: bytes,
    *,
    sender: bytes = HOST_ADDR,
    target: bytes = GUEST_ADDR,
    to: bytes = GUEST_MAC,
    options: bytes = b"",
    fragment: int = 0x4000,
    ttl: int = 64,
    version: int = 4,
) -> bytes:
    """Return an IPv4 packet in its frame."""
    words = 5 + len(options) // 4
    header = pack(
        "!BBHHHBBH4s4s",
        version << 4 | words,
        0,
        words * 4 + len(body),
        0x1234,
        fragment,
        ttl,
        protocol,
        0,
        sender,
        target,
    )
    header += options
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    return to + HOST_MAC + b"\x08\x00" + header + body


def icmp_echo(data: bytes, type_: int = 8, code: int = 0, id_: int = 7, number: int = 1) -> bytes:
    """Return what a ping says."""
    packet = pack("!BBHHH", type_, code, 0, id_, number) + data
    return packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]


def udp(
    data: bytes, from_port: int = 4000, to_port: int = 7, sender: bytes = HOST_ADDR, target: bytes = GUEST_ADDR
) -> bytes:
    """Return a datagram with its checksum."""
    packet = pack("!HHHH", from_port, to_port, 8 + len(data), 0) + data
    pseudo = sender + target + pack("!BBH", 0, UDP, len(packet))
    return packet[:6] + (checksum(pseudo + packet) or 0xFFFF).to_bytes(2, "big") + packet[8:]


def check_answer(frame: bytes) -> None:
    """Assert that every checksum of an answer is right, each summed up anew."""
    header_size = (frame[14] & 15) * 4
    header, body = frame[14 : 14 + header_size], frame[14 + header_size : 14 + int.from_bytes(frame[16:18], "big")]
    assert checksum(header) == 0
    if header[9] == ICMP:
        assert checksum(body) == 0
    else:
        assert checksum(header[12:20] + pack("!BBH", 0, UDP, len(body)) + body) == 0


def mixed_frames(count: int, seed: int) -> list[bytes]:
    """Return frames of which most are answered, some have a byte changed, some are cut short."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        data = rng.randbytes(rng.choice((0, 1, 2, 3, 17, 56, 1000, 1460)))
        frame = rng.choice(
            [
                arp(),
                ip(ICMP, icmp_echo(data, number=rng.randrange(65536)), ttl=rng.randint(1, 255)),
                ip(UDP, udp(data, rng.randint(1, 65535), rng.randint(1, 65535)), ttl=rng.randint(1, 255)),
                ip(UDP, udp(data[:1000]), options=b"\1" * 4 * rng.randint(1, 10)),
            ]
        )
        what = rng.random()
        if what < 0.4:
            at = rng.randrange(min(len(frame), 60))
            frame = frame[:at] + rng.randbytes(1) + frame[at + 1 :]
        elif what < 0.5:
            frame = frame[: rng.randint(14, len(frame))]
        found.append(frame)
    return found


DATA = bytes(range(100))
NOT_ANSWERED = {
    "nothing": b"",
    "half a header": arp()[:13],
    "an ARP request for another": arp(target=HOST_ADDR),
    "an ARP reply": arp(operation=2),
    "an ARP request cut short": arp()[:-1],
    "IPv6": GUEST_MAC + HOST_MAC + b"\x86\xdd" + bytes(60),
    "to another MAC": ip(ICMP, icmp_echo(DATA), to=HOST_MAC),
    "to all": ip(ICMP, icmp_echo(DATA), to=b"\xff" * 6),
    "to another address": ip(ICMP, icmp_echo(DATA), target=HOST_ADDR),
    "from its own address": ip(ICMP, icmp_echo(DATA), sender=GUEST_ADDR),
    "from nobody": ip(UDP, udp(DATA), sender=bytes(4)),
    "from a group": ip(UDP, udp(DATA), sender=bytes([224, 0, 0, 1])),
    "from all": ip(UDP, udp(DATA), sender=b"\xff" * 4),
    "a first fragment": ip(UDP, udp(DATA), fragment=0x2000),
    "a last fragment": ip(UDP, udp(DATA), fragment=3),
    "an ICMP echo reply": ip(ICMP, icmp_echo(DATA, type_=0)),
    "another ICMP code": ip(ICMP, icmp_echo(DATA, code=1)),
    "TCP": ip(6, bytes(20)),
    "version 6": ip(ICMP, icmp_echo(DATA), version=6),
    "a header too short": ip(ICMP, icmp_echo(DATA)).replace(b"\x08\x00\x45", b"\x08\x00\x44"),
    "a header past its end": ip(UDP, udp(b"")).replace(b"\x08\x00\x45", b"\x08\x00\x4f"),
    "shorter than it says": ip(UDP, udp(DATA))[:-1],
    "too short for a datagram": ip(UDP, udp(b"")[:7]),
}
"""Frames for which there is no answer."""
