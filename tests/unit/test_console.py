"""The console moves every byte once and in order, and puts a terminal back, on real pipes, files and terminals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.devices.console import Console
from shared.driverqueue import DriverQueue
from shared.errors import Interrupted, LabError, RingError
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from tests.support.fds import no_new_fds

INPUT_RING, OUTPUT_RING, INPUT_DATA, OUTPUT_DATA = 0x1000, 0x4000, 0x10000, 0x80000
MEMORY_SIZE = 0x100000
NUM = 64
CTRL_C = b"\x03"


class Desk:
    """A console between two fds and a Guest's halves of its rings; `is_watched` is what the Loop would know.

    With a `page` its Waker is ring-aware: it leaves the input alone without a buffer, and until it is nudged.
    """

    def __init__(
        self,
        memory: GuestMemory,
        input_fd: int,
        output_fd: int,
        stop_fd: int | None = None,
        *,
        event_idx: bool = False,
        page: Page | None = None,
    ) -> None:
        self.memory, self.page = memory, page
        self.layouts = [VringLayout.contiguous(NUM, addr) for addr in (INPUT_RING, OUTPUT_RING)]
        for layout in self.layouts:
            layout.zero(memory)
        self.event_idx = event_idx
        self.console = Console(input_fd, output_fd, stop_fd, Room(memory, page, 3) if page else None)
        sources = self.console.attach(self.layouts)
        self.is_watched = bool(sources)
        self.source = self.console._source
        self._offered = 0
        self.is_starved = False
        self.changes = 0
        """How often the Launcher had to change what is watched."""

    def start(self) -> None:
        """Be the Guest's driver, which is ready now."""
        self.queues = [
            Virtqueue(self.memory, layout, f"console queue {number}", event_idx=self.event_idx)
            for number, layout in enumerate(self.layouts)
        ]
        self.typed, self.said = (
            DriverQueue(self.memory, layout, "guest", event_idx=self.event_idx) for layout in self.layouts
        )
        self.is_watched = bool(self.console.start(self.queues)) or self.is_watched

    def offer(self, *sizes: int) -> None:
        """Give the console buffers to put input into, and notify it when it wants to know."""
        for size in sizes:
            addr = INPUT_DATA + self._offered % NUM * 1024
            self.typed.add([], [(addr, size)], addr)
            self._offered += 1
        if self.typed.kick_needed():
            self.is_starved = False
            if self.console.on_notify(0):
                self.changes += not self.is_watched
                self.is_watched = True

    def look(self) -> bool:
        """Have the console serve its input if it is watched and ready; whether it did."""
        if not self.is_watched or not select.select([self.source.fd], [], [], 0)[0]:
            return False
        if self.source.room is not None:
            assert self.page is not None
            self.is_starved = self.is_starved or not self.source.room.has_news(self.memory, self.page)
            if self.is_starved:
                return False
        self.is_watched = self.console.on_ready(self.source)
        self.changes += not self.is_watched
        return True

    def read(self) -> bytes:
        """Take all input that came."""
        text = b""
        while (used := self.typed.reap()) is not None:
            addr, written = used
            assert isinstance(addr, int)
            text += bytes(self.memory.view(addr, written))
        return text

    def say(self, text: bytes) -> None:
        """Have the console write this out."""
        self.memory.view(OUTPUT_DATA, len(text))[:] = text
        self.said.add([(OUTPUT_DATA, len(text))], [], None)
        if self.said.kick_needed():
            assert self.console.on_notify(1) == ()
        assert self.said.reap() == (None, 0)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(MEMORY_SIZE) as memory:
        yield memory


