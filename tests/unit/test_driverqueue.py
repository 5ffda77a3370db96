"""The driver's half: it offers buffers, takes them back, and does not believe the device either."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.driverqueue import DriverQueue, RingFull
from shared.errors import BadAddress, RingError
from shared.memory import GuestMemory
from shared.virtio import AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY
from shared.vring_layout import VringLayout
from tests.support.rings import DATA, Hand, Pair, layout_of


def serve_one(pair: Pair) -> None:
    chain = pair.device.pop()
    assert chain is not None
    pair.device.push(chain, 0)


def reap_all(driver: DriverQueue) -> list[object]:
    return [done[0] for done in iter(driver.reap, None)]


def test_nothing_is_reaped_before_the_device_gives_it_back(memory: GuestMemory) -> None:
    pair = Pair(memory)
    assert pair.driver.reap() is None
    pair.driver.add([(DATA, 4)], [], "token")
    assert pair.driver.reap() is None
    serve_one(pair)
    assert pair.driver.reap() == ("token", 0)
    assert pair.driver.reap() is None


def test_any_object_is_a_token_even_none(memory: GuestMemory) -> None:
    pair = Pair(memory)
    token = object()
    for offered in (token, None):
        pair.driver.add([(DATA, 4)], [], offered)
        serve_one(pair)
        assert pair.driver.reap() == (offered, 0)


def test_a_full_ring_refuses_and_takes_again_after_a_reap(memory: GuestMemory) -> None:
    pair = Pair(memory)
    for _ in range(4):
        pair.driver.add([(DATA, 4)], [(DATA + 8, 4)], "pair")
    with pytest.raises(RingFull, match=r"^test: 1 descriptors are needed, 0 of 8 are free$"):
        pair.driver.add([(DATA, 4)], [], "refused")
    serve_one(pair)
    assert pair.driver.reap() == ("pair", 0)
    assert pair.driver.free == 2
    with pytest.raises(RingFull, match=r"^test: 3 descriptors are needed, 2 of 8 are free$"):
        pair.driver.add([(DATA, 4)] * 3, [], "refused")
    pair.driver.add([(DATA, 4)], [(DATA + 8, 4)], "pair")
    assert not pair.driver.is_broken


def test_a_full_ring_offers_nothing_of_what_it_refused(memory: GuestMemory) -> None:
    pair = Pair(memory)
    with pytest.raises(RingFull):
        pair.driver.add([(DATA, 4)] * 9, [], "refused")
    assert pair.device.is_empty()
    assert pair.driver.free == 8


def test_a_chain_of_no_buffers_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="a chain of no buffers"):
        Pair(memory).driver.add([], [], None)


def test_an_indirect_table_must_be_negotiated_and_in_memory(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="indirect tables were not negotiated"):
        Pair(memory, indirect=False).driver.add([(DATA, 4)], [], None, indirect_at=0x10000)
    pair = Pair(memory)
    with pytest.raises(BadAddress):
        pair.driver.add([(DATA, 4)] * 2, [], None, indirect_at=memory.size - 16)
    assert pair.driver.free == 8


def test_indirect_chains_may_be_longer_than_the_ring(memory: GuestMemory) -> None:
    pair = Pair(memory, layout_of(2))
    for at in range(2):
        pair.driver.add([(DATA, 1)] * 20, [(DATA, 1)] * 12, at, indirect_at=0x10000 + at * 512)
    chains = [pair.device.pop(), pair.device.pop()]
    assert [(len(c.readable), len(c.writable)) for c in chains if c] == [(20, 12), (20, 12)]


def test_a_ring_in_use_by_another_driver_is_refused(memory: GuestMemory) -> None:
    Pair(memory).driver.add([(DATA, 4)], [], None)
    with pytest.raises(RingError, match=r"^other: 1 chains of another driver are in flight$"):
        DriverQueue(memory, layout_of(), "other")


def test_a_bad_layout_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(RingError, match="a ring of 7 entries"):
        DriverQueue(memory, VringLayout(7, 0x1000, 0x2000, 0x3000), "test")


# Notifications


@pytest.mark.parametrize("event_idx", [False, True])
def test_the_device_is_kicked_once_for_what_was_added(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    assert not pair.driver.kick_needed()
    for _ in range(3):
        pair.driver.add([(DATA, 4)], [], None)
    assert pair.driver.kick_needed()
    assert not pair.driver.kick_needed()


def test_a_device_that_set_no_notify_is_left_alone(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.hand.set_word(pair.layout.used_flags, USED_F_NO_NOTIFY)
    pair.driver.add([(DATA, 4)], [], None)
    assert not pair.driver.kick_needed()


@pytest.mark.parametrize("start", [0, 0xFFFE, 0x7FFF])
@pytest.mark.parametrize("wished", range(5))
def test_with_event_idx_the_kick_comes_when_the_wished_for_index_is_passed(
    memory: GuestMemory, start: int, wished: int
) -> None:
    pair = Pair(memory, event_idx=True, start=start)
    pair.hand.set_word(pair.layout.avail_event, start + wished)
    kicks = []
    for _ in range(4):
        pair.driver.add([(DATA, 4)], [], None)
        kicks.append(pair.driver.kick_needed())
    assert kicks == [at == wished for at in range(4)]


@pytest.mark.parametrize("event_idx", [False, True])
def test_after_an_empty_reap_the_device_interrupts_for_the_next_chain(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx, start=0xFFF0)
    for token in range(40):
        pair.driver.add([(DATA, 4)], [], token)
        serve_one(pair)
        assert pair.device.needs_interrupt()
        assert pair.driver.reap() == (token, 0)
        assert pair.driver.reap() is None


@pytest.mark.parametrize("event_idx", [False, True])
def test_while_interrupts_are_disabled_none_is_asked_for(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    pair.driver.disable_interrupts()
    for token in range(20):
        assert pair.driver.reap() is None
        pair.driver.add([(DATA, 4)], [], token)
        serve_one(pair)
        assert not pair.device.needs_interrupt()
        assert pair.driver.reap() == (token, 0)


@pytest.mark.parametrize("event_idx", [False, True])
def test_what_slipped_in_is_told_when_interrupts_are_enabled(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    pair.driver.disable_interrupts()
    assert pair.hand.word(pair.layout.avail_flags) == (0 if event_idx else AVAIL_F_NO_INTERRUPT)
    assert not pair.driver.enable_interrupts()
    pair.driver.disable_interrupts()
    pair.driver.add([(DATA, 4)], [], None)
    serve_one(pair)
    assert not pair.device.needs_interrupt()
    assert pair.driver.enable_interrupts()
    assert pair.hand.word(pair.layout.avail_flags) == 0


# Hostile devices


def give_back_what_was_never_offered(hand: Hand) -> None:
    hand.give_back(5, 0)


def give_back_a_head_past_the_table(hand: Hand) -> None:
    hand.give_back(0xFFFFFFFF, 0)


def give_back_twice(hand: Hand) -> None:
    hand.give_back(0, 0)
    hand.give_back(0, 0)


def claim_too_much(hand: Hand) -> None:
    hand.give_back(0, 9)


def jump(hand: Hand) -> None:
    hand.set_word(hand.layout.used_idx, 3)


def go_backwards(hand: Hand) -> None:
    hand.set_word(hand.layout.used_idx, -1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (give_back_what_was_never_offered, "test: the device gave back head 5, which is not in flight"),
        (give_back_a_head_past_the_table, "test: the device gave back head 4294967295, which is not in flight"),
        (give_back_twice, "test: the device gave back head 0, which is not in flight"),
        (claim_too_much, "test: the device claims 9 bytes in chain 0, which has room for 8"),
        (jump, "test: the used index jumps to 3: 3 chains used, 2 in flight"),
        (go_backwards, "test: the used index jumps to 65535: 65535 chains used, 2 in flight"),
    ],
)
def test_a_hostile_device_is_named_in_one_sentence(
    memory: GuestMemory, spoil: Callable[[Hand], None], sentence: str
) -> None:
    pair = Pair(memory)
    for token in range(2):
        pair.driver.add([(DATA, 4)], [(DATA + 8, 8)], token)
    # The heads in flight are 0 and 2.
    spoil(pair.hand)
    with pytest.raises(RingError) as caught:
        reap_all(pair.driver)
    assert str(caught.value) == sentence
    assert pair.driver.is_broken
    for use in (
        pair.driver.reap,
        lambda: pair.driver.add([(DATA, 4)], [], None),
        pair.driver.enable_interrupts,
    ):
        with pytest.raises(RingError, match="the queue is broken: reset the device and make a new one"):
            use()


def test_a_device_that_spoils_the_table_does_not_confuse_the_driver(memory: GuestMemory) -> None:
    pair = Pair(memory)
    for token in range(2):
        pair.driver.add([(DATA, 4)] * 2, [(DATA + 8, 8)], token)
    served = pair.device.pop_many(2)
    memory.view(pair.layout.desc, 128)[:] = b"\xff" * 128
    pair.device.push_many([(chain, 8) for chain in reversed(served)])
    assert [pair.driver.reap(), pair.driver.reap()] == [(1, 8), (0, 8)]
    assert pair.driver.free == 8
