"""Whatever comes out of the socket is a message or a WireError, and a Waker process ends in one sentence at most."""

from __future__ import annotations

import array
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import WireError
from shared.memory import GuestMemory
from shared.page import Page
from shared.wire import MAX_FDS, Kind, Message, PeerGone, Wire
from tests.support.fds import open_fds

ROOT = Path(__file__).resolve().parents[2]
HEADER = struct.Struct("<4sBBHHI")

numbers = st.lists(st.integers(0, 2**64 - 1), max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
kinds = st.sampled_from(Kind)


@st.composite
def nearly_messages(draw: st.DrawFn) -> bytes:
    """Draw a packet with a header that is right in most fields, so that the checks behind the first are met."""
    body = draw(st.binary(max_size=64))
    header = HEADER.pack(
        draw(st.just(b"lgwk") | st.binary(min_size=4, max_size=4)),
        draw(st.just(1) | st.integers(0, 255)),
        draw(st.integers(0, 10) | st.integers(0, 255)),
        draw(st.integers(0, 3) | st.integers(0, 65535)),
        draw(st.integers(0, len(body) // 8) | st.integers(0, 65535)),
        draw(st.integers(0, len(body)) | st.integers(0, 2**32 - 1)),
    )
    return header + body


packets = st.binary(min_size=1, max_size=100) | nearly_messages()


@contextmanager
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    here, raw = Wire.pair()
    with raw:
        yield here, raw
    here.close()


def throw(raw: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    raw.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


def fd_numbers() -> set[str]:
    return {link.name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@given(packet=packets, fd_count=st.integers(0, 4))
def test_bytes_and_fds_from_nowhere_are_a_message_or_a_wire_error_and_leak_nothing(
    packet: bytes, fd_count: int
) -> None:
    with ends() as (here, raw):
        before = fd_numbers()
        throw(raw, packet, [raw.fileno()] * fd_count)
        with suppress(WireError):
            message = here.receive()
            assert len(message.fds) == fd_count
            message.close_fds()
        assert fd_numbers() == before


@given(kind=kinds, numbers=numbers, text=texts, fd_count=st.integers(0, MAX_FDS))
def test_every_message_arrives_as_it_was_sent(kind: Kind, numbers: list[int], text: str, fd_count: int) -> None:
    with ends() as (here, raw):
        here.send(kind, numbers, text, [raw.fileno()] * fd_count)
        there = Wire(raw)
        message = there.receive()
        assert message[:3] == Message(kind, tuple(numbers), text)[:3]
        assert len(set(message.fds)) == fd_count
        message.close_fds()


# --- a real Waker process


class Stranger:
    """A `python -m waker` of our own, whose standard error we read."""

    def __init__(self) -> None:
        self.wire, theirs = Wire.pair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", "waker"],
                stdin=theirs,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                text=True,
            )
        self.raw = socket.socket(fileno=os.dup(self.wire.fileno()))

    def greet(self, memory: GuestMemory, page: Page) -> None:
        """Say a HELLO with which all is well."""
        bell = os.eventfd(0)
        with memory.canary() as canary:
            self.wire.send(Kind.HELLO, [*canary], "select eventfd", [memory.fileno(), page.fileno(), bell])
            assert self.wire.receive().kind is Kind.READY
        os.close(bell)

    def answers(self) -> list[Message]:
        """Return all that it still says, up to its end."""
        answers = []
        with suppress(PeerGone):
            while True:
                answers.append(self.wire.receive())
        return answers

    def end(self) -> str:
        """Hang up, wait for its end, and return its last words."""
        self.raw.close()
        self.wire.close()
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        self.process.stderr.close()
        assert self.process.wait() in (0, 1)
        return said


@contextmanager
def stranger() -> Iterator[Stranger]:
    stranger = Stranger()
    try:
        yield stranger
    finally:
        stranger.process.kill()
        stranger.process.wait()
        stranger.raw.close()
        stranger.wire.close()


def assert_one_sentence(said: str) -> None:
    assert re.fullmatch(r"(waker: [^\n]+\n)?", said), said


slowly = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Most of what is random is refused by the wire; these get past it.
messages = st.tuples(kinds, numbers, texts, st.integers(0, 3))


@slowly
@given(packet=packets, fd_count=st.integers(0, 3))
def test_a_waker_that_is_greeted_with_garbage_says_so_and_goes(packet: bytes, fd_count: int) -> None:
    with stranger() as waker:
        throw(waker.raw, packet, [waker.raw.fileno()] * fd_count)
        (answer,) = waker.answers()  # it ends by itself
        assert answer.kind is Kind.REFUSED
        assert "\n" not in answer.text
        assert waker.end() == ""


@slowly
@given(message=messages)
def test_a_waker_that_is_greeted_with_nonsense_says_so_and_goes(message: tuple[Kind, list[int], str, int]) -> None:
    kind, some, text, fd_count = message
    with stranger() as waker:
        waker.wire.send(kind, some, text, [waker.raw.fileno()] * fd_count)
        (answer,) = waker.answers()
        assert answer.kind is Kind.REFUSED
        assert waker.end() == ""


Hello = Callable[[Wire, GuestMemory, Page], Message]


def say_hello(text: str, replace: int | None = None) -> Hello:
    """Return what says a HELLO with this text, and with a pipe in place of one of its fds, and hears the answer."""

    def hello(wire: Wire, memory: GuestMemory, page: Page) -> Message:
        bell, (reader, writer) = os.eventfd(0), os.pipe()
        fds = [memory.fileno(), page.fileno(), bell]
        if replace is not None:
            fds[replace] = reader
        with memory.canary() as canary:
            wire.send(Kind.HELLO, [*canary, 2**64 - 1, 2**63], text, fds)
            answer = wire.receive()
        for fd in (bell, reader, writer):
            os.close(fd)
        return answer

    return hello


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (say_hello("telepathy eventfd"), "telepathy"),
        (say_hello("__init__ eventfd"), "__init__"),
        (say_hello("../places/fork eventfd"), "places"),
        (say_hello("select\0 eventfd"), "select"),
        (say_hello(""), "strategy ''"),
        (say_hello("select hammer"), "hammer"),
        (say_hello("select"), "kind ''"),
        (say_hello("select eventfd"), "has 0 numbers and 1 fds, not 2 and 1"),
        (say_hello("select eventfd", replace=0), "guest memory: 0 bytes"),
        (say_hello("select eventfd", replace=1), "control page: 0 bytes"),
    ],
)
def test_a_hello_that_cannot_be_meant_is_refused_by_name(hello: Hello, why: str, memory: GuestMemory) -> None:
    with Page.create() as page, stranger() as waker:
        answer = hello(waker.wire, memory, page)
        assert waker.answers() == []
        assert answer.kind is Kind.REFUSED
        assert why in answer.text
        assert waker.end() == ""


@slowly
@given(packet=packets, fd_count=st.integers(0, 3))
def test_garbage_after_a_good_hello_ends_a_waker_in_one_sentence(
    memory: GuestMemory, packet: bytes, fd_count: int
) -> None:
    with Page.create() as page, stranger() as waker:
        waker.greet(memory, page)
        throw(waker.raw, packet, [waker.raw.fileno()] * fd_count)
        waker.raw.shutdown(socket.SHUT_WR)
        waker.answers()  # it ends by itself
        assert_one_sentence(waker.end())


WATCH_MESSAGES = st.lists(
    st.tuples(st.sampled_from([Kind.WATCH, Kind.UNWATCH, Kind.RELEASE, Kind.NUDGE]), numbers, texts, st.integers(0, 3)),
    max_size=6,
)  # fmt: skip


@slowly
@given(messages=WATCH_MESSAGES)
def test_messages_that_make_no_sense_end_a_waker_in_one_sentence(
    memory: GuestMemory, messages: list[tuple[Kind, list[int], str, int]]
) -> None:
    with Page.create() as page, stranger() as waker:
        waker.greet(memory, page)
        with suppress(PeerGone):
            for kind, some, text, fd_count in messages:
                waker.wire.send(kind, some, text, [waker.raw.fileno()] * fd_count)
        with suppress(OSError):
            waker.raw.shutdown(socket.SHUT_WR)
        waker.answers()
        assert_one_sentence(waker.end())


@st.composite
def watches(draw: st.DrawFn) -> tuple[list[int], str, int]:
    """Draw a WATCH that is well-formed, of sources that need not make sense."""
    count = draw(st.integers(1, 4))
    rows = [draw(st.integers(0, 3))]
    for _ in range(count):
        rows.append(draw(st.integers(0, 3)))
        for _ in ("ring", "room"):
            rows.append(draw(st.just(2**64 - 1) | st.integers(0, 0x20010) | st.integers(0, 2**64 - 1)))
            rows.append(draw(st.just(0) | st.integers(0, 70) | st.integers(0, 2**64 - 1)))
    return rows, "\0".join("abcd"[:count]), count


@slowly
@given(asked=st.lists(watches(), min_size=1, max_size=4))
def test_sources_that_make_no_sense_are_refused_and_the_waker_lives(
    memory: GuestMemory, asked: list[tuple[list[int], str, int]]
) -> None:
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    with Page.create() as page, stranger() as waker:
        waker.greet(memory, page)
        for rows, names, count in asked:
            waker.wire.send(Kind.WATCH, rows, names, [bell] * count)
            answer = waker.wire.receive()
            assert answer.kind in (Kind.DONE, Kind.REFUSED)
            assert answer.numbers == (rows[0],)
        assert waker.process.poll() is None
        assert waker.end() == ""
    os.close(bell)


def test_the_fuzzer_itself_leaks_nothing() -> None:
    before = open_fds()
    with stranger() as waker:
        waker.end()
    assert open_fds() == before
