"""Of a liar's rings comes RingError at most, whatever the device: and what was not to be written stays as it was.

The network's liar is in test_net_properties.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
from contextlib import closing
from pathlib import Path
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.devices.block import Block
from launcher.devices.blockio import NAMES
from launcher.devices.console import Console
from launcher.devices.rng import Rng
from shared import uring
from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtio import BLK_FLUSH, BLK_S_IOERR, BLK_S_OK, BLK_T_OUT, DESC_F_NEXT, DESC_F_WRITE
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from tests.support.disks import SECTOR, make_disk
from tests.support.liars import MEMORY_SIZE, READ, WRITTEN, Lie, fill_what_is_read, lies
from tests.support.rescue import PATIENCE_S
from tests.support.rings import Hand

SLOW_IS_FINE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
NUM = 8
RINGS = 0x1000, 0x3000
SECTORS, WRITTEN_SECTOR = 16, 4


class Rings:
    """So many rings, with a liar's hand on each; `queues` gives the device's halves, of a driver that begins anew."""

    def __init__(self, memory: GuestMemory, count: int, *, event_idx: bool) -> None:
        self.memory, self.event_idx = memory, event_idx
        self.layouts = [VringLayout.contiguous(NUM, addr) for addr in RINGS[:count]]
        self.hands = [Hand(memory, layout) for layout in self.layouts]

    def queues(self, features: int = 0) -> list[Virtqueue]:
        for layout in self.layouts:
            layout.zero(self.memory)
        return [
            Virtqueue(self.memory, layout, "liar", event_idx=self.event_idx, features=features)
            for layout in self.layouts
        ]

    def offer(self, queue: int, length: int, flags: int) -> None:
        """Be honest, once: one buffer."""
        self.hands[queue].write_descriptor(0, WRITTEN, length, flags)
        self.hands[queue].offer(0)

    def written(self, queue: int) -> int:
        """Return how much came in the first buffer that was used."""
        return int.from_bytes(self.memory.view(self.layouts[queue].used_ring + 4, 4), "little")


@SLOW_IS_FINE
@given(lies(queues=2, num=NUM), st.binary(max_size=40), st.booleans())
def test_the_console_and_a_liar(lie: Lie, typed: bytes, event_idx: bool) -> None:
    with contextlib.ExitStack() as closing_all:
        memory = closing_all.enter_context(GuestMemory.create(MEMORY_SIZE))
        (typed_end, keys), output = os.pipe(), os.memfd_create("output")
        for fd in (typed_end, keys, output):
            closing_all.callback(os.close, fd)
        os.write(keys, typed)
        console = closing_all.enter_context(closing(Console(typed_end, output)))
        rings = Rings(memory, 2, event_idx=event_idx)
        console.attach(rings.layouts)
        console.start(rings.queues())
        check_the_rest = fill_what_is_read(memory, b"said")

        def serve(queue: int) -> None:
            with contextlib.suppress(RingError):
                console.on_notify(queue)
            with contextlib.suppress(RingError):
                if select.select([typed_end], [], [], 0)[0]:
                    console.on_ready(console._source)
            console.lines()

        lie.tell(rings.hands, serve)
        check_the_rest()
        console.reset()
        before = os.fstat(output).st_size
        console.start(rings.queues())
        rings.offer(1, 5, 0)
        console.on_notify(1)
        assert os.fstat(output).st_size == before + 5


@SLOW_IS_FINE
@given(lies(queues=1, num=NUM), st.booleans(), st.integers(0, 300) | st.none())
def test_entropy_and_a_liar(lie: Lie, event_idx: bool, in_fifo: int | None) -> None:
    with contextlib.ExitStack() as closing_all:
        folder = closing_all.enter_context(tempfile.TemporaryDirectory())
        memory = closing_all.enter_context(GuestMemory.create(MEMORY_SIZE))
        path = Path(folder) / "fifo"
        os.mkfifo(path)
        rng = closing_all.enter_context(closing(Rng(None if in_fifo is None else str(path))))
        if in_fifo is not None:  # it runs dry, mostly in the midst of the lie
            fifo = os.open(path, os.O_WRONLY)
            closing_all.callback(os.close, fifo)
            os.write(fifo, b"r" * in_fifo)
        rings = Rings(memory, 1, event_idx=event_idx)
        rng.attach(rings.layouts)
        rng.start(rings.queues())
        check_the_rest = fill_what_is_read(memory, b"mine")

        def serve(queue: int) -> None:
            with contextlib.suppress(RingError):
                rng.on_notify(queue)
            if rng._source is not None and select.select([rng._source.fd], [], [], 0)[0]:
                with contextlib.suppress(RingError):
                    rng.on_ready(rng._source)
            rng.lines()

        lie.tell(rings.hands, serve)
        check_the_rest()
        rng.reset()
        rng.start(rings.queues())
        rings.offer(0, 16, DESC_F_WRITE)
        if in_fifo is not None:
            os.write(fifo, b"r" * 16)
        rng.on_notify(0)
        assert rings.written(0) == 16


@pytest.mark.parametrize("io_name", NAMES)
@SLOW_IS_FINE
@given(lies(queues=1, num=NUM, align=16), st.booleans(), st.booleans(), st.booleans())
def test_a_disk_and_a_liar(io_name: str, lie: Lie, event_idx: bool, is_read_only: bool, is_honest_first: bool) -> None:
    """All that is read says: write what follows, which is the same again, at one place of the disk."""
    if io_name == "uring" and (reason := uring.missing()):
        pytest.skip(reason)
    with contextlib.ExitStack() as closing_all:
        folder = closing_all.enter_context(tempfile.TemporaryDirectory())
        memory = closing_all.enter_context(GuestMemory.create(MEMORY_SIZE))
        path = Path(folder) / "disk"
        before = make_disk(path, SECTORS)
        disk = closing_all.enter_context(closing(Block(f"{'ro:' * is_read_only}{path}", io_name)))
        rings = Rings(memory, 1, event_idx=event_idx)
        (source,) = disk.attach(rings.layouts)
        disk.start(rings.queues(1 << BLK_FLUSH))
        says = pack("<IIQ", BLK_T_OUT, 0, WRITTEN_SECTOR)
        check_the_rest = fill_what_is_read(memory, says)
        # The liar may begin by telling the truth.
        for at, descriptor in enumerate(
            ((READ, 16, DESC_F_NEXT, 6), (READ, 1024, DESC_F_NEXT, 7), (WRITTEN, 1, DESC_F_WRITE, 0)), start=5
        ):
            rings.hands[0].write_descriptor(at, *descriptor)

        def serve(queue: int) -> None:
            with contextlib.suppress(RingError):
                disk.on_notify(queue)
            with contextlib.suppress(RingError):
                disk.on_ready(source)
            disk.lines()

        at = WRITTEN_SECTOR * SECTOR
        if is_honest_first:
            rings.hands[0].offer(5)
            disk.on_notify(0)
            if not is_read_only:
                assert select.select([source.fd], [], [], PATIENCE_S)[0]
                disk.on_ready(source)
            assert memory.view(WRITTEN, 1)[0] == (BLK_S_IOERR if is_read_only else BLK_S_OK)
            if not is_read_only:
                before = before[:at] + (says * 64) + before[at + 1024 :]
        lie.tell(rings.hands, serve)
        disk.reset()
        check_the_rest()
        content = path.read_bytes()
        assert (len(content), content[:at]) == (len(before), before[:at])
        for sector in range(at, len(before), SECTOR):
            pattern = says * (SECTOR // len(says))
            assert content[sector : sector + SECTOR] in (before[sector : sector + SECTOR], pattern)
        assert not is_read_only or content == before
