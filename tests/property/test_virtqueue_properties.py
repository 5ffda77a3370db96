"""Whatever two honest halves do, every chain comes back once with its bytes; whatever a liar writes, RingError."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import addressof, c_char
from struct import pack_into
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shared.driverqueue import DriverQueue, RingFull
from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from tests.support.rings import Hand, Pair

MEMORY_SIZE = 0x10000
ARENA = 0x4000  # buffers of honest drivers lie from here on, in slots
SLOT = 0x400
MAX_LENGTH = 100

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LAYOUTS = st.builds(
    lambda bits, is_contiguous: (
        VringLayout.contiguous(1 << bits, 0x1000, 64)
        if is_contiguous
        else VringLayout(1 << bits, 0x3000, 0x2002, 0x1004)
    ),
    st.integers(0, 5),
    st.booleans(),
)
STARTS = st.sampled_from([0, 1, 0x7FFE, 0xFFF0, 0xFFFE, 0xFFFF])
LENGTHS = st.lists(st.integers(1, MAX_LENGTH), max_size=3)


class Offer(NamedTuple):
    """What the model knows of a chain: its token is the slot, whose first half holds the buffers."""

    slot: int
    descriptors: int
    sent: bytes
    room: list[tuple[int, int]]


class TwoHalves(RuleBasedStateMachine):
    """Driver and device on one ring, against three lists: waiting, in flight, used."""

    @initialize(
        layout=LAYOUTS,
        event_idx=st.booleans(),
        indirect=st.booleans(),
        start=STARTS,
    )
    def make_ring(self, layout: VringLayout, event_idx: bool, indirect: bool, start: int) -> None:
        self.memory = GuestMemory.private(MEMORY_SIZE)
        pair = Pair(self.memory, layout, event_idx=event_idx, indirect=indirect, start=start)
        self.driver, self.device = pair.driver, pair.device
        self.num, self.indirect = layout.num, indirect
        self.slots = set(range((MEMORY_SIZE - ARENA) // SLOT))
        self.waiting: list[Offer] = []
        self.in_flight: list[tuple[Chain, Offer]] = []
        self.used: list[tuple[Offer, bytes]] = []
        self.device_sleeps = self.driver_sleeps = False

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        self.enable_notify()
        self.pop_many(100)
        while self.in_flight:
            self.push(0, b"at the end")
        while self.used:
            self.reap()
        self.reap()
        assert self.driver.free == self.num
        assert self.device.is_empty()
        self.memory.close()

    # The driver

    @precondition(lambda self: self.slots)
    @rule(readable=LENGTHS, writable=LENGTHS, wants_indirect=st.booleans(), fill=st.binary(min_size=1, max_size=9))
    def add(self, readable: list[int], writable: list[int], wants_indirect: bool, fill: bytes) -> None:
        if not readable + writable:
            return
        slot = min(self.slots)
        addr = ARENA + slot * SLOT
        table = addr + SLOT // 4 * 3 if wants_indirect and self.indirect else None
        buffers = []
        for length in readable + writable:
            buffers.append((addr, length))
            addr += length
        to_read, to_write = buffers[: len(readable)], buffers[len(readable) :]
        sent = (fill * 301)[: sum(readable)]
        if to_read:
            self.memory.view(to_read[0][0], len(sent))[:] = sent
        needed = 1 if table is not None else len(buffers)
        free = self.num - sum(offer.descriptors for offer in self.outstanding())
        assert self.driver.free == free
        if needed > free:
            with pytest.raises(RingFull):
                self.driver.add(to_read, to_write, slot, indirect_at=table)
            return
        self.driver.add(to_read, to_write, slot, indirect_at=table)
        self.slots.remove(slot)
        self.waiting.append(Offer(slot, needed, sent, to_write))
        is_kicked = self.driver.kick_needed()
        assert is_kicked or not self.device_sleeps, "the device sleeps, and nobody wakes it"
        self.device_sleeps = False

    @rule()
    def reap(self) -> None:
        done = self.driver.reap()
        if not self.used:
            assert done is None
            self.driver_sleeps = self.interrupts_enabled()
            return
        offer, data = self.used.pop(0)
        assert done == (offer.slot, len(data))
        assert self.written(offer)[: len(data)] == data
        self.slots.add(offer.slot)

    @rule()
    def disable_interrupts(self) -> None:
        self.driver.disable_interrupts()
        self.driver_sleeps = False

    @rule()
    def enable_interrupts(self) -> None:
        slipped_in = self.driver.enable_interrupts()
        assert slipped_in == bool(self.used)
        self.driver_sleeps = not slipped_in

    # The device

    @rule()
    def pop(self) -> None:
        assert self.device.is_empty() == (not self.waiting)
        chain = self.device.pop()
        if chain is None:
            assert not self.waiting
            self.device_sleeps = self.kicks_enabled()
        else:
            self.take(chain)

    @rule(limit=st.integers(1, 40))
    def pop_many(self, limit: int) -> None:
        chains = self.device.pop_many(limit)
        assert len(chains) == min(limit, len(self.waiting))
        for chain in chains:
            self.take(chain)
        if not chains:
            self.device_sleeps = self.kicks_enabled()

    @precondition(lambda self: self.in_flight)
    @rule(at=st.integers(0, 100), data=st.binary(max_size=350))
    def push(self, at: int, data: bytes) -> None:
        chain, offer = self.in_flight.pop(at % len(self.in_flight))
        written = self.write(chain, offer, data)
        self.device.push(chain if at % 2 else chain.head, written)
        self.expect_interrupt()

    @precondition(lambda self: self.in_flight)
    @rule(count=st.integers(1, 40), data=st.binary(max_size=350))
    def push_many(self, count: int, data: bytes) -> None:
        served, self.in_flight = self.in_flight[-count:], self.in_flight[:-count]
        self.device.push_many([(chain, self.write(chain, offer, data)) for chain, offer in served])
        self.expect_interrupt()

    @rule()
    def disable_notify(self) -> None:
        self.device.disable_notify()
        self.device_sleeps = False

    @rule()
    def enable_notify(self) -> None:
        slipped_in = self.device.enable_notify()
        assert slipped_in == bool(self.waiting)
        self.device_sleeps = not slipped_in

    # What the model knows

    def outstanding(self) -> list[Offer]:
        return self.waiting + [offer for _, offer in self.in_flight] + [offer for offer, _ in self.used]

    def take(self, chain: Chain) -> None:
        offer = self.waiting.pop(0)
        assert chain.read() == offer.sent
        assert chain.writable_bytes == sum(length for _, length in offer.room)
        self.in_flight.append((chain, offer))

    def write(self, chain: Chain, offer: Offer, data: bytes) -> int:
        written = chain.write(data)
        assert written == min(len(data), chain.writable_bytes)
        self.used.append((offer, data[:written]))
        return written

    def written(self, offer: Offer) -> bytes:
        return b"".join(bytes(self.memory.view(*buffer)) for buffer in offer.room)

    def expect_interrupt(self) -> None:
        is_interrupted = self.device.needs_interrupt()
        assert is_interrupted or not self.driver_sleeps, "the driver sleeps, and nobody wakes it"
        self.driver_sleeps = False

    def kicks_enabled(self) -> bool:
        return self.device._wants_kick

    def interrupts_enabled(self) -> bool:
        return self.driver._wants_interrupt


TwoHalves.TestCase.settings = settings(SLOW_IS_FINE, max_examples=80, stateful_step_count=60)
TestTwoHalves = TwoHalves.TestCase


# Liars. Garbage is mostly near what is allowed, or nothing would get past the first check.

NUM = 8
LIARS_LAYOUT = VringLayout.contiguous(NUM, 0, 64)
TABLE = 0x400
U16 = st.integers(0, 9) | st.integers(0, 0xFFFF)
ADDRESSES = (
    st.integers(0, 0x1000).map(lambda x: x * 16)
    | st.integers(TABLE // 16, TABLE // 16 + 8).map(lambda x: x * 16)
    | st.integers(MEMORY_SIZE - 3, MEMORY_SIZE + 3)
    | st.integers(0, (1 << 64) - 1)
)
SIZES = st.integers(0, 8).map(lambda x: x * 16) | st.integers(0, 0x400) | st.integers(0, (1 << 32) - 1)
DESCRIPTORS = st.tuples(ADDRESSES, SIZES, st.integers(0, 7) | U16, U16)
GARBAGE = st.tuples(
    st.lists(DESCRIPTORS, min_size=NUM, max_size=NUM),
    st.lists(DESCRIPTORS, min_size=NUM, max_size=NUM),
    st.lists(U16, min_size=NUM + 3, max_size=NUM + 3),
    st.lists(U16, min_size=NUM * 4 + 3, max_size=NUM * 4 + 3),
)
Garbage = tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]], list[int], list[int]]


def scribble(memory: GuestMemory, garbage: Garbage) -> None:
    table, indirect_table, avail, used = garbage
    for start, descriptors in ((LIARS_LAYOUT.desc, table), (TABLE, indirect_table)):
        for at, descriptor in enumerate(descriptors):
            pack_into("<QIHH", memory.view(start + at * 16, 16), 0, *descriptor)
    for start, words in ((LIARS_LAYOUT.avail, avail), (LIARS_LAYOUT.used, used)):
        for at, word in enumerate(words):
            memory.u16[(start >> 1) + at] = word


def assert_within(memory: GuestMemory, chain: Chain) -> None:
    start = memory.address()
    assert chain.readable_bytes + chain.writable_bytes <= memory.size
    for view in (*chain.readable, *chain.writable):
        addr = addressof(c_char.from_buffer(view))
        assert start <= addr < addr + len(view) <= start + memory.size


def refusal_of(use: Callable[[], None]) -> RingError | None:
    try:
        use()
    except RingError as refusal:
        return refusal
    return None


def serve(memory: GuestMemory, device: Virtqueue, batch: bool) -> None:
    device.enable_notify()
    chains = device.pop_many(5) if batch else [chain for _ in range(5) if (chain := device.pop())]
    for chain in chains:
        assert_within(memory, chain)
    if batch:
        device.push_many([(chain, 0) for chain in chains])
    else:
        for chain in chains:
            device.push(chain, 0)
    device.needs_interrupt()
    device.disable_notify()


def drive(driver: DriverQueue, reaped: list[tuple[object, int]]) -> None:
    driver.kick_needed()
    while done := driver.reap():
        reaped.append(done)
    driver.enable_interrupts()


@given(garbage=GARBAGE, again=GARBAGE, event_idx=st.booleans(), indirect=st.booleans(), batch=st.booleans())
@settings(SLOW_IS_FINE, max_examples=400)
def test_a_lying_driver_gets_nothing_but_ring_errors(
    garbage: Garbage, again: Garbage, event_idx: bool, indirect: bool, batch: bool
) -> None:
    with GuestMemory.private(MEMORY_SIZE) as memory:
        scribble(memory, garbage)
        device = Virtqueue(memory, LIARS_LAYOUT, "liar", event_idx=event_idx, indirect=indirect)
        for lie in (garbage, again):
            scribble(memory, lie)
            # All but the used ring: the device reads it.
            before = bytes(memory.view(0, LIARS_LAYOUT.used)), bytes(memory.view(TABLE, MEMORY_SIZE - TABLE))
            refusal = refusal_of(lambda: serve(memory, device, batch))
            if refusal is not None:
                assert device.is_broken
                assert str(refusal).startswith("liar: ")
                assert "\n" not in str(refusal)
            after = bytes(memory.view(0, LIARS_LAYOUT.used)), bytes(memory.view(TABLE, MEMORY_SIZE - TABLE))
            assert after == before


@given(garbage=GARBAGE, event_idx=st.booleans())
@settings(SLOW_IS_FINE, max_examples=200)
def test_a_lying_device_gets_nothing_but_ring_errors(garbage: Garbage, event_idx: bool) -> None:
    with GuestMemory.private(MEMORY_SIZE) as memory:
        driver = DriverQueue(memory, LIARS_LAYOUT, "liar", event_idx=event_idx, indirect=True)
        for token in range(3):
            driver.add([(0x800, 10)], [(0x900, 10)], token)
        hand = Hand(memory, LIARS_LAYOUT)
        for at, word in enumerate(garbage[3]):
            hand.set_word(LIARS_LAYOUT.used + 2 * at, word)
        reaped: list[tuple[object, int]] = []
        refusal = refusal_of(lambda: drive(driver, reaped))
        if refusal is not None:
            assert driver.is_broken
            assert str(refusal).startswith("liar: ")
        assert len({token for token, _ in reaped}) == len(reaped) <= 3
        assert all(0 <= written <= 10 for _, written in reaped)
