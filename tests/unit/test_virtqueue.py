"""The device's half serves an honest driver."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from shared.memory import GuestMemory
from shared.virtio import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
)
from shared.virtqueue import Virtqueue
from tests.support.rings import DATA, Hand, Pair, layout_of


def test_an_empty_ring_gives_nothing(memory: GuestMemory) -> None:
    pair = Pair(memory)
    assert pair.device.is_empty()
    assert pair.device.pop() is None
    assert pair.device.pop_many(8) == []


def test_a_chain_comes_with_what_to_read_and_what_to_write(memory: GuestMemory) -> None:
    pair = Pair(memory)
    memory.view(DATA, 6)[:] = b"abcdef"
    pair.driver.add([(DATA, 4), (DATA + 4, 2)], [(DATA + 16, 3), (DATA + 32, 5)], None)
    assert not pair.device.is_empty()
    chain = pair.device.pop()
    assert chain is not None
    assert chain.head < 8
    assert [bytes(view) for view in chain.readable] == [b"abcd", b"ef"]
    assert [len(view) for view in chain.writable] == [3, 5]
    assert (chain.readable_bytes, chain.writable_bytes) == (6, 8)
    assert chain.read() == b"abcdef"
    assert pair.device.is_empty()


def test_what_is_written_is_scattered_over_the_buffers(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([], [(DATA, 3), (DATA + 16, 5)], None)
    chain = pair.device.pop()
    assert chain is not None
    assert chain.write(b"12345") == 5
    assert bytes(memory.view(DATA, 4)) == b"123\0"
    assert bytes(memory.view(DATA + 16, 5)) == b"45\0\0\0"


def test_what_does_not_fit_is_counted_out(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([], [(DATA, 3), (DATA + 16, 5)], None)
    chain = pair.device.pop()
    assert chain is not None
    assert chain.write(b"0123456789") == 8
    assert bytes(memory.view(DATA + 16, 6)) == b"34567\0"


def test_a_chain_without_room_takes_nothing(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([(DATA, 3)], [], None)
    chain = pair.device.pop()
    assert chain is not None
    assert chain.write(b"abc") == 0
    assert chain.write(b"") == 0


def test_a_chain_given_back_by_its_head_is_the_same(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([], [(DATA, 3)], "first")
    pair.driver.add([], [(DATA, 3)], "second")
    first, second = pair.device.pop(), pair.device.pop()
    assert first is not None
    assert second is not None
    pair.device.push(second.head, 2)
    pair.device.push(first, 1)
    assert [pair.driver.reap(), pair.driver.reap()] == [("second", 2), ("first", 1)]
    assert pair.device.used_idx == 2


def test_more_chains_than_were_popped_cannot_be_pushed(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([], [(DATA, 3)], None)
    with pytest.raises(ValueError, match="more chains pushed than popped"):
        pair.device.push(0, 0)
    with pytest.raises(ValueError, match="more chains pushed than popped"):
        pair.device.push_many([(0, 0)])


@pytest.mark.parametrize("batch", [False, True])
def test_the_indices_wrap_at_65536(memory: GuestMemory, batch: bool) -> None:
    pair = Pair(memory, start=0xFFFD)
    for token in range(8):
        pair.driver.add([], [(DATA, 8)], token)
    if batch:
        pair.device.push_many([(chain, chain.write(b"x")) for chain in pair.device.pop_many(100)])
    else:
        while chain := pair.device.pop():
            pair.device.push(chain, chain.write(b"x"))
    assert pair.hand.word(pair.layout.used_idx) == 5 == pair.device.used_idx
    assert [pair.driver.reap() for _ in range(9)] == [(token, 1) for token in range(8)] + [None]


def test_an_indirect_table_is_one_descriptor(memory: GuestMemory) -> None:
    pair = Pair(memory)
    memory.view(DATA, 2)[:] = b"hi"
    pair.driver.add([(DATA, 1), (DATA + 1, 1)], [(DATA + 8, 4)], "token", indirect_at=0x10008)
    assert pair.driver.free == 7
    chain = pair.device.pop()
    assert chain is not None
    assert chain.read() == b"hi"
    assert chain.writable_bytes == 4


def test_an_indirect_table_may_end_an_ordinary_chain_and_its_write_flag_is_ignored(
    memory: GuestMemory,
) -> None:
    """VirtIO 1.3, 2.7.5.3.2."""
    hand, device = Hand(memory, layout_of()), Virtqueue(memory, layout_of(), "test")
    hand.write_descriptor(0, DATA, 2, DESC_F_NEXT, 5)
    hand.write_descriptor(5, 0x10000, 32, DESC_F_INDIRECT | DESC_F_WRITE)
    hand.write_descriptor(0, DATA + 2, 3, DESC_F_NEXT, 1, table=0x10000)
    hand.write_descriptor(1, DATA + 8, 4, DESC_F_WRITE, 0, table=0x10000)
    hand.offer(0)
    chain = device.pop()
    assert chain is not None
    assert ([len(v) for v in chain.readable], [len(v) for v in chain.writable]) == ([2, 3], [4])


def test_a_chain_may_use_every_descriptor_of_the_table(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.driver.add([(DATA + at, 1) for at in range(8)], [], None)
    chain = pair.device.pop()
    assert chain is not None
    assert len(chain.readable) == 8


def test_a_batch_takes_no_more_than_asked_for(memory: GuestMemory) -> None:
    pair = Pair(memory)
    for token in range(5):
        pair.driver.add([], [(DATA, 8)], token)
    first, rest = pair.device.pop_many(3), pair.device.pop_many(3)
    assert (len(first), len(rest)) == (3, 2)
    pair.device.push_many([])
    pair.device.push_many([(chain.head, 7) for chain in rest] + [(chain, 8) for chain in first])
    assert [pair.driver.reap() for _ in range(6)] == [(3, 7), (4, 7), (0, 8), (1, 8), (2, 8), None]


def test_batches_and_single_steps_mix(memory: GuestMemory) -> None:
    pair = Pair(memory)
    for token in range(3):
        pair.driver.add([(DATA, 1)], [(DATA, 8)], token)
    one = pair.device.pop()
    assert one is not None
    many = pair.device.pop_many(8)
    pair.device.push_many([(chain, 1) for chain in many])
    pair.device.push(one, 2)
    assert [pair.driver.reap() for _ in range(3)] == [(1, 1), (2, 1), (0, 2)]


def test_numpy_is_not_imported_before_a_batch_is_asked_for() -> None:
    script = """
