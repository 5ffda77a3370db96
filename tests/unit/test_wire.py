"""A message arrives as it was sent, fds and all; anything else is refused by name and leaks no fd."""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from shared.errors import WireError
from shared.wire import MAX_FDS, MAX_PACKET, VERSION, Kind, Message, PeerGone, Wire
from tests.support.blocked import once_blocked
from tests.support.fds import no_new_fds, open_fds

HEADER = struct.Struct("<4sBBHHI")


class Ends:
    """Both ends: `here` and `there` speak, `raw` is what `there` speaks through."""

    def __init__(self) -> None:
        self.here, self.raw = Wire.pair()
        self.there = Wire(self.raw)

    def throw(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes that nobody has checked."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.raw.sendmsg([packet], rights)

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Give three files to pass along."""
    fds = [os.eventfd(7), *os.pipe()]
    yield fds
    for fd in fds:
        os.close(fd)


def packet(
    *, magic: bytes = b"lgwk", version: int = VERSION, kind: int = Kind.DONE, fds: int = 0,
    numbers: Sequence[int] = (), number_count: int | None = None, text: bytes = b"", text_length: int | None = None,
) -> bytes:  # fmt: skip
    """Return a packet that is right but for what is given."""
    header = HEADER.pack(
        magic,
        version,
        kind,
        fds,
        len(numbers) if number_count is None else number_count,
        len(text) if text_length is None else text_length,
    )
    return header + struct.pack(f"<{len(numbers)}Q", *numbers) + text


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("numbers", [(), (0,), (1, 2**64 - 1, 2**63)])
@pytest.mark.parametrize("text", ["", "select eventfd", "nul \0 and ünïcödé 🔔"])
def test_a_message_arrives_as_it_was_sent(ends: Ends, kind: Kind, numbers: tuple[int, ...], text: str) -> None:
    ends.here.send(kind, numbers, text)
    assert ends.there.receive() == Message(kind, numbers, text)


def test_messages_arrive_one_by_one_and_in_order(ends: Ends) -> None:
    for number in range(20):
        ends.here.send(Kind.RELEASE, [number], "x" * number)
    assert [ends.there.receive() for _ in range(20)] == [
        Message(Kind.RELEASE, (number,), "x" * number) for number in range(20)
    ]


def test_a_raw_packet_is_what_the_format_says(ends: Ends) -> None:
    ends.throw(packet(kind=Kind.FILL, numbers=[5], text=b"hi"))
    assert ends.here.receive() == Message(Kind.FILL, (5,), "hi")
    ends.here.send(Kind.FILL, [5], "hi")
    assert ends.raw.recv(99) == packet(kind=Kind.FILL, numbers=[5], text=b"hi")


def test_fds_arrive_in_order_as_copies_that_belong_to_the_receiver(ends: Ends, files: list[int]) -> None:
    with no_new_fds():
        ends.here.send(Kind.WATCH, [1], "a\0b\0c", files)
        message = ends.there.receive()
        assert len(set(message.fds) | set(files)) == 6
        assert os.eventfd_read(message.fds[0]) == 7
        os.write(files[2], b"through the copy")
        assert os.read(message.fds[1], 99) == b"through the copy"
        message.close_fds()


def test_passed_fds_are_not_inherited_by_children(ends: Ends, files: list[int]) -> None:
    for fd in files:
        os.set_inheritable(fd, True)
    ends.here.send(Kind.WATCH, fds=files)
    message = ends.there.receive()
    assert [os.get_inheritable(fd) for fd in message.fds] == [False] * 3
    message.close_fds()


def test_the_sockets_are_not_inherited_by_children(ends: Ends) -> None:
    assert not os.get_inheritable(ends.here.fileno())
    assert not os.get_inheritable(ends.there.fileno())


def test_the_senders_fds_stay_its_own(ends: Ends, files: list[int]) -> None:
    ends.here.send(Kind.WATCH, fds=files)
    ends.there.receive().close_fds()
    for fd in files:
        os.fstat(fd)


def test_as_many_fds_as_one_message_takes_arrive(ends: Ends, files: list[int]) -> None:
    with no_new_fds():
        ends.here.send(Kind.WATCH, range(3 * MAX_FDS), fds=files[:1] * MAX_FDS)
        message = ends.there.receive()
        assert len(message.fds) == MAX_FDS == 253
        message.close_fds()


def test_one_fd_more_is_refused_before_it_is_sent(ends: Ends, files: list[int]) -> None:
    with pytest.raises(
        WireError, match=r"^wire: WATCH with .* and 254 fds is more than a packet takes .*send several$"
    ):
        ends.here.send(Kind.WATCH, fds=files[:1] * (MAX_FDS + 1))
    ends.here.send(Kind.DONE)
    assert ends.there.receive().kind is Kind.DONE


LARGEST = (MAX_PACKET - HEADER.size) // 8


def test_the_largest_packet_arrives(ends: Ends) -> None:
    rest = MAX_PACKET - HEADER.size - 8 * LARGEST
    ends.here.send(Kind.UNWATCH, range(LARGEST), "x" * rest)
    assert ends.there.receive() == Message(Kind.UNWATCH, tuple(range(LARGEST)), "x" * rest)


@pytest.mark.parametrize(
    ("numbers", "text"), [(LARGEST + 1, ""), (LARGEST, "x" * 8), (0, "x" * MAX_PACKET), (70_000, ""), (0, "ü" * 40_000)]
)
def test_a_larger_one_is_refused_before_it_is_sent(ends: Ends, numbers: int, text: str) -> None:
    with pytest.raises(WireError, match=r"^wire: FILL with \d+ bytes and 0 fds is more than a packet takes"):
        ends.here.send(Kind.FILL, range(numbers), text)
    ends.here.send(Kind.DONE)
    assert ends.there.receive().kind is Kind.DONE


BAD = {
    "no header": (b"lgwk", "short message, 4 bytes are not even a header (14)"),
    "one byte": (b"!", "short message, 1 bytes are not even a header (14)"),
    "another magic": (packet(magic=b"HTTP"), "bad message, it begins with b'HTTP' instead of b'lgwk'"),
    "another version": (packet(version=VERSION + 1), "message of version 2, but this side speaks 1"),
    "version 0": (packet(version=0), "message of version 0, but this side speaks 1"),
    "unknown kind": (packet(kind=99), "message of unknown kind 99"),
    "kind 0": (packet(kind=0), "message of unknown kind 0"),
    "more numbers said than sent": (packet(numbers=[1], number_count=2), "short message, 22 bytes where its header"),
    "fewer numbers said than sent": (packet(numbers=[1], number_count=0), "oversized message, 22 bytes where its"),
    "more text said than sent": (packet(text=b"hi", text_length=3), "short message, 16 bytes where its header says 17"),
    "fewer text said than sent": (packet(text=b"hi", text_length=1), "oversized message, 16 bytes where its header"),
    "4 GiB of text said": (packet(text_length=2**32 - 1), "short message, 14 bytes where its header says 4294967309"),
    "text that is not UTF-8": (packet(text=b"\xff\xfe"), "bad message, its text is not UTF-8"),
    "too large": (packet(text=b"x" * MAX_PACKET), f"oversized message, more than {MAX_PACKET} bytes"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("fds", [0, 3])
def test_what_is_no_message_is_refused_by_name_and_its_fds_are_closed(
    ends: Ends, files: list[int], bad: str, fds: int
) -> None:
    data, why = BAD[bad]
    if len(data) >= HEADER.size:
        data = data[:6] + struct.pack("<H", fds) + data[8:]
    with no_new_fds():
        ends.throw(data, files[:fds])
        with pytest.raises(WireError) as refusal:
            ends.here.receive()
        assert not isinstance(refusal.value, PeerGone)
        assert str(refusal.value).startswith(f"wire: {why}")
        assert "\n" not in str(refusal.value)
    ends.there.send(Kind.DONE)  # one bad packet does not spoil the next
    assert ends.here.receive().kind is Kind.DONE


@pytest.mark.parametrize(("said", "sent"), [(0, 1), (1, 0), (2, 3), (3, 2), (65535, 1)])
def test_another_number_of_fds_than_the_header_says_is_refused(
    ends: Ends, files: list[int], said: int, sent: int
) -> None:
    with no_new_fds():
        ends.throw(packet(fds=said), files[:sent])
        with pytest.raises(WireError, match=f"^wire: bad message, {sent} fds where its header says {said}$"):
            ends.here.receive()


def test_an_empty_packet_that_carries_fds_is_refused_and_they_are_closed(ends: Ends, files: list[int]) -> None:
    with no_new_fds():
        ends.throw(b"", files)
        with pytest.raises(WireError, match=r"^wire: short message, 0 bytes"):
            ends.here.receive()


@contextmanager
def room_for(fds: int) -> Iterator[None]:
    """Have RLIMIT_NOFILE leave room for so many more open files."""
    holes, top = [], max(int(fd) for fd in open_fds())
    while not holes or holes[-1] < top:  # number top + 1 is the first beyond
        holes.append(os.eventfd(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (holes[-1] + 1 + fds, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_fds_that_find_no_room_make_the_message_refused_and_the_others_are_closed(
    ends: Ends, files: list[int], room: int
) -> None:
    with no_new_fds():
        with room_for(room):
            ends.here.send(Kind.WATCH, fds=files)
            with pytest.raises(WireError, match=r"^wire: bad message, fds were lost .*RLIMIT_NOFILE") as refusal:
                ends.there.receive()
        assert f"({room} came)" in str(refusal.value)


def test_fds_that_just_fit_arrive(ends: Ends, files: list[int]) -> None:
    with room_for(3):
        ends.here.send(Kind.WATCH, fds=files)
        message = ends.there.receive()
        assert len(message.fds) == 3
        message.close_fds()


def test_the_end_of_file_is_the_peer_going(ends: Ends) -> None:
    ends.there.close()
    with pytest.raises(PeerGone, match=r"^wire: the other side closed the socket$"):
        ends.here.receive()


def test_what_was_sent_before_the_end_still_arrives(ends: Ends) -> None:
    ends.there.send(Kind.REFUSED, [3], "why")
    ends.there.close()
    assert ends.here.receive() == Message(Kind.REFUSED, (3,), "why")
    with pytest.raises(PeerGone):
        ends.here.receive()


def test_a_peer_that_dies_with_messages_unread_is_gone(ends: Ends) -> None:
    ends.here.send(Kind.DONE)
    ends.there.close()
    with pytest.raises(PeerGone):
        ends.here.receive()


def test_sending_to_one_who_is_gone_says_so_and_kills_nobody(ends: Ends, files: list[int]) -> None:
    ends.there.close()
    for fds in ([], files):
        with pytest.raises(PeerGone, match=r"^wire: the other side is gone \("):
            ends.here.send(Kind.WATCH, fds=fds)


def test_messages_that_nobody_received_leak_no_fd(files: list[int]) -> None:
    with no_new_fds():
        ends = Ends()
        ends.here.send(Kind.WATCH, fds=files)
        ends.close()


def test_a_receive_sleeps_until_a_message_comes(ends: Ends) -> None:
    with once_blocked(lambda: ends.there.send(Kind.READY)):
        assert ends.here.receive().kind is Kind.READY


def test_a_receive_that_sleeps_ends_with_the_peer(ends: Ends) -> None:
    with once_blocked(ends.raw.close), pytest.raises(PeerGone):
        ends.here.receive()


def test_a_socket_that_was_inherited_can_be_taken_over(ends: Ends) -> None:
    fd = ends.raw.detach()
    with no_new_fds():
        taken = Wire.on_fd(fd)
        assert taken.fileno() == fd
        taken.send(Kind.READY)
        assert ends.here.receive().kind is Kind.READY
    taken.close()


def test_closing_fds_that_were_not_taken_is_done_once() -> None:
    with no_new_fds():
        message = Message(Kind.WATCH, fds=tuple(os.pipe()))
        message.close_fds()
        message.close_fds()  # their numbers are nobody's now
