"""Where the parts of a ring lie, and which layouts are refused."""

from __future__ import annotations

import pytest

from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from tests.support.rings import Pair

EVERY_NUM = [1 << bit for bit in range(16)]


@pytest.mark.parametrize("num", EVERY_NUM)
def test_a_contiguous_ring_has_the_offsets_of_vring_init(num: int) -> None:
    layout = VringLayout.contiguous(num, 0x10000)
    assert layout.avail == 0x10000 + 16 * num
    assert layout.used == -(-(layout.avail + 4 + 2 * num + 2) // 4096) * 4096
    assert layout.used_event == layout.avail + 4 + 2 * num
    assert layout.avail_event == layout.used + 4 + 8 * num
    # vring_size() of linux/virtio_ring.h
    assert layout.size == -(-(16 * num + 2 * (3 + num)) // 4096) * 4096 + 2 * 3 + 8 * num


def test_the_largest_ring_is_served() -> None:
    with GuestMemory.create(1 << 20) as memory:
        pair = Pair(memory, VringLayout.contiguous(32768, 0))
        pair.driver.add([(0xF0000, 5)], [], "last")
        assert pair.device.pop() is not None


@pytest.mark.parametrize("num", [-8, 0, 3, 48, 32767, 65536])
def test_a_size_that_is_no_power_of_two_up_to_32768_is_refused(memory: GuestMemory, num: int) -> None:
    with pytest.raises(RingError, match=f"^test: a ring of {num} entries; it takes a power of two, at most 32768$"):
        Virtqueue(memory, VringLayout(num, 0x1000, 0x2000, 0x3000), "test")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (VringLayout(8, 0x1008, 0x2000, 0x3000), "descriptor table at 0x1008 is not aligned to 16 bytes"),
        (VringLayout(8, 0x1000, 0x2001, 0x3000), "available ring at 0x2001 is not aligned to 2 bytes"),
        (VringLayout(8, 0x1000, 0x2000, 0x3002), "used ring at 0x3002 is not aligned to 4 bytes"),
        (
            VringLayout(8, 0x1FFF0, 0x2000, 0x3000),
            "descriptor table at 0x1fff0 ends at 0x20070, past guest memory",
        ),
        (
            VringLayout(8, 0x1000, 0x1FFFC, 0x3000),
            "available ring at 0x1fffc ends at 0x20012, past guest memory",
        ),
        (VringLayout(8, 0x1000, 0x2000, 0x1FFC0), "used ring at 0x1ffc0 ends at 0x20006, past guest memory"),
        (VringLayout(8, -16, 0x2000, 0x3000), "descriptor table at -0x10 ends at 0x70, past guest memory"),
        (VringLayout(8, 1 << 64, 0x2000, 0x3000), "descriptor table at 0x10000000000000000 ends"),
    ],
)
def test_an_area_that_is_unaligned_or_outside_memory_is_refused(
    memory: GuestMemory, layout: VringLayout, sentence: str
) -> None:
    with pytest.raises(RingError, match=f"^test: the {sentence}"):
        Virtqueue(memory, layout, "test")


def test_a_ring_may_end_exactly_where_memory_ends(memory: GuestMemory) -> None:
    size = 4 + 8 * 8 + 2
    used = (memory.size - size) & ~3
    Pair(memory, VringLayout(8, 0x1000, 0x2000, used)).driver.add([(memory.size - 1, 1)], [], None)