import sys
from shared.memory import GuestMemory
from tests.support.rings import DATA, Pair
with GuestMemory.create(0x20000) as memory:
    pair = Pair(memory)
    pair.driver.add([], [(DATA, 4)], None)
    pair.device.push(pair.device.pop(), 0)
    print("numpy" in sys.modules)
    pair.driver.add([], [(DATA, 4)], None)
    pair.device.push_many([(chain, 0) for chain in pair.device.pop_many(1)])
    print("numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_a_successor_serves_again_what_was_in_flight(memory: GuestMemory) -> None:
    pair = Pair(memory, start=0xFFFF)
    for token in range(3):
        pair.driver.add([], [(DATA, 8)], token)
    first = pair.device.pop()
    assert first is not None
    pair.device.push(first, 0)
    pair.device.pop()
    successor = Virtqueue(memory, pair.layout, "test")
    chains = successor.pop_many(8)
    successor.push_many([(chain, 1) for chain in chains])
    assert [pair.driver.reap() for _ in range(4)] == [(0, 0), (1, 1), (2, 1), None]


def test_a_chain_outlives_the_queue_and_the_closing_of_memory() -> None:
    with GuestMemory.create(0x20000) as memory:
        pair = Pair(memory)
        pair.driver.add([], [(DATA, 3)], None)
        chain = pair.device.pop()
    assert chain is not None
    del pair, memory
    gc.collect()
    assert chain.write(b"abc") == 3
