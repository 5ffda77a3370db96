"""The entropy device against a Guest's half of its ring, and the Guest that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from launcher import engines
from launcher.devices.rng import Rng
from shared.errors import LabError, RingError, UsageError
from shared.memory import GuestMemory
from tests.support.fds import no_new_fds
from tests.support.rings import DATA, Pair
from tests.support.sessions import run_launcher, skip_unless_it_runs

PATTERN = bytes(range(256))


class Desk:
    """A device and a Guest's half of its ring; `is_watched` is what the Loop would know."""

    def __init__(self, memory: GuestMemory, path: str | None = None) -> None:
        self.memory, self.pair, self.device = memory, Pair(memory), Rng(path)
        assert self.device.attach([self.pair.layout]) == ()
        self.is_watched = bool(self.device.start([self.pair.device]))

    def ask(self, *sizes: int) -> None:
        """Ask for so many bytes each."""
        for at, size in enumerate(sizes):
            self.pair.driver.add([], [(DATA + 1024 * at, size)], (DATA + 1024 * at))
        if self.pair.driver.kick_needed():
            self.is_watched = bool(self.device.on_notify(0)) or self.is_watched

    def answers(self) -> list[bytes]:
        """Take what came."""
        found = []
        while (used := self.pair.driver.reap()) is not None:
            addr, written = used
            assert isinstance(addr, int)
            found.append(bytes(self.memory.view(addr, written)))
        return found


@pytest.fixture
def desk(memory: GuestMemory) -> Iterator[Desk]:
    with no_new_fds(), closing(Desk(memory).device):
        yield Desk(memory)


def test_each_request_is_filled_with_bytes_of_its_own(desk: Desk) -> None:
    desk.ask(64, 64, 7)
    first, second, third = desk.answers()
    assert [len(first), len(second), len(third)] == [64, 64, 7]
    assert first != second
    assert desk.device.lines() == (0,)
    assert desk.device.lines() == ()


def test_what_was_asked_for_before_the_start_is_answered_at_the_start(memory: GuestMemory) -> None:
    pair, device = Pair(memory), Rng()
    pair.driver.add([], [(DATA, 16)], 0)
    device.start([pair.device])
    assert pair.driver.reap() == (0, 16)
    device.close()


def test_a_file_is_given_out_byte_for_byte(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "entropy"
    path.write_bytes(PATTERN)
    with no_new_fds():
        desk = Desk(memory, str(path))
        desk.ask(100, 156)
        assert b"".join(desk.answers()) == PATTERN
        desk.device.close()


def test_a_file_that_ends_is_one_sentence(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "entropy"
    path.write_bytes(b"12345")
    desk = Desk(memory, str(path))
    with pytest.raises(LabError, match=r"^rng: '.*/entropy' ended after 5 bytes; give one that does not end$"):
        desk.ask(4, 4, 4)
    assert desk.answers() == [b"1234", b"5"]
    desk.device.close()


def test_a_fifo_is_watched_until_it_has_bytes_and_only_while_something_is_asked_for(
    memory: GuestMemory, tmp_path: Path
) -> None:
    path = tmp_path / "entropy"
    os.mkfifo(path)
    desk = Desk(memory, str(path))
    source = desk.device._source
    assert source is not None
    desk.ask(8, 8, 8)
    assert (desk.is_watched, desk.answers()) == (True, [])
    assert desk.device.on_notify(0) == (), "one request waits already"
    with open(path, "wb", buffering=0) as fifo:
        fifo.write(b"0123456789")
        assert desk.device.on_ready(source), "the third is not answered"
        assert desk.answers() == [b"01234567", b"89"]
        fifo.write(b"abc")
        assert not desk.device.on_ready(source)
        assert desk.answers() == [b"abc"]
    desk.device.close()


def test_a_directory_is_refused_before_the_guest_starts(tmp_path: Path) -> None:
    with no_new_fds(), pytest.raises(UsageError, match=r"^rng: '.*' is a directory; give a file with random bytes$"):
        Rng(str(tmp_path))


@pytest.mark.parametrize("path", ["/nonexistent/entropy", ""])
def test_a_file_that_cannot_be_opened_is_one_sentence(path: str) -> None:
    with no_new_fds(), pytest.raises(UsageError, match=rf"^rng: cannot read '{path}': No such file"):
        Rng(path)


@pytest.mark.parametrize(
    ("readable", "writable"), [([(DATA, 8)], []), ([(DATA, 8)], [(DATA + 64, 8)]), ([], [(DATA, 0)])]
)
def test_a_request_that_cannot_be_written_is_refused(
    desk: Desk, readable: list[tuple[int, int]], writable: list[tuple[int, int]]
) -> None:
    desk.pair.driver.add(readable, writable, 0)
    with pytest.raises(RingError, match=r"request for entropy that the device cannot write|has no length"):
        desk.device.on_notify(0)


def test_after_a_reset_it_waits_for_the_next_driver(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "entropy"
    os.mkfifo(path)
    desk = Desk(memory, str(path))
    desk.ask(8)
    desk.device.reset()
    assert desk.device._source is not None
    assert not desk.device.on_ready(desk.device._source)
    again = Pair(memory)
    assert desk.device.start([again.device]) == ()
    desk.device.close()


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("name", ["process/select", "thread/epoll", "inline/uring", "fork/poll"])
def test_the_guest_says_what_the_file_holds(name: str, engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs(name, engine)
    path = tmp_path / "entropy"
    path.write_bytes(PATTERN)
    done = run_launcher("run", f"--engine={engine}", f"--waker={name}", f"--rng-file={path}", "rng")
    assert (done.returncode, done.stdout) == (0, PATTERN[:32].hex().encode() + b"\n"), done.stderr


@pytest.mark.parametrize("engine", engines.names())
def test_without_the_device_the_guest_says_how_to_get_it(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", "rng")
    assert done.returncode == 1
    assert b"run with --rng" in done.stderr
