"""A disk that does not answer keeps neither the Guest nor the Launcher; and what it answers is what is passed on."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from select import POLLIN, poll

import pytest

from launcher.devices.blockio import BlockIO, Job, Kind, Outcome
from launcher.devices.blockio.thread import ThreadIO
from launcher.devices.blockio.uring import UringIO
from launcher.devices.disk import Disk, open_disk
from shared import uring
from shared.chain import Chain
from tests.support.disks import SECTOR, make_disk
from tests.support.fds import no_new_fds
from tests.support.rescue import PATIENCE_S
from tests.support.stuck import stuck_memory


def test_a_close_gives_a_transfer_up_that_hangs_and_the_next_one_finds_it_done(tmp_path: Path) -> None:
    content = make_disk(tmp_path / "disk")
    with no_new_fds(), stuck_memory() as (memory, wait_until_stuck, let_go):
        disk = open_disk(str(tmp_path / "disk"))
        io = ThreadIO(disk)
        free = bytearray(SECTOR)
        jobs = [
            Job(Kind.READ, at * SECTOR, [view], SECTOR, Chain(at, [], []))
            for at, view in enumerate((memory[:SECTOR], memoryview(free)))
        ]
        io.submit(jobs)  # and comes back
        wait_until_stuck()
        assert io.take() == []
        assert not io.close(patience_s=0.01)
        let_go()
        assert io.close(PATIENCE_S), "what hung has gone on"
        assert memory[:SECTOR] == content[:SECTOR], "it had begun, and was waited for"
        assert free == bytes(SECTOR), "what had not begun by the time of the close was forgotten"
        disk.close()


def test_what_is_done_is_handed_over_while_the_next_one_hangs(tmp_path: Path) -> None:
    content = make_disk(tmp_path / "disk")
    with no_new_fds(), stuck_memory() as (memory, wait_until_stuck, let_go):
        disk = open_disk(str(tmp_path / "disk"))
        io = ThreadIO(disk)
        rung = poll()
        rung.register(io.fd, POLLIN)
        free = bytearray(SECTOR)
        chain = Chain(0, [], [])
        io.submit([Job(Kind.READ, 0, [memoryview(free)], SECTOR, chain)])
        io.submit([Job(Kind.READ, 0, [memory[:SECTOR]], SECTOR, chain)])
        assert rung.poll(PATIENCE_S * 1000)
        assert [is_done for _, is_done in io.take()] == [True]
        assert free == content[:SECTOR]
        wait_until_stuck()
        let_go()
        assert rung.poll(PATIENCE_S * 1000)
        assert [is_done for _, is_done in io.take()] == [True]
        assert io.close()
        disk.close()


@contextmanager
def pipe_as_disk() -> Iterator[tuple[Disk, int]]:
    """A disk that answers when the other end, which comes with it, is written to; and in pieces as they come."""
    if reason := uring.missing():
        pytest.skip(reason)
    reader, writer = os.pipe()
    try:
        yield Disk("pipe", reader, 2 * SECTOR, is_read_only=False, is_regular=False), writer
    finally:
        os.close(reader)
        os.close(writer)


def read_job(view: bytearray) -> Job:
    return Job(Kind.READ, 0, [memoryview(view)], len(view), Chain(0, [], []))


def test_a_close_of_a_ring_gives_up_what_hangs_in_it_and_the_next_one_finds_it_done() -> None:
    with no_new_fds(), pipe_as_disk() as (disk, writer):
        io = UringIO(disk)
        room = bytearray(2 * SECTOR)
        io.submit([read_job(room)])  # and comes back
        assert io.take() == []
        os.write(writer, b"a" * SECTOR)
        assert not io.close(patience_s=0.01), "half of it is missing yet"
        os.write(writer, b"b" * SECTOR)
        assert io.close(PATIENCE_S)
        assert room == b"a" * SECTOR + b"b" * SECTOR


def test_a_cancel_of_a_ring_comes_back_when_nobody_will_touch_a_buffer_any_more() -> None:
    with no_new_fds(), pipe_as_disk() as (disk, writer):
        io = UringIO(disk)
        room = bytearray(SECTOR)
        io.submit([read_job(room)])
        helper = threading.Thread(target=os.write, args=(writer, b"a" * SECTOR))
        helper.start()
        io.cancel()
        assert room == b"a" * SECTOR
        assert io.take() == []
        helper.join()
        assert io.close()


@pytest.mark.parametrize("make", [ThreadIO, UringIO])
def test_a_flush_that_the_file_refuses_has_failed(make: Callable[[Disk], BlockIO]) -> None:
    with no_new_fds(), pipe_as_disk() as (disk, _):
        io = make(disk)
        io.submit([Job(Kind.FLUSH, 0, [], 0, Chain(0, [], []))])
        rung = poll()
        rung.register(io.fd, POLLIN)
        assert rung.poll(PATIENCE_S * 1000)
        assert [is_done for _, is_done in io.take()] == [False]
        assert io.close()


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_write_of_a_thread_is_asked_to_be_durable_when_it_is_to_be(is_durable: bool) -> None:
    # A file of /proc takes bytes, but none durably. This one is given what it holds.
    path = "/proc/self/coredump_filter"
    disk = Disk(path, os.open(path, os.O_RDWR), SECTOR, is_read_only=False, is_regular=False)
    text = bytearray(b"0x" + os.read(disk.fd, 64).strip())
    io = ThreadIO(disk)
    io.submit([Job(Kind.WRITE, 0, [memoryview(text)], len(text), Chain(0, [], []))], is_durable=is_durable)
    rung = poll()
    rung.register(io.fd, POLLIN)
    assert rung.poll(PATIENCE_S * 1000)
    assert [is_done for _, is_done in io.take()] == [not is_durable]
    assert io.close()
    disk.close()


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_write_of_a_ring_is_asked_to_be_durable_when_it_is_to_be(tmp_path: Path, is_durable: bool) -> None:
    if reason := uring.missing():
        pytest.skip(reason)
    make_disk(tmp_path / "disk")
    disk = open_disk(str(tmp_path / "disk"))
    io = UringIO(disk)
    io.submit([Job(Kind.WRITE, 0, [memoryview(bytearray(SECTOR))], SECTOR, Chain(0, [], []))], is_durable=is_durable)
    asked = uring.Sqe.from_buffer_copy(io._ring._sqes)
    assert asked.op_flags == (os.RWF_DSYNC if is_durable else 0)
    assert io.close()
    disk.close()


def test_what_is_done_just_after_the_look_rings_again() -> None:
    with no_new_fds(), pipe_as_disk() as (disk, _):
        io = ThreadIO(disk)
        late = [read_job(bytearray(SECTOR))]

        class Overtaken(deque[Outcome]):
            def __bool__(self) -> bool:
                if late and not len(self):
                    io._hand_over([(late.pop(), True)])  # the thread's part, at the worst moment
                    return False
                return len(self) > 0

        io._done = Overtaken()
        assert io.take() == []
        rung = poll()
        rung.register(io.fd, POLLIN)
        assert rung.poll(0), "what came late would wake nobody"
        assert [is_done for _, is_done in io.take()] == [True]
        assert io.close()
