"""The block device against a driver's half of its ring, on real files, with both of its back-ends."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest

from launcher.devices.block import Block
from launcher.devices.blockio import NAMES, Job, beyond
from shared import uring
from shared.errors import RingError, UsageError
from shared.memory import GuestMemory
from shared.virtio import (
    BLK_FLUSH,
    BLK_RO,
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
)
from shared.virtqueue import Virtqueue
from tests.support.disks import SECTOR, UNTOUCHED, Driver, make_disk
from tests.support.fds import no_new_fds
from tests.support.rescue import PATIENCE_S

SECTORS = 16


@pytest.fixture(params=NAMES)
def io_name(request: pytest.FixtureRequest) -> str:
    if request.param == "uring" and (reason := uring.missing()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_disk(tmp_path / "disk.img", SECTORS)
    return tmp_path / "disk.img"


@pytest.fixture
def open_driver(memory: GuestMemory, path: Path, io_name: str) -> Iterator[Callable[..., Driver]]:
    opened: list[Driver] = []

    def make(prefix: str = "", **more: int) -> Driver:
        opened.append(Driver(memory, f"{prefix}{path}", io_name, **more))
        return opened[-1]

    with no_new_fds():
        yield make
        for driver in opened:
            driver.device.close()


def is_ready(driver: Driver) -> bool:
    """Wait until something is done."""
    poll = select.poll()
    poll.register(driver.source.fd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def test_what_is_read_is_what_the_file_holds(open_driver: Callable[..., Driver], path: Path) -> None:
    driver = open_driver()
    assert driver.read(0) == (BLK_S_OK, path.read_bytes()[:SECTOR])
    assert driver.read(3, 5) == (BLK_S_OK, path.read_bytes()[3 * SECTOR : 8 * SECTOR])
    assert driver.read(SECTORS - 1) == (BLK_S_OK, path.read_bytes()[-SECTOR:])


def test_what_is_written_is_in_the_file_when_it_is_acknowledged_and_nothing_else_changed(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    before = path.read_bytes()
    driver = open_driver()
    assert driver.write(5, b"w" * 2 * SECTOR) == BLK_S_OK
    assert path.read_bytes() == before[: 5 * SECTOR] + b"w" * 2 * SECTOR + before[7 * SECTOR :]


def test_many_at_once_are_all_answered(open_driver: Callable[..., Driver], path: Path) -> None:
    driver = open_driver()
    for sector in range(10):
        driver.ask(BLK_T_IN, sector, room=SECTOR)
    content = path.read_bytes()
    expected = [(BLK_S_OK, content[n * SECTOR :][:SECTOR], SECTOR + 1) for n in range(10)]
    assert driver.answers() == expected
    assert driver.device.lines() == (0,)
    assert driver.device.lines() == ()


@pytest.mark.parametrize("cuts", [[16], [1], [8, 16], [4, 15, 17, 100], [16 + 511], list(range(1, 17))])
def test_a_request_may_be_cut_into_buffers_anywhere(
    open_driver: Callable[..., Driver], path: Path, cuts: list[int]
) -> None:
    driver = open_driver()
    before = path.read_bytes()
    driver.ask(BLK_T_OUT, 2, b"z" * SECTOR, cuts=cuts)
    driver.ask(BLK_T_IN, 7, room=SECTOR, cuts=cuts, room_cuts=[100, 200])
    assert driver.answers() == [(BLK_S_OK, b"", 1), (BLK_S_OK, before[7 * SECTOR : 8 * SECTOR], SECTOR + 1)]
    assert path.read_bytes()[2 * SECTOR : 3 * SECTOR] == b"z" * SECTOR


def test_the_status_is_the_last_byte_even_in_a_buffer_with_the_data(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    driver = open_driver()
    driver.ask(BLK_T_IN, 1, room=SECTOR, room_cuts=[SECTOR + 1])
    assert driver.answers() == [(BLK_S_OK, path.read_bytes()[SECTOR : 2 * SECTOR], SECTOR + 1)]


def test_flush_is_answered_and_the_id_is_the_files_name(open_driver: Callable[..., Driver]) -> None:
    driver = open_driver()
    driver.ask(BLK_T_FLUSH)
    driver.ask(BLK_T_GET_ID, room=20)
    driver.ask(BLK_T_GET_ID, room=3)
    driver.ask(BLK_T_GET_ID, room=22)
    name = b"disk.img".ljust(20, b"\0")
    assert driver.answers() == [
        (BLK_S_OK, b"", 1),
        (BLK_S_OK, name, 21),
        (BLK_S_OK, b"dis", 4),
        (BLK_S_OK, name + bytes([UNTOUCHED]) * 2, 20),
    ]


@pytest.mark.parametrize(
    ("sector", "length"),
    [
        (SECTORS, SECTOR),
        (SECTORS - 1, 2 * SECTOR),
        (-1, SECTOR),
        (1 << 63, SECTOR),
        ((1 << 64) // SECTOR, SECTOR),
        (0, (SECTORS + 1) * SECTOR),
        (0, 1),
        (0, SECTOR - 1),
        (0, SECTOR + 1),
        (0, 0),
        (SECTORS, 0),
    ],
)
def test_what_is_not_within_the_disk_is_an_error_and_touches_nothing(
    open_driver: Callable[..., Driver], path: Path, sector: int, length: int
) -> None:
    before = path.read_bytes()
    driver = open_driver()
    driver.ask(BLK_T_IN, sector, room=length)
    driver.ask(BLK_T_OUT, sector, b"!" * length)
    # After a failed read nothing counts as written; with no room but the status' byte, that does.
    read, written = driver.answers()
    assert read == (BLK_S_IOERR, bytes([UNTOUCHED]) * length, 0 if length else 1)
    assert written == (BLK_S_IOERR, b"", 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", [2, 3, 5, 11, 13, 0x80000000, 0x80000001, 0xFFFFFFFF])
def test_an_unknown_type_is_said_to_be_so(open_driver: Callable[..., Driver], path: Path, kind: int) -> None:
    before = path.read_bytes()
    driver = open_driver()
    driver.ask(kind, 0, b"x" * SECTOR)
    driver.ask(kind, 0, room=SECTOR)
    assert [status for status, _, _ in driver.answers()] == [BLK_S_UNSUPP] * 2
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("header", "room"),
    [
        (b"\1", 0),
        (b"\1" + bytes(14), 0),
        (pack("<IIQ", BLK_T_IN, 0, 0) + b"more", SECTOR),
        (pack("<IIQ", BLK_T_OUT, 0, 0) + b"x" * SECTOR, SECTOR),
        (pack("<IIQ", BLK_T_FLUSH, 0, 0), SECTOR),
        (pack("<IIQ", BLK_T_GET_ID, 0, 0), 0),
    ],
)
def test_a_short_header_and_data_in_the_wrong_direction_are_errors(
    open_driver: Callable[..., Driver], path: Path, header: bytes, room: int
) -> None:
    before = path.read_bytes()
    driver = open_driver()
    driver.ask(0, header=header, room=room)
    assert [status for status, _, _ in driver.answers()] == [BLK_S_IOERR]
    assert path.read_bytes() == before


def test_a_request_that_has_no_header_is_an_error(open_driver: Callable[..., Driver]) -> None:
    driver = open_driver()
    driver.pair.driver.add([], [(0x8000, 1)], 0x8000)
    driver.kick()
    assert driver.memory.view(0x8000, 1)[0] == BLK_S_IOERR


def test_a_request_without_a_byte_for_the_status_breaks_the_queue_and_touches_nothing(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    before = path.read_bytes()
    driver = open_driver()
    driver.memory.view(0x8000, 16)[:] = pack("<IIQ", BLK_T_OUT, 0, 0)
    driver.pair.driver.add([(0x8000, 16), (0x8010, SECTOR)], [], 0)
    with pytest.raises(RingError, match=r"^test: descriptor 0 is a request without a byte for its status$"):
        driver.kick()
    assert path.read_bytes() == before


def test_a_disk_for_reading_cannot_be_written(open_driver: Callable[..., Driver], path: Path) -> None:
    before = path.read_bytes()
    driver = open_driver("ro:")
    assert driver.device.features >> BLK_RO & 1
    assert driver.write(0, b"x" * SECTOR) == BLK_S_IOERR
    assert driver.read(0) == (BLK_S_OK, before[:SECTOR])
    assert path.read_bytes() == before


def test_the_disk_says_how_many_sectors_it_has(open_driver: Callable[..., Driver]) -> None:
    device = open_driver().device
    assert int.from_bytes(device.config[:8], "little") == SECTORS
    assert not device.features >> BLK_RO & 1
    assert device.features >> BLK_FLUSH & 1


def test_a_file_that_somebody_cut_is_an_error_and_does_not_grow_again(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    driver = open_driver()
    os.truncate(path, 2 * SECTOR + 100)
    assert driver.read(2)[0] == BLK_S_IOERR
    assert driver.read(1, 4)[0] == BLK_S_IOERR
    assert driver.write(2, b"x" * SECTOR) == BLK_S_IOERR
    assert driver.write(9, b"x" * SECTOR) == BLK_S_IOERR
    assert path.stat().st_size == 2 * SECTOR + 100
    assert driver.write(1, b"x" * SECTOR) == BLK_S_OK


def test_a_disk_that_is_full_is_an_error(memory: GuestMemory, io_name: str, tmp_path: Path) -> None:
    # Whoever may not write a file that large gets EFBIG, which stands here for ENOSPC and EIO: no root is needed.
    import resource

    path = tmp_path / "disk"
    before = make_disk(path, SECTORS)
    driver = Driver(memory, str(path), io_name)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * SECTOR, limits[1]))
    try:
        assert driver.write(8, b"x" * SECTOR) == BLK_S_IOERR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    driver.device.close()


def test_a_driver_without_flush_is_served_as_well(open_driver: Callable[..., Driver], path: Path) -> None:
    driver = open_driver(features=0)
    assert driver.write(1, b"d" * SECTOR) == BLK_S_OK
    assert path.read_bytes()[SECTOR : 2 * SECTOR] == b"d" * SECTOR


def test_a_reset_waits_for_what_is_under_way_and_the_next_driver_is_served(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    driver = open_driver()
    for _ in range(50):
        for sector in range(8):
            driver.ask(BLK_T_IN, sector, room=SECTOR)
        driver.kick()
        driver.device.reset()
        # Nobody writes into the Guest's buffers any more.
        driver.memory.view(0x10000, 0x8000)[:] = b"q" * 0x8000
        assert not driver.device.on_notify(0)
        assert driver.device.on_ready(driver.source)
        assert driver.memory.view(0x10000, 0x8000) == b"q" * 0x8000
        driver.pair.device.reset()
        driver.begin()
        assert driver.read(2) == (BLK_S_OK, path.read_bytes()[2 * SECTOR : 3 * SECTOR])


def test_a_reset_forgets_what_is_done_and_what_was_refused_before_it_began(
    open_driver: Callable[..., Driver], path: Path
) -> None:
    driver = open_driver()
    os.truncate(path, 2 * SECTOR)
    for kind, sector in ((BLK_T_IN, 1), (BLK_T_OUT, 9)):
        driver.ask(kind, sector, b"" if kind == BLK_T_IN else b"x" * SECTOR, SECTOR if kind == BLK_T_IN else 0)
    driver.kick()
    assert is_ready(driver)
    driver.device.reset()
    driver.pair.device.reset()
    driver.begin()
    driver.device.on_ready(driver.source)
    assert driver.pair.device.used_idx == 0
    assert driver.read(1) == (BLK_S_OK, path.read_bytes()[SECTOR : 2 * SECTOR])


def test_what_was_asked_for_before_the_driver_was_ready_is_begun_when_it_is(open_driver: Callable[..., Driver]) -> None:
    driver = open_driver()
    driver.device.reset()
    driver.ask(BLK_T_IN, 1, room=SECTOR)
    assert driver.device.start([driver.pair.device]) == ()
    assert is_ready(driver)
    assert driver.device.on_ready(driver.source)
    assert driver.pair.driver.reap() is not None


def test_a_request_that_slips_in_before_the_wish_for_a_kick_is_begun(open_driver: Callable[..., Driver]) -> None:
    driver = open_driver()
    late = [3]

    class Overtaken(Virtqueue):
        def enable_notify(self) -> bool:
            if late:
                driver.ask(BLK_T_IN, late.pop(), room=SECTOR)
                assert not driver.pair.driver.kick_needed(), "the driver was told that no kick is needed"
            return super().enable_notify()

    assert driver.device.start([Overtaken(driver.memory, driver.pair.layout, "overtaken")]) == ()
    assert is_ready(driver)
    assert driver.device.on_ready(driver.source)
    assert driver.pair.driver.reap() is not None


@pytest.mark.parametrize("features", [0, 1 << BLK_FLUSH])
def test_without_flush_each_write_is_to_be_durable(open_driver: Callable[..., Driver], features: int) -> None:
    driver = open_driver(features=features)
    asked: list[bool] = []
    submit = driver.device._io.submit

    def note(jobs: list[Job], *, is_durable: bool = False) -> None:
        asked.append(is_durable)
        submit(jobs, is_durable=is_durable)

    driver.device._io.submit = note  # type: ignore[method-assign]
    assert driver.write(1, b"d" * SECTOR) == BLK_S_OK
    assert asked == [not features]


def test_a_disk_in_which_a_transfer_hangs_stays_open(open_driver: Callable[..., Driver]) -> None:
    driver = open_driver()
    close = driver.device._io.close
    driver.device._io.close = lambda: False  # type: ignore[method-assign]
    driver.device.close()
    os.fstat(driver.device._disk.fd)
    assert close()
    driver.device._disk.close()


def test_a_close_with_requests_under_way_leaves_nothing_open(memory: GuestMemory, path: Path, io_name: str) -> None:
    with no_new_fds():
        for _ in range(20):
            driver = Driver(memory, str(path), io_name)
            for sector in range(8):
                driver.ask(BLK_T_OUT, sector, b"c" * SECTOR)
            driver.kick()
            driver.device.close()
            driver.device.close()


def test_a_chain_of_more_buffers_than_the_kernel_takes_at_once(memory: GuestMemory, path: Path, io_name: str) -> None:
    # 1,024 descriptors of one byte in an indirect table, twice over: more than IOV_MAX, and still 4 sectors.
    driver = Driver(memory, str(path), io_name)
    at, table = 0x8000, 0x10000
    memory.view(at, 16)[:] = pack("<IIQ", BLK_T_IN, 0, 3)
    room = [(at + 16 + n, 1) for n in range(4 * SECTOR)]
    driver.pair.driver.add([(at, 16)], [*room, (at + 16 + 4 * SECTOR, 1)], at, indirect_at=table)
    driver._asked[at] = at + 16, 4 * SECTOR
    assert driver.answers() == [(BLK_S_OK, path.read_bytes()[3 * SECTOR : 7 * SECTOR], 4 * SECTOR + 1)]
    driver.device.close()


def test_two_writers_of_one_file_are_refused_and_two_readers_are_not(path: Path, io_name: str) -> None:
    with no_new_fds():
        writer = Block(str(path), io_name)
        for text in (str(path), f"ro:{path}"):
            with pytest.raises(UsageError, match=r"^block: '.*' is in use, and only readers \(ro:.*\) may share"):
                Block(text, io_name)
        writer.close()
        readers = [Block(f"ro:{path}", io_name) for _ in range(2)]
        with pytest.raises(UsageError, match="is in use"):
            Block(str(path), io_name)
        for reader in readers:
            reader.close()


def test_what_is_no_disk_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    refusals = {
        tmp_path / "fifo": "is neither a file nor a block device; give one of these$",
        tmp_path: "is neither a file nor a block device; give one of these$",
        Path("/dev/null"): "is neither a file nor a block device; give one of these$",
        tmp_path / "odd": r"has 1000 bytes, which are no whole sectors of 512; fill it up \(truncate -s %512\)$",
        tmp_path / "none": "for reading and writing: No such file or directory$",
    }
    with no_new_fds():
        for path, sentence in refusals.items():
            with pytest.raises(UsageError, match=sentence):
                Block(str(path), "thread")
        with pytest.raises(UsageError, match="for reading: No such file"):
            Block("ro:", "thread")
        (tmp_path / "fine").write_bytes(b"")
        with pytest.raises(UsageError, match=r"^block I/O 'magic' does not exist; give --block-io thread or"):
            Block(str(tmp_path / "fine"), "magic")


def test_what_is_left_of_buffers_after_some_bytes() -> None:
    buffers = [memoryview(b"abc"), memoryview(b"d"), memoryview(b"efgh")]
    whole = b"abcdefgh"
    for count in range(9):
        left = beyond(buffers, count)
        assert b"".join(left) == whole[count:]
        assert all(left)
