"""Every breaker under every place, on each engine that it stops: the rules that hang on it, and how it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import waker
from launcher import engines
from launcher.check.endurance import endure
from launcher.check.report import PASS, try_rule
from launcher.check.rules import RULES
from shared import breaker as breakers
from shared.breaker import KINDS
from shared.page import Page
from tests.support.breakers import open_breaker, skip_what_is_missing
from tests.support.sessions import run_launcher, skip_unless_it_runs

ROOT = Path(breakers.__file__).parents[1]
WAKES = 1000
SPINNING_WAKES = 100

PAIRS = [
    pytest.param(kind, engine, marks=[pytest.mark.kvm] if engine == "kvm" else [], id=f"{engine}-{kind}")
    for engine in engines.names()
    for kind in engines.get(engine).breakers[1:]  # the first is its default, which tests/contract/test_wakers.py tries
    # It sleeps as python does, whatever wakes it: its default is a file, and here is one that is none.
    if engine != "unicorn" or kind == "signal"
]
PLACES = sorted({waker.parse(name).place for name in waker.names()} - {"inline"})

OF_THE_SET = ("W4", "W7", "W8", "W11")
"""Those about what is watched, in which a breaker only makes the break: under one place."""

every_pair = pytest.mark.parametrize(("kind", "engine"), PAIRS)
every_place = pytest.mark.parametrize("place", PLACES)


def named(place: str, kind: str, engine: str) -> str:
    """Return the Waker's name; skip where it cannot run."""
    skip_what_is_missing(kind)
    name = f"{place}/select+{kind}"
    skip_unless_it_runs(name, engine)
    return name


@every_pair
@pytest.mark.parametrize(
    ("rule", "place"),
    [(rule, place) for rule in RULES for place in PLACES if rule not in OF_THE_SET or place == "process"],
)
def test_a_waker_keeps_the_rule_with_it(rule: str, place: str, kind: str, engine: str) -> None:
    outcome, detail = try_rule(rule, named(place, kind, engine), engine)
    assert outcome == PASS, detail


@every_pair
@every_place
def test_many_wakes_in_a_row_are_all_served(place: str, kind: str, engine: str) -> None:
    assert endure(named(place, kind, engine), engine, WAKES).served == WAKES


@every_pair
@every_place
def test_a_guest_that_computes_is_woken_every_time(place: str, kind: str, engine: str) -> None:
    assert endure(named(place, kind, engine), engine, SPINNING_WAKES, guest="spin").served == SPINNING_WAKES


def test_every_breaker_is_tried_here_or_is_the_default_of_an_engine() -> None:
    defaults = {engines.get(name).breakers[0] for name in engines.names()}
    assert {pair.values[0] for pair in PAIRS} | defaults == set(KINDS)


# --- asked for by name


