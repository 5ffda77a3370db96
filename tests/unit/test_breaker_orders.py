"""The orders that breakers hang on: two stores, a store and a load, a count that is taken as a whole.

What happens in between is made certain here, and each protection is shown to be one by the loss without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest

from shared.breakers.immediate import ImmediateBreaker
from shared.linux import Semaphore
from shared.page import Page
from tests.support.breakers import exit_flag, open_breaker
from tests.support.stores import HappeningAfter, StoreBuffer
from waker.places.child import do_nothing


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def immediate(page: Page) -> Iterator[ImmediateBreaker]:
    with exit_flag() as flag:
        breaker = ImmediateBreaker.create(page, flag)
        yield breaker
        breaker.close()


def break_in_this_order(breaker: ImmediateBreaker) -> None:
    breaker.break_out()


def break_byte_first(breaker: ImmediateBreaker) -> None:
    breaker._byte[0] = 1
    breaker._set()


@pytest.mark.parametrize(("break_out", "is_lost"), [(break_in_this_order, False), (break_byte_first, True)])
def test_a_vcpu_that_takes_its_kick_between_the_stores_of_a_break_knows_of_it_or_does_not_enter(
    immediate: ImmediateBreaker, break_out: Callable[[ImmediateBreaker], None], is_lost: bool
) -> None:
    knows = []

    def take_the_kick_and_look() -> None:
        immediate.take_kick()
        knows.append(immediate.is_set())

    waker = copy.copy(immediate)
    waker._words = HappeningAfter(immediate._words, take_the_kick_and_look)  # type: ignore[assignment]
    waker._byte = HappeningAfter(immediate._byte, lambda: None if knows else take_the_kick_and_look())  # type: ignore[assignment]
    break_out(waker)
    assert immediate.is_set()
    assert (knows[0] or immediate._byte[0] == 1) != is_lost


@pytest.mark.parametrize("is_fenced", [True, False])
def test_the_byte_of_a_break_is_not_wiped_out_by_a_kick_that_was_taken_before_it(
    monkeypatch: pytest.MonkeyPatch, immediate: ImmediateBreaker, is_fenced: bool
) -> None:
    vcpu = copy.copy(immediate)
    late = vcpu._byte = StoreBuffer(immediate._byte)  # type: ignore[assignment]
    monkeypatch.setattr("shared.breakers.immediate.fence", late.drain if is_fenced else do_nothing)
    vcpu.take_kick()
    assert not vcpu.is_set()
    immediate.break_out()
    late.drain()
    assert immediate._byte[0] == (1 if is_fenced else 0)


def test_one_wait_takes_all_that_was_posted(page: Page) -> None:
    # A Guest that computes takes no kick; each that it left would end one of its sleeps later.
    with open_breaker("semaphore", page) as breaker:
        for _ in range(100):
            breaker.break_out()
        breaker.wait()
        assert not Semaphore(page.semaphore_address()).try_wait()
