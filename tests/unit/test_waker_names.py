"""A Waker's name says who waits, how readiness is learnt and, after a plus, how the vCPU is stopped."""

from __future__ import annotations

import pytest

import waker
from shared import breaker as breakers
from shared.breaker import KINDS
from shared.errors import UsageError
from shared.memory import GuestMemory
from shared.page import Page
from tests.support.fds import no_new_fds
from waker.strategies import strategy_names


def test_there_are_the_three_historical_wakers() -> None:
    assert {"fork/select", "thread/select", "process/select"} <= set(waker.names())


def test_every_strategy_has_a_place_to_run_in() -> None:
    assert {name.partition("/")[2] for name in waker.names()} == set(strategy_names("Strategy")) | set(
        strategy_names("Inline")
    )


def test_no_name_is_listed_twice() -> None:
    assert len(waker.names()) == len(set(waker.names()))


@pytest.mark.parametrize("name", waker.names())
def test_a_name_that_is_listed_can_be_taken_apart_and_put_together(name: str) -> None:
    parsed = waker.parse(name)
    assert f"{parsed.place}/{parsed.strategy}" == name
    assert parsed.breaker is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", waker.names())
def test_any_breaker_can_be_asked_for(name: str, kind: str) -> None:
    parsed = waker.parse(f"{name}+{kind}")
    assert parsed == waker.parse(name)._replace(breaker=kind)


@pytest.mark.parametrize("name", waker.names())
def test_a_name_that_is_listed_runs_here_or_says_why_not(name: str) -> None:
    reason = waker.why_not(name)
    assert reason is None or (reason and "\n" not in reason)


@pytest.mark.parametrize("name", waker.names())
def test_a_description_is_one_line_of_words(name: str) -> None:
    description = waker.description(name)
    assert description
    assert "\n" not in description
    assert "None" not in description


def test_only_a_forked_waker_needs_private_memory() -> None:
    private = [name for name in waker.names() if waker.parse(name).needs_private_memory]
    assert private == [name for name in waker.names() if name.startswith("fork/")]


@pytest.mark.parametrize(
    "name",
    ["", "select", "/", "process", "process/", "/select", "process/select/", "process/telepathy", "Process/select",
     "process /select", "thread/__init__", "thread/../places", "+signal"],
)  # fmt: skip
def test_a_name_that_nobody_has_is_refused_with_those_that_there_are(name: str) -> None:
    for ask in (waker.parse, waker.why_not, waker.description):
        with pytest.raises(UsageError) as refusal:
            ask(name)
        assert str(refusal.value) == f"waker '{name}' is not known; there are {', '.join(waker.names())}"


@pytest.mark.parametrize("kind", ["", "hammer", "Signal", " signal"])
def test_a_breaker_that_nobody_has_is_refused_with_those_that_there_are(kind: str) -> None:
    name = f"process/select+{kind}"
    with pytest.raises(UsageError) as refusal:
        waker.parse(name)
    assert str(refusal.value) == f"breaker '{kind}' of waker '{name}' is not known; there are {', '.join(KINDS)}"


def test_starting_a_waker_that_nobody_has_opens_nothing(memory: GuestMemory) -> None:
    with Page.create() as page:
        breaker = breakers.create("eventfd", page)
        with no_new_fds(), pytest.raises(UsageError):
            waker.start("process/telepathy", memory, page, breaker)
        breaker.close()
