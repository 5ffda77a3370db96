"""A fault in a Waker's name: how it is read, what it does, and that it travels to where the break is sent."""

from __future__ import annotations

from time import monotonic_ns

import pytest

import waker
from shared import breaker as breakers
from shared.breaker import FaultyBreaker
from shared.errors import UsageError
from shared.fault import Fault, parse
from shared.page import Page


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ([], None),
        (["delay=2"], Fault(2000)),
        (["delay=0.5"], Fault(500)),
        (["drop=10000"], Fault(0, 10_000)),
        (["drop=10@7"], Fault(0, 10, 7)),
        (["delay=2", "drop=10"], Fault(2000, 10)),
    ],
)
def test_options_are_a_fault_and_back(options: list[str], fault: Fault | None) -> None:
    assert parse(options) == fault
    if fault is not None:
        assert parse(str(fault).split("+")) == fault


@pytest.mark.parametrize("option", ["delay", "delay=", "delay=0", "delay=-1", "delay=nan", "delay=inf", "delay=1e9"])
def test_a_delay_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="is not delay=US"):
        parse([option])


@pytest.mark.parametrize("option", ["drop", "drop=0", "drop=-1", "drop=x", "drop=1@", "drop=1@-1", "drop=1.5"])
def test_a_drop_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="or drop=N"):
        parse([option])


def test_every_so_many_breaks_one_is_dropped_counted_from_where_others_left_off() -> None:
    assert [Fault(0, 3).strikes()() for _ in range(3)] == [False] * 3  # each counts for itself
    strike = Fault(0, 3).strikes()
    assert [strike() for _ in range(7)] == [False, False, True, False, False, True, False]
    strike = Fault(0, 3, 2).strikes()
    assert [strike() for _ in range(2)] == [True, False]


def test_a_delay_is_waited_at_each_break() -> None:
    strike = Fault(200_000).strikes()
    began_ns = monotonic_ns()
    assert [strike() for _ in range(3)] == [False] * 3
    assert monotonic_ns() - began_ns >= 600_000


def test_a_waker_s_name_says_what_is_wrong_with_it() -> None:
    assert waker.parse("process/select").fault is None
    name = waker.parse("process/select+futex+ring-aware+drop=5")
    assert (name.breaker, name.is_ring_aware, name.fault) == ("futex", True, Fault(0, 5))


def test_the_fault_travels_with_the_handle() -> None:
    with Page.create() as page:
        ours = breakers.create("futex", page)
        theirs = breakers.from_handle(FaultyBreaker(ours, Fault(0, 2)).handle(), page)
        theirs.break_out()
        assert ours.is_set()
        ours.clear()
        theirs.break_out()  # the second one
        assert not ours.is_set()
        theirs.break_out()
        assert ours.is_set()
        for breaker in (ours, theirs):
            breaker.close()


def test_a_handle_with_a_fault_that_is_none_is_refused() -> None:
    with Page.create() as page, pytest.raises(UsageError, match="fault 'drop=0' is not"):
        breakers.from_handle(breakers.BreakHandle("futex+drop=0"), page)
