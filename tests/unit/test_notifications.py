"""Who is told of what, and when: both halves, with and without EVENT_IDX."""

from __future__ import annotations

import pytest

from shared.memory import GuestMemory
from shared.virtio import (
    AVAIL_F_NO_INTERRUPT,
    USED_F_NO_NOTIFY,
)
from tests.support.rings import DATA, Pair


@pytest.mark.parametrize("event_idx", [False, True])
def test_the_driver_is_interrupted_once_for_what_was_pushed(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    assert not pair.device.needs_interrupt()
    for token in range(2):
        pair.driver.add([], [(DATA, 8)], token)
    for chain in pair.device.pop_many(2):
        pair.device.push(chain, 0)
    assert pair.device.needs_interrupt()
    assert not pair.device.needs_interrupt()


def test_a_driver_that_set_no_interrupt_is_left_alone(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.hand.set_word(pair.layout.avail_flags, AVAIL_F_NO_INTERRUPT)
    pair.driver.add([], [(DATA, 8)], None)
    chain = pair.device.pop()
    assert chain is not None
    pair.device.push(chain, 0)
    assert not pair.device.needs_interrupt()


@pytest.mark.parametrize("start", [0, 0xFFFE, 0x7FFF])
@pytest.mark.parametrize("wished", range(5))
def test_with_event_idx_the_interrupt_comes_when_the_wished_for_index_is_passed(
    memory: GuestMemory, start: int, wished: int
) -> None:
    pair = Pair(memory, event_idx=True, start=start)
    pair.hand.set_word(pair.layout.used_event, start + wished)
    for token in range(4):
        pair.driver.add([], [(DATA, 8)], token)
    interrupts = []
    while chain := pair.device.pop():
        pair.device.push(chain, 0)
        interrupts.append(pair.device.needs_interrupt())
    assert interrupts == [at == wished for at in range(4)]


def test_with_event_idx_a_whole_turn_of_the_index_always_interrupts(memory: GuestMemory) -> None:
    pair = Pair(memory, event_idx=True)
    for _ in range(65536 // 8):
        for token in range(8):
            pair.driver.add([], [(DATA, 8)], token)
        pair.device.push_many([(chain, 0) for chain in pair.device.pop_many(8)])
        while pair.driver.reap():
            pass
    pair.hand.set_word(pair.layout.used_event, 12345)
    assert pair.device.needs_interrupt()


def test_with_event_idx_the_flags_are_ignored_and_stay_zero(memory: GuestMemory) -> None:
    """VirtIO 1.3, 2.7.7.2 and 2.7.10.2."""
    pair = Pair(memory, event_idx=True)
    pair.hand.set_word(pair.layout.avail_flags, AVAIL_F_NO_INTERRUPT)
    pair.driver.add([], [(DATA, 8)], None)
    chain = pair.device.pop()
    assert chain is not None
    pair.device.push(chain, 0)
    assert pair.device.needs_interrupt()
    pair.device.disable_notify()
    assert pair.hand.word(pair.layout.used_flags) == 0


def test_without_event_idx_the_event_words_are_left_alone(memory: GuestMemory) -> None:
    pair = Pair(memory)
    pair.hand.set_word(pair.layout.used_event, 0xAAAA)
    pair.hand.set_word(pair.layout.avail_event, 0xBBBB)
    pair.driver.add([], [(DATA, 8)], None)
    chain = pair.device.pop()
    assert chain is not None
    pair.device.push(chain, 0)
    pair.device.disable_notify()
    assert pair.hand.word(pair.layout.used_flags) == USED_F_NO_NOTIFY
    pair.device.enable_notify()
    assert pair.hand.word(pair.layout.used_flags) == 0
    pair.driver.reap()
    assert pair.hand.word(pair.layout.used_event) == 0xAAAA
    assert pair.hand.word(pair.layout.avail_event) == 0xBBBB


@pytest.mark.parametrize("event_idx", [False, True])
def test_work_that_slipped_in_is_told_when_kicks_are_enabled(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    pair.device.disable_notify()
    assert not pair.device.enable_notify()
    pair.device.disable_notify()
    pair.driver.add([], [(DATA, 8)], None)
    assert not pair.driver.kick_needed()
    assert pair.device.enable_notify()


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_after_an_empty_pop_the_driver_kicks_for_the_next_chain(
    memory: GuestMemory, event_idx: bool, batch: bool
) -> None:
    pair = Pair(memory, event_idx=event_idx, start=0xFFF0)
    for _ in range(40):
        pair.driver.add([], [(DATA, 8)], None)
        assert pair.driver.kick_needed()
        while chains := pair.device.pop_many(8) if batch else [c for c in [pair.device.pop()] if c]:
            pair.device.push(chains[0], 0)
        assert pair.driver.reap() == (None, 0)


@pytest.mark.parametrize("event_idx", [False, True])
def test_while_kicks_are_disabled_an_empty_pop_asks_for_none(memory: GuestMemory, event_idx: bool) -> None:
    pair = Pair(memory, event_idx=event_idx)
    pair.device.disable_notify()
    for _ in range(20):
        assert pair.device.pop() is None
        pair.driver.add([], [(DATA, 8)], None)
        assert not pair.driver.kick_needed()
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 0)
        pair.driver.reap()
