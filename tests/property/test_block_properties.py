"""Any requests, cut in any way, against a model of the disk: a bytearray that only acknowledged writes change.

After each batch the file is the model, byte for byte and in length, whatever nonsense was asked; and what was read is
what the model held.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from struct import pack
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.devices.blockio import NAMES
from shared import uring
from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtio import (
    BLK_ID_BYTES,
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_IN,
    BLK_T_OUT,
)
from tests.support.disks import SECTOR, UNTOUCHED, Driver, make_disk

SECTORS = 8
ID = b"disk".ljust(BLK_ID_BYTES, b"\0")


class Asked(NamedTuple):
    """One request as it is made up."""

    kind: int
    sector: int
    data: bytes
    room: int
    header_size: int
    cuts: list[int]
    room_cuts: list[int]


lengths = st.one_of(st.integers(0, 4).map(lambda n: n * SECTOR), st.integers(0, 3 * SECTOR))
requests = st.builds(
    Asked,
    kind=st.one_of(
        st.sampled_from([BLK_T_IN, BLK_T_IN, BLK_T_OUT, BLK_T_OUT, BLK_T_OUT, BLK_T_FLUSH, BLK_T_GET_ID]),
        st.integers(0, (1 << 32) - 1),
    ),
    sector=st.one_of(st.integers(0, SECTORS), st.integers(0, (1 << 64) - 1)),
    data=st.one_of(st.just(b""), st.builds(lambda length, byte: bytes([byte]) * length, lengths, st.integers(0, 255))),
    room=st.one_of(st.just(0), lengths),
    header_size=st.sampled_from([16] * 8 + [0, 1, 15]),
    cuts=st.lists(st.integers(1, 600), max_size=4),
    room_cuts=st.lists(st.integers(1, 600), max_size=4),
)


class Model:
    """The disk as it is to be, and the answers that are to come."""

    def __init__(self, content: bytes, *, is_read_only: bool) -> None:
        self.content = bytearray(content)
        self.is_read_only = is_read_only

    def expect(self, asked: Asked) -> tuple[int, bytes]:
        """Return status and room after this request, and do what it does."""
        failed = bytes([UNTOUCHED]) * asked.room
        sent = pack("<IIQ", asked.kind, 0, asked.sector)[: asked.header_size] + asked.data
        if len(sent) < 16:
            return BLK_S_IOERR, failed
        kind, sector = int.from_bytes(sent[:4], "little"), int.from_bytes(sent[8:16], "little")
        data, at = sent[16:], sector * SECTOR
        length = asked.room if kind == BLK_T_IN else len(data)
        is_within = length > 0 and length % SECTOR == 0 and at + length <= len(self.content)
        if kind == BLK_T_IN:
            is_fine = is_within and not data
            return (BLK_S_OK, bytes(self.content[at : at + length])) if is_fine else (BLK_S_IOERR, failed)
        if kind == BLK_T_OUT:
            if not is_within or asked.room or self.is_read_only:
                return BLK_S_IOERR, failed
            self.content[at : at + length] = data
            return BLK_S_OK, b""
        if kind == BLK_T_FLUSH:
            return (BLK_S_IOERR, failed) if asked.room else (BLK_S_OK, b"")
        if kind == BLK_T_GET_ID:
            return (BLK_S_OK, ID[: asked.room] + failed[BLK_ID_BYTES:]) if asked.room else (BLK_S_IOERR, b"")
        return BLK_S_UNSUPP, failed


@pytest.mark.parametrize("io_name", NAMES)
@given(
    batches=st.lists(st.lists(requests, min_size=1, max_size=4), min_size=1, max_size=5),
    is_read_only=st.booleans(),
    features=st.sampled_from([0, 1 << 9]),
)
@settings(deadline=None, max_examples=60)
def test_the_file_is_what_the_acknowledged_writes_made_of_it(
    io_name: str, batches: list[list[Asked]], is_read_only: bool, features: int
) -> None:
    if io_name == "uring" and (reason := uring.missing()):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, GuestMemory.create(0x20000) as memory:
        path = Path(folder) / "disk"
        model = Model(make_disk(path, SECTORS), is_read_only=is_read_only)
        driver = Driver(memory, f"{'ro:' if is_read_only else ''}{path}", io_name, features=features)
        try:
            for batch in batches:
                expected = []
                for asked in batch:
                    # No order is promised among those in flight: what reads or writes where another writes comes after.
                    if expected and asked.kind in (BLK_T_IN, BLK_T_OUT):
                        assert _answers(driver) == expected
                        expected = []
                    expected.append(model.expect(asked))
                    driver.ask(
                        asked.kind,
                        data=asked.data,
                        room=asked.room,
                        header=pack("<IIQ", asked.kind, 0, asked.sector)[: asked.header_size],
                        cuts=asked.cuts,
                        room_cuts=asked.room_cuts,
                    )
                assert _answers(driver) == expected
                assert path.read_bytes() == model.content
        finally:
            driver.device.close()


def _answers(driver: Driver) -> list[tuple[int, bytes]]:
    return [(status, room) for status, room, _ in driver.answers()]


@pytest.mark.parametrize("io_name", NAMES)
@given(noise=st.binary(max_size=400), heads=st.lists(st.integers(0, 31), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_noise_in_the_ring_never_grows_or_cuts_the_file(io_name: str, noise: bytes, heads: list[int]) -> None:
    if io_name == "uring" and (reason := uring.missing()):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, GuestMemory.create(0x20000) as memory:
        path = Path(folder) / "disk"
        before = make_disk(path, SECTORS)
        driver = Driver(memory, str(path), io_name)
        memory.view(driver.pair.layout.desc, len(noise))[:] = noise
        driver.pair.hand.offer(*heads)
        with contextlib.suppress(RingError):
            driver.device.on_notify(0)
        driver.device.close()
        assert path.stat().st_size == len(before)