def rows(*args: str) -> list[dict[str, object]]:
    done = run_launcher(*args, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_they_are_listed_with_the_engines_that_they_stop() -> None:
    found = rows("list", "breakers")
    assert [row["name"] for row in found] == list(KINDS)
    for row in found:
        kind = str(row["name"])
        assert row["engines"] == [e.name for e in engines.of_breaker(kind)]
        assert row["default_of"] == [name for name in engines.names() if engines.get(name).breakers[0] == kind]
        reasons = [e.why_not() for e in engines.of_breaker(kind)]
        assert row["why_not"] == (breakers.missing(kind) or (reasons[0] if all(reasons) else None))
        assert row["description"] == breakers.description(kind)
    assert sorted(name for row in found for name in row["default_of"]) == sorted(engines.names())  # type: ignore[attr-defined]


def test_the_list_for_people_names_the_engines_too() -> None:
    lines = run_launcher("list", "breakers").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(KINDS)
    assert "[unicorn: default, python: default]" in next(line for line in lines if line.startswith("eventfd"))
    assert "[kvm: default, unicorn, python]" in next(line for line in lines if line.startswith("signal"))


def test_a_wakers_row_says_what_it_can_stop_each_engine_with() -> None:
    for row in rows("list", "wakers"):
        expected = {name: list(engines.get(name).breakers) for name in engines.names()}
        assert row["breakers"] == ({} if row["place"] == "inline" else expected)


def test_a_check_takes_the_engines_default_unless_told() -> None:
    found = rows("check", "--engine=python", "--waker=thread/select", "--rule=W1")
    assert [row["waker"] for row in found] == ["thread/select"]


def test_a_check_of_all_breakers_names_each_of_those_that_stop_the_engine() -> None:
    kinds = engines.get("python").breakers
    found = rows("check", "--engine=python", "--waker=thread/select", "--rule=W1", "--breaker=all")
    assert [row["waker"] for row in found] == [f"thread/select+{kind}" for kind in kinds]
    assert {row["outcome"] for row in found} <= {"pass", "skip"}


def test_a_check_of_two_breakers_tries_these() -> None:
    found = rows("check", "--engine=python", "--waker=thread/select", "--rule=W1", "--breaker=futex", "--breaker=pipe")
    assert [row["waker"] for row in found] == ["thread/select+pipe", "thread/select+futex"]


def test_a_check_of_an_inline_waker_takes_it_as_it_is() -> None:
    assert [row["waker"] for row in rows("check", "--waker=inline/uring", "--rule=W1", "--breaker=all")] == [
        "inline/uring"
    ] * len(engines.names())
    found = rows("check", "--waker=inline/uring", "--waker=thread/poll", "--rule=W1", "--breaker=signal")
    assert [row["outcome"] for row in found if str(row["waker"]).startswith("inline")] == ["skip"] * len(
        engines.names()
    )


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--breaker=hammer"], f"breaker 'hammer' is not known; there are all, {', '.join(KINDS)}"),
        (
            ["--engine=python", "--breaker=immediate"],
            "breaker 'immediate' cannot stop engine python; take one that can "
            f"({', '.join(engines.get('python').breakers)}), or engine kvm",
        ),
        (
            ["--engine=python", "--waker=thread/select+immediate"],
            "waker 'thread/select+immediate': breaker 'immediate' cannot stop engine python; take one that can "
            f"({', '.join(engines.get('python').breakers)}), or engine kvm",
        ),
        (
            ["--waker=inline/uring+signal"],
            "waker 'inline/uring+signal' breaks the Guest by itself; leave out '+signal'",
        ),
        (
            ["--waker=thread/select+signal", "--breaker=futex"],
            "waker 'thread/select+signal' names its breaker; leave out --breaker or '+signal'",
        ),
    ],
)
def test_a_check_of_what_cannot_work_is_refused(args: list[str], sentence: str) -> None:
    done = run_launcher("check", *args)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"launcher: {sentence}\n")


def test_a_check_of_a_pair_that_cannot_work_skips_it_with_the_reason() -> None:
    found = rows("check", "--waker=thread/select+immediate", "--rule=W1")
    (row,) = [row for row in found if row["engine"] == "python"]
    assert row["outcome"] == "skip"
    assert "cannot stop engine python" in str(row["detail"])


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_works_or_is_refused_in_one_sentence_that_says_what_works(kind: str, engine: str) -> None:
    works = engines.get(engine).breakers
    name = f"process/select+{kind}"
    if kind in works:
        name = named("process", kind, engine)
        done = run_launcher("run", f"--engine={engine}", f"--waker={name}", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
        return
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", f"--waker={name}")
    others = " or ".join(other.name for other in engines.of_breaker(kind))
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"launcher: waker '{name}': breaker '{kind}' cannot stop engine {engine}; take one that can "
        f"({', '.join(works)}), or engine {others}\n",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_an_engine_that_the_breaker_stops(kind: str) -> None:
    name = f"process/select+{kind}"
    if not any(engine.why_not() is None for engine in engines.of_breaker(kind)):
        done = run_launcher("run", f"--waker={name}")
        assert done.returncode == 77
        assert f"breaker '{kind}' stops engine kvm alone, and that cannot run here: " in done.stderr.decode()
        return
    skip_what_is_missing(kind)
    done = run_launcher("run", f"--waker={name}", input=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr


LOADED_BY_A_PEER = """
import sys, waker.places.process, waker.strategies.select
from shared.breaker import BreakHandle, from_handle
from shared.page import Page
page_fd, kind, numbers, fds = sys.argv[1:]
numbers, fds = (tuple(map(int, given.split())) for given in (numbers, fds))
from_handle(BreakHandle(kind, numbers, fds), Page(int(page_fd)))
print(*sys.modules)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_waker_imports_nothing_of_the_kinds_that_it_does_not_use(kind: str) -> None:
    """What it is stopped by costs a Waker process one file."""
    with Page.create() as page, open_breaker(kind, page) as breaker:
        handle = breaker.handle()
        fds = (page.fileno(), *handle.fds)
        numbers = (" ".join(map(str, given)) for given in (handle.numbers, handle.fds))
        loaded = subprocess.run(
            [sys.executable, "-S", "-P", "-c", LOADED_BY_A_PEER, str(page.fileno()), kind, *numbers],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            pass_fds=fds,
        ).stdout.split()
    assert [name for name in loaded if name.startswith("shared.breakers.")] == [f"shared.breakers.{kind}"]
    assert "posix_ipc" not in loaded
