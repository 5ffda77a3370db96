"""A hostile Guest gets one sentence per malformation, and breaks nothing but its own queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtio import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
)
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from tests.support.rings import DATA, Hand, Pair, layout_of

INDIRECT_TABLE = 0x10000


def jump(hand: Hand) -> None:
    hand.set_word(hand.layout.avail_idx, 9)


def go_backwards(hand: Hand) -> None:
    hand.set_word(hand.layout.avail_idx, -1)


def offer_head_past_the_table(hand: Hand) -> None:
    hand.offer(8)


def go_on_past_the_table(hand: Hand) -> None:
    hand.write_descriptor(3, flags=DESC_F_NEXT, next_=8)
    hand.offer(3)


def loop_to_itself(hand: Hand) -> None:
    hand.write_descriptor(3, length=1, flags=DESC_F_NEXT, next_=3)
    hand.offer(3)


def read_after_write(hand: Hand) -> None:
    hand.write_descriptor(3, flags=DESC_F_NEXT | DESC_F_WRITE, next_=4)
    hand.write_descriptor(4)
    hand.offer(3)


def end_past_memory(hand: Hand) -> None:
    hand.write_descriptor(7, 0x1F000, 0x2000)
    hand.offer(7)


def wrap_around_64_bits(hand: Hand) -> None:
    hand.write_descriptor(7, (1 << 64) - 4, 8, DESC_F_WRITE)
    hand.offer(7)


def no_length(hand: Hand) -> None:
    hand.write_descriptor(3, length=0)
    hand.offer(3)


def huge_length(hand: Hand) -> None:
    hand.write_descriptor(3, 0, 0xFFFFFFFF)
    hand.offer(3)


def more_than_memory_together(hand: Hand) -> None:
    hand.write_descriptor(3, 0, 0x20000, DESC_F_NEXT, 4)
    hand.write_descriptor(4, 0, 1)
    hand.offer(3)


def indirect(hand: Hand, length: int = 32, flags: int = 0, addr: int = INDIRECT_TABLE) -> None:
    hand.write_descriptor(3, addr, length, DESC_F_INDIRECT | flags, 4)
    hand.offer(3)


def odd_table(hand: Hand) -> None:
    indirect(hand, 24)


def empty_table(hand: Hand) -> None:
    indirect(hand, 0)


def table_past_memory(hand: Hand) -> None:
    indirect(hand, 32, addr=0x1FFF0)


def table_that_goes_on(hand: Hand) -> None:
    indirect(hand, flags=DESC_F_NEXT)


def nested_table(hand: Hand) -> None:
    hand.write_descriptor(0, flags=DESC_F_NEXT, next_=1, table=INDIRECT_TABLE)
    hand.write_descriptor(1, INDIRECT_TABLE, 16, DESC_F_INDIRECT, table=INDIRECT_TABLE)
    indirect(hand)


def go_on_past_the_indirect_table(hand: Hand) -> None:
    hand.write_descriptor(0, flags=DESC_F_NEXT, next_=2, table=INDIRECT_TABLE)
    indirect(hand)


def loop_in_the_indirect_table(hand: Hand) -> None:
    hand.write_descriptor(0, flags=DESC_F_NEXT, next_=1, table=INDIRECT_TABLE)
    hand.write_descriptor(1, flags=DESC_F_NEXT, next_=0, table=INDIRECT_TABLE)
    indirect(hand)


def end_past_memory_in_the_indirect_table(hand: Hand) -> None:
    hand.write_descriptor(0, 0x1FFFF, 2, table=INDIRECT_TABLE)
    indirect(hand)


MALFORMED: list[tuple[Callable[[Hand], None], str]] = [
    (jump, "test: the available index jumps to 9: 9 chains wait and 0 are in flight, but the ring has 8"),
    (
        go_backwards,
        "test: the available index jumps to 65535: 65535 chains wait and 0 are in flight, but the ring has 8",
    ),
    (offer_head_past_the_table, "test: descriptor 8 was offered, but the table has 8"),
    (go_on_past_the_table, "test: descriptor 3 goes on at 8, but the table has 8"),
    (loop_to_itself, "test: descriptor 3 goes on after as many as the table has, 8: the chain is a loop"),
    (read_after_write, "test: descriptor 4 is to be read, but follows one to be written"),
    (end_past_memory, "test: descriptor 7 ends at 0x21000, past guest memory (0x20000)"),
    (wrap_around_64_bits, "test: descriptor 7 ends at 0x10000000000000004, past guest memory (0x20000)"),
    (no_length, "test: descriptor 3 has no length"),
    (huge_length, "test: descriptor 3 ends at 0xffffffff, past guest memory (0x20000)"),
    (more_than_memory_together, "test: descriptor 4 makes a chain of 0x20001 bytes, over 0x20000"),
    (odd_table, "test: descriptor 3 has an indirect table of 24 bytes, not a multiple of 16"),
    (empty_table, "test: descriptor 3 has no length"),
    (table_past_memory, "test: descriptor 3 ends at 0x20010, past guest memory (0x20000)"),
    (table_that_goes_on, "test: descriptor 3 is indirect, but goes on"),
    (nested_table, "test: descriptor 3 has an indirect table whose descriptor 1 is indirect again"),
    (
        go_on_past_the_indirect_table,
        "test: descriptor 3 has an indirect table whose descriptor 0 goes on at 2, but the table has 2",
    ),
    (
        loop_in_the_indirect_table,
        "test: descriptor 3 has an indirect table whose descriptor 1 goes on after as many as the table has, "
        "2: the chain is a loop",
    ),
    (
        end_past_memory_in_the_indirect_table,
        "test: descriptor 3 has an indirect table whose descriptor 0 ends at 0x20001, past guest memory (0x20000)",
    ),
]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(("spoil", "sentence"), MALFORMED, ids=[spoil.__name__ for spoil, _ in MALFORMED])
def test_a_malformed_ring_is_named_in_one_sentence_and_breaks_the_queue(
    memory: GuestMemory, spoil: Callable[[Hand], None], sentence: str, batch: bool
) -> None:
    device = Virtqueue(memory, layout_of(), "test")
    spoil(Hand(memory, layout_of()))
    with pytest.raises(RingError) as caught:
        device.pop_many(8) if batch else device.pop()
    assert str(caught.value) == sentence
    assert caught.value.queue == "test"
    assert device.is_broken


def test_an_indirect_table_that_was_not_negotiated_is_refused(memory: GuestMemory) -> None:
    device = Virtqueue(memory, layout_of(), "test", indirect=False)
    indirect(Hand(memory, layout_of()))
    with pytest.raises(RingError, match=r"^test: descriptor 3 is indirect, which was not negotiated$"):
        device.pop()


def test_an_indirect_table_of_more_entries_than_any_ring_is_refused() -> None:
    with GuestMemory.create(1 << 20) as memory:
        device = Virtqueue(memory, layout_of(), "test")
        hand = Hand(memory, layout_of())
        hand.write_descriptor(0, DATA, 32769 * 16, DESC_F_INDIRECT)
        hand.offer(0)
        with pytest.raises(RingError, match=r"has an indirect table of 32769 entries, over 32768"):
            device.pop()


def test_a_guest_cannot_offer_again_and_again_what_is_in_flight(memory: GuestMemory) -> None:
    device = Virtqueue(memory, layout_of(), "test")
    hand = Hand(memory, layout_of())
    hand.write_descriptor(0)
    popped: list[Chain] = []

    def hoard() -> None:
        for _ in range(100):
            hand.offer(0)
            chain = device.pop()
            assert chain is not None
            popped.append(chain)

    with pytest.raises(RingError, match="1 chains wait and 8 are in flight, but the ring has 8"):
        hoard()
    assert len(popped) == 8


def test_a_descriptor_changed_after_it_was_read_changes_nothing(memory: GuestMemory) -> None:
    pair = Pair(memory)
    memory.view(DATA, 4)[:] = b"good"
    pair.driver.add([(DATA, 4)], [], None)
    chain = pair.device.pop()
    assert chain is not None
    pair.hand.write_descriptor(chain.head, 1 << 40, 0xFFFFFFFF, DESC_F_NEXT, 0xFFFF)
    assert chain.read() == b"good"


def test_a_broken_queue_says_so_until_it_is_reset(memory: GuestMemory) -> None:
    pair = Pair(memory, event_idx=True)
    pair.driver.add([], [(DATA, 8)], None)
    chain = pair.device.pop()
    assert chain is not None
    pair.hand.offer(99)
    with pytest.raises(RingError):
        pair.device.pop()
    for use in (
        pair.device.pop,
        lambda: pair.device.push(chain, 0),
        lambda: pair.device.pop_many(1),
        lambda: pair.device.push_many([(chain, 0)]),
        pair.device.enable_notify,
    ):
        with pytest.raises(RingError, match=r"^test: the queue is broken until the Guest resets the device$"):
            use()
    pair.device.reset()
    assert not pair.device.is_broken
    renewed = Pair(memory, event_idx=True)
    renewed.driver.add([], [(DATA, 8)], "again")
    assert renewed.driver.kick_needed()
    chain = pair.device.pop()
    assert chain is not None
    pair.device.push(chain, 1)
    assert pair.device.needs_interrupt()
    assert renewed.driver.reap() == ("again", 1)


def test_a_reset_zeroes_the_ring_and_nothing_else(memory: GuestMemory) -> None:
    layout = VringLayout(8, 0x1000, 0x2000, 0x3000)
    device = Virtqueue(memory, layout, "test", event_idx=True)
    memory.view(0, memory.size)[:] = b"\xff" * memory.size
    device.reset()
    zero = [at for at, byte in enumerate(bytes(memory.view(0, memory.size))) if not byte]
    assert zero == [*range(0x1000, 0x1080), *range(0x2000, 0x2016), *range(0x3000, 0x3046)]
