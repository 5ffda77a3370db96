"""What Guests answer: ARP, ICMP echo and UDP echo, in IPv4 over Ethernet, by turning a frame round where it lies.

The twin of i386/answers.h. A checksum does not depend on the order of what it sums: it stays right when
two addresses, or two ports, change places, and where one word changes, it changes by as much (RFC 1624). So no packet
is summed up, and one that arrived damaged goes back just as damaged, for its sender to see.
"""

from __future__ import annotations

from struct import Struct

_ETHERNET = Struct("!6s6sH")  # to, from, what
_ARP = Struct("!HHBBH6s4s6s4s")  # hardware, protocol, their lengths, operation; sender, target
_IP = Struct("!BBHHHBBH4s4s")  # version and length, service, total, id, fragment, ttl, protocol, checksum; from, to
_ARP_AT = _IP_AT = _ETHERNET.size
_UDP_SIZE = 8  # an ICMP echo's header is as long

_TYPE_IP, _TYPE_ARP = 0x0800, 0x0806
_ARP_OF_IP = (1, _TYPE_IP, 6, 4)
_REQUEST, _REPLY = 1, 2
_ICMP, _UDP = 1, 17
_ECHO, _ECHO_REPLY = 8, 0
_FRAGMENT = 0x3FFF  # there is more, or this is not the first
_HOSTS = range(1, 224)  # first bytes of addresses that one may answer to: no group's, no broadcast, no nobody's
_TTL = 64


def turn_round(frame: memoryview, mac: bytes, addr: bytes) -> bool:
    """Make of a frame the answer to it; False, and nothing is changed, when there is none for `addr` to give."""
    if len(frame) < _ETHERNET.size:
        return False
    to, sender, kind = _ETHERNET.unpack_from(frame)
    if kind == _TYPE_ARP:
        answered = _answer_arp(frame, mac, addr)
    else:
        answered = kind == _TYPE_IP and to == mac and _answer_ip(frame, addr)
    if answered:
        _ETHERNET.pack_into(frame, 0, sender, mac, kind)
    return answered


def is_ip(frame: memoryview) -> bool:
    """Whether a frame that was turned round is an answer in IPv4."""
    kind: int = _ETHERNET.unpack_from(frame)[2]
    return kind == _TYPE_IP


def find_datagram(frame: memoryview, port: int) -> int | None:
    """Return where a frame that was turned round has the data of a UDP datagram to this port; None for all others."""
    if not is_ip(frame) or frame[_IP_AT + 9] != _UDP:
        return None
    at = _IP_AT + (frame[_IP_AT] & 15) * 4
    return at + _UDP_SIZE if int.from_bytes(frame[at : at + 2], "big") == port else None


def datagram_size(frame: memoryview, at: int) -> int:
    """Return how many bytes of data there are, at most, in the datagram whose data begins at `at`."""
    total = int.from_bytes(frame[_IP_AT + 2 : _IP_AT + 4], "big")
    length = int.from_bytes(frame[at - 4 : at - 2], "big") - _UDP_SIZE
    return min(length, _IP_AT + total - at)


def resize_datagram(frame: memoryview, at: int, size: int) -> int:
    """Have the datagram whose data begins at `at` hold so many bytes, whatever they are; return the frame's length.

    It goes without a checksum of its own, as one may in IPv4.
    """
    before = int.from_bytes(frame[_IP_AT + 2 : _IP_AT + 4], "big")
    total = at - _IP_AT + size
    frame[_IP_AT + 2 : _IP_AT + 4] = total.to_bytes(2, "big")
    _add_to_word(frame, _IP_AT + 10, before - total)
    frame[at - 4 : at] = (_UDP_SIZE + size).to_bytes(2, "big") + bytes(2)
    return _IP_AT + total


def _answer_arp(frame: memoryview, mac: bytes, addr: bytes) -> bool:
    if len(frame) < _ARP_AT + _ARP.size:
        return False
    *what, operation, sender, sender_addr, _, target_addr = _ARP.unpack_from(frame, _ARP_AT)
    if tuple(what) != _ARP_OF_IP or operation != _REQUEST or target_addr != addr:
        return False
    _ARP.pack_into(frame, _ARP_AT, *_ARP_OF_IP, _REPLY, mac, addr, sender, sender_addr)
    return True


def _answer_ip(frame: memoryview, addr: bytes) -> bool:
    if len(frame) < _IP_AT + _IP.size:
        return False
    first, service, total, id_, fragment, ttl, protocol, checksum, sender, target = _IP.unpack_from(frame, _IP_AT)
    header_size = (first & 15) * 4
    at = _IP_AT + header_size
    if first >> 4 != 4 or header_size < _IP.size or fragment & _FRAGMENT:
        return False
    if target != addr or sender == addr or sender[0] not in _HOSTS:
        return False
    if total < header_size + _UDP_SIZE or len(frame) < _IP_AT + total:
        return False
    if protocol == _ICMP:
        if frame[at] != _ECHO or frame[at + 1] != 0:
            return False
        frame[at] = _ECHO_REPLY
        _add_to_word(frame, at + 2, (_ECHO - _ECHO_REPLY) << 8)
    elif protocol == _UDP:
        frame[at : at + 4] = bytes(frame[at + 2 : at + 4]) + bytes(frame[at : at + 2])
    else:
        return False
    _IP.pack_into(frame, _IP_AT, first, service, total, id_, fragment, _TTL, protocol, checksum, addr, sender)
    _add_to_word(frame, _IP_AT + 10, (ttl - _TTL) << 8)
    return True


def _add_to_word(frame: memoryview, at: int, change: int) -> None:
    """Add to a checksum, in ones' complement, what the words under it have lost."""
    total = int.from_bytes(frame[at : at + 2], "big") + change % 0xFFFF
    frame[at : at + 2] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
