"""What comes after IMAGE reaches the Guest, on every engine, byte for byte."""

from __future__ import annotations

import pytest

from launcher import engines
from launcher.config import RunConfig
from shared.errors import UsageError
from shared.memory import PAGE_SIZE
from tests.support.sessions import run_launcher, skip_unless_it_runs

SOME = [
    [],
    [""],
    ["one"],
    ["two", "words"],
    ["with a space", "", "ümlaut", "\udcff"],  # the last: a byte that is no UTF-8
    ["x" * 1000, "y" * 1000],
]


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("args", SOME, ids=range(len(SOME)))
def test_the_guest_says_its_arguments(args: list[str], engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", "say", *args)
    said = b"".join(arg.encode(errors="surrogateescape") + b"\n" for arg in args)
    assert (done.returncode, done.stdout) == (0, said), done.stderr


def test_what_begins_with_a_dash_comes_after_two_of_them() -> None:
    done = run_launcher("run", "--engine=python", "say", "plain", "--", "--memory", "-x")
    assert done.stdout == b"plain\n--memory\n-x\n"


def test_as_many_as_fit_a_page_and_no_more() -> None:
    fits = "x" * (PAGE_SIZE - 5)
    assert len(RunConfig(args=(fits,)).command_line) == PAGE_SIZE
    with pytest.raises(UsageError, match=rf"^arguments of {PAGE_SIZE + 1} bytes are over {PAGE_SIZE}; give the Guest "):
        RunConfig(args=(fits + "x",))


@pytest.mark.parametrize("engine", engines.names())
def test_a_page_full_of_them_is_said(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    text = "x" * (PAGE_SIZE - 5)
    assert run_launcher("run", f"--engine={engine}", "say", text).stdout == text.encode() + b"\n"
