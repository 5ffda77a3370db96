"""A vring fd is ready when the ring has news for whoever looks: its doorbell only says where to look."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from shared.errors import BadAddress, SourceRefused
from shared.memory import GuestMemory
from shared.page import LOOKED_IDX, LOOKS, TAKEN_IDX, Page
from shared.structs import VRING_SLOTS
from shared.vring import RingView, VringFd
from tests.support.fds import no_new_fds

USED_IDX = 0x2002


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def vring(memory: GuestMemory, page: Page) -> Iterator[VringFd]:
    vring = VringFd(memory, page, USED_IDX, 3)
    yield vring
    vring.close()


def publish(memory: GuestMemory, idx: int) -> None:
    memory.u16[USED_IDX >> 1] = idx & 0xFFFF


def is_ringing(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_a_ring_without_news_is_not_ready(vring: VringFd) -> None:
    assert not vring.poll()
    assert vring.read() == 0


def test_a_ring_is_ready_from_the_news_until_it_is_read(memory: GuestMemory, vring: VringFd) -> None:
    publish(memory, 2)
    assert vring.poll()
    assert vring.poll()
    assert vring.read() == 2
    assert not vring.poll()
    assert vring.read() == 0


def test_what_was_used_before_it_was_opened_is_no_news(memory: GuestMemory, page: Page) -> None:
    publish(memory, 41)
    vring = VringFd(memory, page, USED_IDX, 0)
    assert not vring.poll()
    publish(memory, 42)
    assert vring.read() == 1
    vring.close()


@pytest.mark.parametrize("news", [1, 5, 0xFFFF])
def test_the_index_wraps(memory: GuestMemory, page: Page, news: int) -> None:
    publish(memory, 0xFFFE)
    vring = VringFd(memory, page, USED_IDX, 0)
    publish(memory, 0xFFFE + news)
    assert vring.poll()
    assert vring.read() == news
    assert not vring.poll()
    vring.close()


def test_the_doorbell_says_nothing_about_the_ring(memory: GuestMemory, vring: VringFd) -> None:
    os.eventfd_write(vring.doorbell, 1)
    assert is_ringing(vring.fileno())
    assert not vring.poll()
    assert vring.read() == 0
    publish(memory, 1)
    assert vring.poll()


def test_answering_the_doorbell_silences_it_and_notes_what_was_seen(
    memory: GuestMemory, page: Page, vring: VringFd
) -> None:
    publish(memory, 7)
    os.eventfd_write(vring.doorbell, 1)
    vring.view.answer_doorbell(vring.doorbell, memory, page)
    assert not is_ringing(vring.doorbell)
    assert page.words[LOOKED_IDX + 3] == 7
    assert page.words[LOOKS] == 1
    assert vring.poll()  # looking is not taking


def test_a_doorbell_that_did_not_ring_can_be_answered(memory: GuestMemory, page: Page, vring: VringFd) -> None:
    vring.view.answer_doorbell(vring.doorbell, memory, page)
    assert page.words[LOOKS] == 1


def test_a_ring_published_after_the_bell_was_answered_rings_again(
    memory: GuestMemory, page: Page, vring: VringFd
) -> None:
    for turn in range(1, 4):
        publish(memory, turn)
        os.eventfd_write(vring.doorbell, 1)
        assert is_ringing(vring.doorbell)
        vring.view.answer_doorbell(vring.doorbell, memory, page)
        assert page.words[LOOKED_IDX + 3] == turn


def test_writing_tells_the_other_end_and_not_ourselves(vring: VringFd) -> None:
    vring.write()
    assert is_ringing(vring.kick)
    assert not is_ringing(vring.doorbell)


def test_each_looks_through_its_own_mapping(memory: GuestMemory, page: Page, vring: VringFd) -> None:
    with GuestMemory.attach(memory.readonly_fd()) as shared, GuestMemory.private(memory.size) as copy:
        publish(memory, 1)
        assert vring.view.has_news(shared, page)
        assert not vring.view.has_news(copy, page)
        vring.read()
        assert not vring.view.has_news(shared, page)
        assert vring.view.has_news(copy, page)  # what is stale is stale both ways


def test_what_was_taken_is_known_to_whoever_has_the_page(memory: GuestMemory, page: Page, vring: VringFd) -> None:
    publish(memory, 9)
    with Page(os.dup(page.fileno())) as theirs:
        assert vring.view.has_news(memory, theirs)
        vring.read()
        assert theirs.words[TAKEN_IDX + 3] == 9
        assert not vring.view.has_news(memory, theirs)


def test_slots_do_not_know_each_other(memory: GuestMemory, page: Page) -> None:
    vrings = [VringFd(memory, page, USED_IDX + 64 * slot, slot) for slot in (0, 1, VRING_SLOTS - 1)]
    for at, vring in enumerate(vrings):
        memory.u16[vring.view.idx_addr >> 1] = at + 1
        assert [each.poll() for each in vrings] == [each is vring for each in vrings]
        assert vring.read() == at + 1
    for vring in vrings:
        vring.close()


@pytest.mark.parametrize("slot", [-1, VRING_SLOTS, 1 << 40])
def test_a_slot_that_the_page_does_not_have_is_refused(memory: GuestMemory, page: Page, slot: int) -> None:
    with no_new_fds(), pytest.raises(SourceRefused, match=rf"slot {slot} cannot be looked at; .* {VRING_SLOTS} slots"):
        VringFd(memory, page, USED_IDX, slot)
    assert not any(page.words)


@pytest.mark.parametrize("addr", [0x20000, 0x1FFFF, -2, 1 << 63])
def test_an_index_outside_memory_is_refused(memory: GuestMemory, page: Page, addr: int) -> None:
    with no_new_fds(), pytest.raises(BadAddress):
        VringFd(memory, page, addr, 0)


def test_an_index_at_an_odd_address_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(SourceRefused, match="even addresses"):
        RingView(USED_IDX + 1, 0).check(memory)


def test_its_files_are_its_own_and_are_closed(memory: GuestMemory, page: Page) -> None:
    with no_new_fds():
        vring = VringFd(memory, page, USED_IDX, 0)
        assert not os.get_inheritable(vring.doorbell)
        assert not os.get_inheritable(vring.kick)
        vring.close()
