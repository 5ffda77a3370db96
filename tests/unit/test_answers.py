"""What `pong` answers is right in every checksum, and what it has no answer for it leaves as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.guests.answers import datagram_size, find_datagram, is_ip, resize_datagram, turn_round
from tests.support.frames import (
    DATA,
    GUEST_ADDR,
    GUEST_MAC,
    HOST_ADDR,
    HOST_MAC,
    ICMP,
    NOT_ANSWERED,
    UDP,
    arp,
    check_answer,
    icmp_echo,
    ip,
    mixed_frames,
    udp,
)
from tests.support.pong import checksum


def answer(frame: bytes) -> bytes | None:
    """Return the answer, or None when there is none and the frame is as it was."""
    turned = bytearray(frame)
    if turn_round(memoryview(turned), GUEST_MAC, GUEST_ADDR):
        return bytes(turned)
    assert turned == frame
    return None


def test_who_asks_for_its_address_is_told_the_mac() -> None:
    told = answer(arp())
    assert told == HOST_MAC + GUEST_MAC + b"\x08\x06" + bytes.fromhex("0001080006040002") + (
        GUEST_MAC + GUEST_ADDR + HOST_MAC + HOST_ADDR
    )
    assert answer(arp(to=GUEST_MAC)) == told
    assert answer(arp() + bytes(18)) == told + bytes(18), "padding, as a real Ethernet has it"


def test_a_ping_is_answered_with_the_same_bytes() -> None:
    assert answer(ip(ICMP, icmp_echo(DATA))) == ip(
        ICMP, icmp_echo(DATA, type_=0), sender=GUEST_ADDR, target=HOST_ADDR, to=HOST_MAC
    ).replace(HOST_MAC + HOST_MAC, HOST_MAC + GUEST_MAC)


def test_a_datagram_comes_back_from_the_port_that_it_went_to() -> None:
    assert answer(ip(UDP, udp(DATA))) == ip(
        UDP, udp(DATA, 7, 4000, GUEST_ADDR, HOST_ADDR), sender=GUEST_ADDR, target=HOST_ADDR, to=HOST_MAC
    ).replace(HOST_MAC + HOST_MAC, HOST_MAC + GUEST_MAC)


def test_a_datagram_without_a_checksum_comes_back_without_one() -> None:
    body = udp(DATA)[:6] + b"\0\0" + DATA
    answered = answer(ip(UDP, body))
    assert answered is not None
    assert answered[40:42] == b"\0\0"
    assert answered[42:] == DATA


@given(
    data=st.binary(max_size=200) | st.just(bytes(64)) | st.just(b"\xff" * 64),
    ttl=st.integers(0, 255),
    id_=st.integers(0, 65535),
    number=st.integers(0, 65535),
    options=st.integers(0, 10).map(lambda words: b"\1" * 4 * words),
    protocol=st.sampled_from([ICMP, UDP]),
)
def test_every_checksum_of_an_answer_is_right(
    data: bytes, ttl: int, id_: int, number: int, options: bytes, protocol: int
) -> None:
    body = icmp_echo(data, id_=id_, number=number) if protocol == ICMP else udp(data, id_, number)
    answered = answer(ip(protocol, body, ttl=ttl, options=options))
    assert answered is not None
    check_answer(answered)
    assert answered[22] == 64
    assert answered.endswith(data)


@pytest.mark.parametrize("frame", NOT_ANSWERED.values(), ids=NOT_ANSWERED)
def test_what_has_no_answer_is_left_as_it_was(frame: bytes) -> None:
    assert answer(frame) is None


@given(st.binary(max_size=120))
def test_whatever_comes_the_guest_lives(frame: bytes) -> None:
    answer(frame)


def test_of_frames_with_a_wrong_byte_some_are_answered_and_some_are_not() -> None:
    answers = [answer(frame) for frame in mixed_frames(500, seed=1)]
    assert 100 < sum(found is None for found in answers) < 300


@given(
    st.binary(max_size=1400), st.integers(0, 1400), st.sampled_from([b"", bytes(4), bytes(40)]), st.integers(0, 65535)
)
def test_a_datagram_that_is_resized_is_right_in_both_headers(
    data: bytes, size: int, options: bytes, service_port: int
) -> None:
    frame = bytearray(ip(UDP, udp(data, to_port=service_port), options=options) + bytes(1500))
    assert turn_round(memoryview(frame), GUEST_MAC, GUEST_ADDR)
    at = find_datagram(memoryview(frame), service_port)
    assert at is not None
    assert find_datagram(memoryview(frame), service_port ^ 1) is None
    assert datagram_size(memoryview(frame), at) == len(data)
    kept = bytes(frame[at : at + size])
    length = resize_datagram(memoryview(frame), at, size)
    assert checksum(bytes(frame[14 : at - 8])) == 0
    assert frame[at - 4 : at] == (8 + size).to_bytes(2, "big") + bytes(2), "its length, and no checksum of its own"
    assert (length, bytes(frame[at:length])) == (at + size, kept)
    assert datagram_size(memoryview(frame), at) == size


def test_what_is_no_datagram_is_not_taken_for_one() -> None:
    for frame in (arp(), ip(ICMP, icmp_echo(DATA))):
        turned = bytearray(frame)
        assert turn_round(memoryview(turned), GUEST_MAC, GUEST_ADDR)
        assert find_datagram(memoryview(turned), 7) is None
        assert is_ip(memoryview(turned)) == (frame != arp())


def test_a_datagram_that_says_more_or_less_than_there_is_has_no_more_than_there_is() -> None:
    for said, found in ((0, -8), (7, -1), (8, 0), (8 + len(DATA) - 1, len(DATA) - 1), (65535, len(DATA))):
        packet = bytearray(udp(DATA))
        packet[4:6] = said.to_bytes(2, "big")
        turned = bytearray(ip(UDP, bytes(packet)))
        assert turn_round(memoryview(turned), GUEST_MAC, GUEST_ADDR)
        at = find_datagram(memoryview(turned), 7)
        assert at is not None
        assert datagram_size(memoryview(turned), at) == found