class Pipes:
    """Two pipes: `keyboard` is written and `screen` read by the test."""

    def __init__(self) -> None:
        self.input_fd, self.keyboard = os.pipe()
        self.screen, self.output_fd = os.pipe()

    def type(self, text: bytes) -> None:
        os.write(self.keyboard, text)

    def end_input(self) -> None:
        os.close(self.keyboard)
        self.keyboard = -1

    def close(self) -> None:
        for fd in (self.input_fd, self.keyboard, self.screen, self.output_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with no_new_fds():
        pipes = Pipes()
        yield pipes
        pipes.close()


@pytest.fixture
def desk(memory: GuestMemory, pipes: Pipes) -> Desk:
    desk = Desk(memory, pipes.input_fd, pipes.output_fd)
    desk.start()
    return desk


# ---- Input ----


def test_what_is_typed_reaches_the_guest_with_an_interrupt(desk: Desk, pipes: Pipes) -> None:
    desk.offer(16)
    pipes.type(b"hello")
    assert desk.look()
    assert desk.is_watched
    assert desk.console.lines() == [0]
    assert desk.console.lines() == []
    assert desk.read() == b"hello"


def test_without_a_buffer_the_input_is_watched_no_longer_until_the_guest_gives_one(desk: Desk, pipes: Pipes) -> None:
    pipes.type(b"early")
    assert desk.look()
    assert not desk.is_watched
    assert not desk.look()
    desk.offer(16)
    assert desk.is_watched
    assert desk.look()
    assert desk.read() == b"early"


def test_a_ring_aware_waker_needs_no_change_of_what_is_watched(memory: GuestMemory, pipes: Pipes) -> None:
    with Page.create() as page:
        desk = Desk(memory, pipes.input_fd, pipes.output_fd, page=page)
        pipes.type(b"early")
        assert not desk.look()
        desk.start()
        assert not desk.look()
        desk.offer(16)
        assert desk.look()
        assert desk.read() == b"early"
        for turn in range(3):
            pipes.type(b"word")
            assert not desk.look(), "no buffer was given"
            desk.offer(16)
            assert not desk.is_starved, f"turn {turn}: the Guest was not asked to notify"
            assert desk.look()
            assert desk.read() == b"word"
        assert desk.changes == 0


def test_a_kick_that_comes_late_leaves_the_next_buffer_announced(memory: GuestMemory, pipes: Pipes) -> None:
    for event_idx in (False, True):
        with Page.create() as page:
            desk = Desk(memory, pipes.input_fd, pipes.output_fd, event_idx=event_idx, page=page)
            desk.start()
            assert not desk.console.on_ready(desk.source)  # another source's break, and no buffer
            desk.console.on_notify(0)  # for a buffer that was taken before the Guest came to kick
            pipes.type(b"x")
            assert not desk.look()
            desk.offer(16)
            assert not desk.is_starved, "the Guest was not asked to notify"
            assert desk.look()
            assert desk.read() == b"x"


def test_a_ring_aware_waker_knows_of_a_buffer_that_was_taken_and_not_written(memory: GuestMemory, pipes: Pipes) -> None:
    os.set_blocking(pipes.input_fd, False)
    with Page.create() as page:
        desk = Desk(memory, pipes.input_fd, pipes.output_fd, page=page)
        desk.start()
        desk.offer(16)
        assert desk.console.on_ready(desk.source)  # somebody else was quicker
        pipes.type(b"x")
        assert desk.look(), "the buffer is still there"
        assert desk.read() == b"x"


def test_while_the_guest_has_buffers_it_need_not_notify(desk: Desk, pipes: Pipes) -> None:
    desk.offer(16, 16)
    assert not desk.typed.kick_needed()
    pipes.type(b"x")
    desk.look()
    desk.typed.add([], [(INPUT_DATA, 16)], INPUT_DATA)
    assert not desk.typed.kick_needed()


def test_input_before_the_guest_is_ready_waits_for_it(memory: GuestMemory, pipes: Pipes) -> None:
    desk = Desk(memory, pipes.input_fd, pipes.output_fd)
    assert desk.is_watched
    pipes.type(b"impatient")
    assert desk.look()
    assert not desk.is_watched
    desk.start()
    assert desk.is_watched
    desk.offer(16)
    desk.look()
    assert desk.read() == b"impatient"


def test_what_does_not_fit_waits_in_the_pipe(desk: Desk, pipes: Pipes) -> None:
    pipes.type(b"abcdefg")
    desk.offer(3, 3)
    while desk.look():
        pass
    assert desk.read() == b"abcdef"
    desk.offer(3)
    desk.look()
    assert desk.read() == b"g"


def test_a_chain_of_several_buffers_is_filled_in_order(desk: Desk, pipes: Pipes) -> None:
    desk.typed.add([], [(INPUT_DATA, 2), (INPUT_DATA + 100, 3)], INPUT_DATA)
    pipes.type(b"abcdefg")
    assert desk.look()
    assert desk.typed.reap() == (INPUT_DATA, 5)
    assert bytes(desk.memory.view(INPUT_DATA, 2)) + bytes(desk.memory.view(INPUT_DATA + 100, 3)) == b"abcde"


@settings(max_examples=60, deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.lists(
        st.one_of(
            st.tuples(st.just("type"), st.binary(min_size=1, max_size=300)),
            st.tuples(st.just("offer"), st.lists(st.integers(1, 64), min_size=1, max_size=5)),
            st.tuples(st.just("look"), st.integers(1, 8)),
        ),
        max_size=60,
    ),
)
def test_no_byte_is_lost_or_reordered_whatever_comes_first(
    event_idx: bool, is_ring_aware: bool, steps: list[tuple[str, object]]
) -> None:
    with GuestMemory.create(MEMORY_SIZE) as memory, Page.create() as page, contextlib.closing(Pipes()) as pipes:
        desk = Desk(memory, pipes.input_fd, pipes.output_fd, event_idx=event_idx, page=page if is_ring_aware else None)
        desk.start()
        typed, came = b"", b""
        for step, what in steps:
            if isinstance(what, bytes):
                pipes.type(what)
                typed += what
            elif isinstance(what, list):
                came += desk.read()
                desk.offer(*what[: desk.typed.free])
            elif isinstance(what, int):
                for _ in range(what):
                    desk.look()
            assert step
        pipes.end_input()
        while not came.endswith(b"\x04") or len(came) <= len(typed):
            assert desk.look() or desk.typed.free, "nothing moves any more"
            came += desk.read()
            desk.offer(64)
        assert came == typed + b"\x04"
        assert not desk.is_watched
        assert desk.changes == 1 or not is_ring_aware  # the one at the end


# ---- The end of the input ----


def test_the_end_of_the_input_is_one_eot(desk: Desk, pipes: Pipes) -> None:
    desk.offer(16, 16, 16)
    pipes.end_input()
    assert desk.look()
    assert not desk.is_watched
    assert desk.console.lines() == [0]
    assert desk.read() == b"\x04"
    desk.offer(16)
    assert not desk.is_watched
    assert desk.read() == b""


def test_the_end_of_the_input_waits_for_a_buffer_too(desk: Desk, pipes: Pipes) -> None:
    pipes.type(b"last words")
    pipes.end_input()
    desk.look()
    assert not desk.is_watched
    desk.offer(16)
    assert desk.look()
    assert desk.read() == b"last words"
    desk.look()
    assert not desk.is_watched
    desk.offer(16)
    assert desk.look()
    assert desk.read() == b"\x04"


@pytest.mark.parametrize("text", [b"", b"from a file"])
def test_a_regular_file_ends_with_one_eot(memory: GuestMemory, pipes: Pipes, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(text)
    with path.open("rb") as file:
        desk = Desk(memory, file.fileno(), pipes.output_fd)
        desk.start()
        desk.offer(4, 4, 4, 4, 4)
        while desk.look():
            pass
        assert desk.read() == text + b"\x04"
        assert not desk.is_watched


@pytest.mark.parametrize("has_buffer_first", [True, False])
def test_an_input_that_was_closed_from_the_start_is_one_eot(
    memory: GuestMemory, pipes: Pipes, has_buffer_first: bool
) -> None:
    os.close(pipes.input_fd)
    closed, pipes.input_fd = pipes.input_fd, -1
    desk = Desk(memory, closed, pipes.output_fd)
    assert not desk.is_watched
    if has_buffer_first:
        desk.typed = DriverQueue(memory, desk.layouts[0], "guest")
        desk.typed.add([], [(INPUT_DATA, 16)], INPUT_DATA)
        desk.queues = [Virtqueue(memory, layout, f"console queue {n}") for n, layout in enumerate(desk.layouts)]
        # The device takes the ring up where it stands: what was offered before is served.
        desk.console.start(desk.queues)
    else:
        desk.start()
        desk.offer(16)
    assert not desk.is_watched
    assert desk.console.lines() == [0]
    assert desk.read() == b"\x04"
    desk.offer(16)
    assert desk.read() == b""


def test_an_input_that_cannot_be_read_is_one_sentence(memory: GuestMemory, pipes: Pipes) -> None:
    folder = os.open("/", os.O_RDONLY)
    try:
        desk = Desk(memory, folder, pipes.output_fd)
        desk.start()
        desk.offer(16)
        with pytest.raises(LabError, match=r"^console: cannot read the input: Is a directory$"):
            desk.console.on_ready(desk.source)
    finally:
        os.close(folder)


def test_a_reader_that_was_quicker_costs_no_buffer_and_no_byte(desk: Desk, pipes: Pipes) -> None:
    os.set_blocking(pipes.input_fd, False)
    desk.offer(16)
    assert desk.console.on_ready(desk.source)  # nothing there: somebody else has read it
    assert desk.read() == b""
    pipes.type(b"mine")
    assert desk.look()
    assert desk.read() == b"mine"


# ---- Output ----


@pytest.mark.parametrize("event_idx", [False, True])
def test_what_the_guest_says_comes_out_in_order(memory: GuestMemory, pipes: Pipes, event_idx: bool) -> None:
    desk = Desk(memory, pipes.input_fd, pipes.output_fd, event_idx=event_idx)
    desk.start()
    for number in range(100):
        desk.say(f"line {number}\n".encode())
    assert os.read(pipes.screen, 65536) == b"".join(f"line {number}\n".encode() for number in range(100))


def test_chains_that_were_offered_together_come_out_in_order(desk: Desk, pipes: Pipes) -> None:
    for number in range(NUM // 2):
        desk.memory.view(OUTPUT_DATA + 16 * number, 2)[:] = f"{number:02}".encode()
        desk.said.add([(OUTPUT_DATA + 16 * number, 1), (OUTPUT_DATA + 16 * number + 1, 1)], [], number)
    desk.console.on_notify(1)
    assert desk.console.lines() == [1]
    assert [desk.said.reap() for _ in range(NUM // 2)] == [(number, 0) for number in range(NUM // 2)]
    assert os.read(pipes.screen, 65536) == b"".join(f"{number:02}".encode() for number in range(NUM // 2))


@pytest.mark.parametrize("is_blocking", [True, False])
def test_output_is_complete_over_a_tiny_pipe_with_a_slow_reader(desk: Desk, pipes: Pipes, is_blocking: bool) -> None:
    fcntl.fcntl(pipes.output_fd, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(pipes.output_fd, is_blocking)
    text = os.urandom(100_000)
    read = bytearray()

    def read_slowly() -> None:
        while len(read) < len(text):
            read.extend(os.read(pipes.screen, 777))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    desk.say(text)
    reader.join()
    assert bytes(read) == text


def test_a_blocked_write_gives_up_when_the_user_wants_out(memory: GuestMemory, pipes: Pipes) -> None:
    stop = os.eventfd(0)
    try:
        desk = Desk(memory, pipes.input_fd, pipes.output_fd, stop)
        desk.start()
        writer = threading.Thread(target=desk.say, args=(bytes(500_000),))
        writer.start()
        while not select.select([pipes.screen], [], [], 0)[0]:  # it has begun
            pass
        os.eventfd_write(stop, 1)
        writer.join()
    finally:
        os.close(stop)


def test_an_output_that_was_closed_by_its_reader_is_one_sentence(desk: Desk, pipes: Pipes) -> None:
    os.close(pipes.screen)
    pipes.screen = -1
    with pytest.raises(LabError, match=r"^console: cannot write the output: Broken pipe$"):
        desk.say(b"is anybody there?")


def test_an_output_that_is_not_open_is_one_sentence(memory: GuestMemory, pipes: Pipes) -> None:
    os.close(pipes.output_fd)
    closed, pipes.output_fd = pipes.output_fd, -1
    desk = Desk(memory, pipes.input_fd, closed)
    desk.start()
    with pytest.raises(LabError, match=r"^console: cannot write the output: Bad file descriptor$"):
        desk.say(b"hello")


def test_an_output_that_is_full_is_one_sentence(memory: GuestMemory, pipes: Pipes) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        desk = Desk(memory, pipes.input_fd, full)
        desk.start()
        with pytest.raises(LabError, match=r"^console: cannot write the output: No space left on device$"):
            desk.say(b"hello")
    finally:
        os.close(full)


# ---- A terminal ----


def until_readable(fd: int) -> None:
    select.select([fd], [], [])


class Terminal:
    """A pseudo-terminal: the console has `fd`, the test types and reads at the other end."""

    def __init__(self) -> None:
        self.master, self.fd = pty.openpty()
        self.before = termios.tcgetattr(self.fd)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with no_new_fds():
        terminal = Terminal()
        yield terminal
        terminal.close()


@pytest.fixture
def raw_desk(memory: GuestMemory, terminal: Terminal) -> Iterator[Desk]:
    desk = Desk(memory, terminal.fd, terminal.fd)
    desk.start()
    desk.offer(*[64] * 16)
    yield desk
    desk.console.close()


def test_a_terminal_is_made_raw_and_put_back(memory: GuestMemory, terminal: Terminal) -> None:
    console = Console(terminal.fd, terminal.fd)
    assert terminal.is_raw()
    console.close()
    assert termios.tcgetattr(terminal.fd) == terminal.before
    console.close()
    assert termios.tcgetattr(terminal.fd) == terminal.before


def test_output_to_a_raw_terminal_still_begins_each_line_at_the_left(raw_desk: Desk, terminal: Terminal) -> None:
    raw_desk.say(b"one\ntwo\n")
    assert os.read(terminal.master, 64) == b"one\r\ntwo\r\n"


def test_every_key_reaches_the_guest_unseen(raw_desk: Desk, terminal: Terminal) -> None:
    # ^D, ^Z, ^\\, ^S, ^Q, ^V, ^U, backspace: whatever a cooked terminal would keep.
    keys = b"a\x04\x1a\x1c\x13\x11\x16\x15\x7f\x03"
    terminal.type(keys)
    raw_desk.look()
    assert raw_desk.read() == keys
    assert not select.select([terminal.master], [], [], 0)[0]


@pytest.mark.parametrize("keys", [[CTRL_C * 3], [CTRL_C, CTRL_C, CTRL_C], [b"x" + CTRL_C + b"y" + CTRL_C * 2]])
def test_three_ctrl_c_within_a_second_let_the_user_out(raw_desk: Desk, terminal: Terminal, keys: list[bytes]) -> None:
    def press_all() -> None:
        for key in keys:
            terminal.type(key)
            raw_desk.look()

    with pytest.raises(Interrupted, match=r"^stopped by three \^C within a second$") as caught:
        press_all()
    assert caught.value.exit_code == 130


def test_three_ctrl_c_let_the_user_out_while_the_output_takes_nothing(
    memory: GuestMemory, terminal: Terminal, pipes: Pipes
) -> None:
    desk = Desk(memory, terminal.fd, pipes.output_fd)
    desk.start()
    desk.offer(64)
    terminal.type(b"a")
    typist = threading.Thread(target=lambda: (until_readable(pipes.screen), terminal.type(CTRL_C * 3)))
    typist.start()
    with pytest.raises(Interrupted, match=r"^stopped by three \^C within a second$"):
        desk.say(bytes(200_000))
    typist.join()
    desk.console.close()


def test_what_is_typed_while_the_output_takes_nothing_reaches_the_guest(
    memory: GuestMemory, terminal: Terminal, pipes: Pipes
) -> None:
    keys = os.urandom(100).hex().encode()
    desk = Desk(memory, terminal.fd, pipes.output_fd)
    desk.start()
    desk.offer(64)
    text, read = bytes(200_000), bytearray()

    def type_and_read() -> None:
        until_readable(pipes.screen)
        terminal.type(keys)
        while len(read) < len(text):
            read.extend(os.read(pipes.screen, 65536))

    reader = threading.Thread(target=type_and_read)
    reader.start()
    desk.say(text)
    reader.join()
    found = desk.read()
    while len(found) < len(keys):
        desk.offer(64)
        desk.look()
        found += desk.read()
    assert found == keys
    desk.console.close()


def test_a_terminal_that_hangs_up_while_the_output_takes_nothing_is_one_eot(memory: GuestMemory, pipes: Pipes) -> None:
    master, fd = pty.openpty()
    try:
        desk = Desk(memory, fd, pipes.output_fd)
        desk.start()
        desk.offer(16, 16)
        text, read = bytes(200_000), bytearray()

        def hang_up_and_read() -> None:
            until_readable(pipes.screen)
            os.close(master)
            while len(read) < len(text):
                read.extend(os.read(pipes.screen, 65536))

        reader = threading.Thread(target=hang_up_and_read)
        reader.start()
        desk.say(text)
        reader.join()
        desk.look()
        assert not desk.is_watched
        assert desk.read() == b"\x04"
        desk.console.close()
    finally:
        os.close(fd)


def test_two_ctrl_c_are_keys_like_any_other(raw_desk: Desk, terminal: Terminal) -> None:
    terminal.type(CTRL_C * 2)
    raw_desk.look()
    assert raw_desk.read() == CTRL_C * 2
    assert raw_desk.is_watched


def test_three_slow_ctrl_c_are_keys_like_any_other(
    raw_desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 10.6, 11.1, 11.3])
    monkeypatch.setattr("launcher.devices.console.monotonic", lambda: next(now))
    for _ in range(3):
        terminal.type(CTRL_C)
        raw_desk.look()
    terminal.type(CTRL_C)
    with pytest.raises(Interrupted):  # the second, third and fourth are within a second
        raw_desk.look()


def test_ctrl_c_from_a_pipe_is_data(desk: Desk, pipes: Pipes) -> None:
    desk.offer(64)
    pipes.type(CTRL_C * 10)
    assert desk.look()
    assert desk.read() == CTRL_C * 10


def test_a_terminal_that_hung_up_is_the_end_of_the_input(memory: GuestMemory, pipes: Pipes) -> None:
    master, fd = pty.openpty()
    try:
        desk = Desk(memory, fd, pipes.output_fd)
        desk.start()
        desk.offer(16, 16)
        os.close(master)
        assert desk.look()
        assert not desk.is_watched
        assert desk.read() == b"\x04"
        desk.console.close()
    finally:
        os.close(fd)


# ---- Malformed, and reset ----


def refuse(desk: Desk) -> str:
    with pytest.raises(RingError) as caught:
        desk.console.on_ready(desk.source)
    return str(caught.value)


def test_an_input_buffer_that_the_device_is_to_read_is_refused(desk: Desk, pipes: Pipes) -> None:
    desk.typed.add([(INPUT_DATA, 16)], [], None)
    pipes.type(b"x")
    assert refuse(desk) == "console queue 0: descriptor 0 is a buffer for input that the device cannot write"


def test_an_input_chain_that_is_half_to_be_read_is_refused(desk: Desk, pipes: Pipes) -> None:
    desk.typed.add([(INPUT_DATA, 16)], [(INPUT_DATA + 16, 16)], None)
    pipes.type(b"x")
    assert refuse(desk) == "console queue 0: descriptor 0 is a buffer for input that the device cannot write"


@pytest.mark.parametrize("readable", [[], [(OUTPUT_DATA, 4)]])
def test_an_output_buffer_that_the_device_is_to_write_is_refused(desk: Desk, readable: list[tuple[int, int]]) -> None:
    desk.said.add(readable, [(OUTPUT_DATA + 16, 16)], None)
    with pytest.raises(RingError, match=r"^console queue 1: descriptor 0 is a buffer of output that the device is to"):
        desk.console.on_notify(1)


@pytest.mark.parametrize("queue", [0, 1])
def test_an_empty_buffer_is_refused(desk: Desk, pipes: Pipes, queue: int) -> None:
    driver = (desk.typed, desk.said)[queue]
    if queue == 0:
        driver.add([], [(INPUT_DATA, 0)], None)
        pipes.type(b"x")
        sentence = refuse(desk)
    else:
        driver.add([(OUTPUT_DATA, 0)], [], None)
        with pytest.raises(RingError) as caught:
            desk.console.on_notify(1)
        sentence = str(caught.value)
    assert sentence == f"console queue {queue}: descriptor 0 has no length"


def test_after_a_reset_the_console_waits_for_the_next_driver(desk: Desk, pipes: Pipes) -> None:
    desk.offer(16)
    desk.console.reset()
    pipes.type(b"between two drivers")
    assert desk.look()
    assert not desk.is_watched
    assert desk.console.lines() == []
    for layout in desk.layouts:
        layout.zero(desk.memory)
    desk.start()
    assert desk.is_watched
    desk.offer(32)
    assert desk.look()
    assert desk.read() == b"between two drivers"
