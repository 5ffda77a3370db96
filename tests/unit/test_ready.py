"""The Launcher looks with its own eyes, without waiting, and is not confused by files that come and go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.ready import ReadySet
from shared.memory import GuestMemory
from shared.page import Page
from shared.vring import RingView
from tests.support.fds import no_new_fds
from waker import Source

USED_IDX = 0x2002


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def ready_set(memory: GuestMemory, page: Page) -> Iterator[ReadySet]:
    ready_set = ReadySet(memory, page)
    yield ready_set
    ready_set.close()


class Bell(Source):
    """An eventfd that is watched."""

    def __init__(self, ring: RingView | None = None) -> None:
        super().__init__(os.eventfd(0, os.EFD_NONBLOCK), "bell", ring)

    def ring_it(self) -> None:
        os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        os.eventfd_read(self.fd)

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def bells() -> Iterator[tuple[Bell, Bell]]:
    both = Bell(), Bell()
    yield both
    for bell in both:
        with contextlib.suppress(OSError):  # the test closed it
            bell.close()


def test_nothing_is_ready_of_nothing(ready_set: ReadySet) -> None:
    assert ready_set.ready() == []
    assert ready_set.lost() == []


def test_ready_is_what_is_readable_for_as_long_as_it_is(ready_set: ReadySet, bells: tuple[Bell, Bell]) -> None:
    first, second = bells
    ready_set.add(first)
    ready_set.add(second)
    assert ready_set.ready() == []
    second.ring_it()
    assert ready_set.ready() == [second]
    assert ready_set.ready() == [second]
    first.ring_it()
    assert set(ready_set.ready()) == {first, second}
    second.silence()
    assert ready_set.ready() == [first]


def test_what_was_ready_before_it_was_added_is_ready(ready_set: ReadySet, bells: tuple[Bell, Bell]) -> None:
    bells[0].ring_it()
    ready_set.add(bells[0])
    assert ready_set.ready() == [bells[0]]


def test_adding_twice_is_adding_once(ready_set: ReadySet, bells: tuple[Bell, Bell]) -> None:
    bells[0].ring_it()
    ready_set.add(bells[0])
    ready_set.add(bells[0])
    assert ready_set.ready() == [bells[0]]
    ready_set.remove(bells[0])
    assert ready_set.ready() == []


def test_what_was_removed_is_not_ready_and_removing_it_again_does_nothing(
    ready_set: ReadySet, bells: tuple[Bell, Bell]
) -> None:
    for bell in bells:
        bell.ring_it()
        ready_set.add(bell)
    ready_set.remove(bells[0])
    ready_set.remove(bells[0])
    assert ready_set.ready() == [bells[1]]


def test_a_regular_file_is_always_ready_until_it_is_removed(ready_set: ReadySet, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with path.open("rb") as file:
        source = Source(file.fileno(), "file")
        ready_set.add(source)
        assert ready_set.ready() == [source]
        assert ready_set.ready() == [source]
        ready_set.remove(source)
        assert ready_set.ready() == []


def test_a_closed_file_is_named_and_the_others_are_not(ready_set: ReadySet, bells: tuple[Bell, Bell]) -> None:
    for bell in bells:
        ready_set.add(bell)
    bells[0].close()
    assert ready_set.lost() == [bells[0]]


def test_a_file_is_lost_although_its_number_is_open_again_and_a_copy_lives_on(
    ready_set: ReadySet, bells: tuple[Bell, Bell]
) -> None:
    for bell in bells:
        ready_set.add(bell)
    copy = os.dup(bells[0].fd)
    assert ready_set.lost() == []
    os.dup2(bells[1].fd, bells[0].fd, inheritable=False)
    assert ready_set.lost() == [bells[0]]
    assert bells[0] in ready_set
    ready_set.remove(bells[0])
    assert ready_set.lost() == []
    assert bells[0] not in ready_set
    assert bells[1] in ready_set
    os.close(copy)


def test_what_has_the_number_of_a_lost_file_is_not_ready_when_another_is_removed(
    ready_set: ReadySet, bells: tuple[Bell, Bell]
) -> None:
    for bell in bells:
        ready_set.add(bell)
    stranger = Bell()
    os.dup2(stranger.fd, bells[0].fd, inheritable=False)
    stranger.ring_it()
    os.close(bells[1].fd)
    ready_set.remove(bells[1])
    assert ready_set.ready() == []
    assert ready_set.lost() == [bells[0]]
    stranger.close()


def test_a_source_displaces_another_that_had_its_number(ready_set: ReadySet, bells: tuple[Bell, Bell]) -> None:
    for bell in bells:
        ready_set.add(bell)
    assert ready_set.displaced_by(bells) == []
    other = Source(bells[0].fd, "other")
    assert ready_set.displaced_by([bells[1], other]) == [bells[0]]


def test_a_number_that_comes_back_as_another_file_is_another_source(
    ready_set: ReadySet, bells: tuple[Bell, Bell]
) -> None:
    old, neighbour = bells
    ready_set.add(old)
    ready_set.add(neighbour)
    old.ring_it()
    old.close()
    new = Bell()
    try:
        assert new.fd == old.fd
        ready_set.add(new)
        assert ready_set.ready() == []
        ready_set.remove(old)  # says nothing about the new one
        new.ring_it()
        neighbour.ring_it()
        assert set(ready_set.ready()) == {new, neighbour}
    finally:
        ready_set.remove(new)


def test_a_file_that_lives_on_in_another_process_after_it_was_closed_here_is_forgotten(
    ready_set: ReadySet, bells: tuple[Bell, Bell]
) -> None:
    old, neighbour = bells
    alive = os.dup(old.fd)  # as the Waker's copy of it is
    try:
        ready_set.add(old)
        ready_set.add(neighbour)
        old.ring_it()
        old.close()
        ready_set.remove(old)
        neighbour.ring_it()
        assert ready_set.ready() == [neighbour]
    finally:
        os.close(alive)


def test_a_ring_is_ready_when_its_index_moved_and_not_when_its_bell_rang(
    ready_set: ReadySet, memory: GuestMemory
) -> None:
    bell = Bell(RingView(USED_IDX, 0))
    try:
        ready_set.add(bell)
        bell.ring_it()
        assert ready_set.ready() == []
        memory.u16[USED_IDX >> 1] = 1
        assert ready_set.ready() == [bell]
        ready_set.remove(bell)
        assert ready_set.ready() == []
    finally:
        bell.close()


def test_closing_gives_back_its_epoll(memory: GuestMemory, page: Page, bells: tuple[Bell, Bell]) -> None:
    with no_new_fds():
        ready_set = ReadySet(memory, page)
        ready_set.add(bells[0])
        ready_set.close()


def test_a_regular_file_without_room_is_left_alone_like_any_other(
    ready_set: ReadySet, memory: GuestMemory, tmp_path: Path
) -> None:
    path = tmp_path / "input"
    path.write_text("typed")
    with path.open("rb") as file:
        source = Source(file.fileno(), "input", None, RingView(USED_IDX, 0))
        ready_set.add(source)
        assert ready_set.ready() == []
        memory.u16[USED_IDX >> 1] = 1
        assert ready_set.ready() == [source]
