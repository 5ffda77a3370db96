"""What a long measurement does with the terminal it was started from."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.tables import printed
from shared.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_progress_is_a_line_and_no_thread_beside_what_is_measured(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    controller, terminal = os.openpty()
    with os.fdopen(controller, "rb", buffering=0) as at, os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        threads = threading.active_count()
        with progress() as tell:
            tell("block 1: :/fix [/x]\x1b[2J")
            assert threading.active_count() == threads
        print("end", file=stderr, flush=True)
        said = b""
        while not said.endswith(b"end\r\n"):  # a terminal gives what it has by now
            said += at.read(4096)
    line = b"\r\x1b[Kblock 1: :/fix [/x]\\x1b[2J \r\x1b[K" if term == "xterm" else b""
    assert said == line + b"end\r\n"


def test_progress_says_nothing_where_nobody_looks_on(capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        tell("block 1")
    assert capfd.readouterr().err == ""


def test_a_signal_that_nohup_has_us_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminated_as_interrupted():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back what a measurement that was stopped leaves: it ignores every stop until it has ended."""
    before = {signo: signal.getsignal(signo) for signo in STOPS}
    yield
    for signo, handler in before.items():
        signal.signal(signo, handler)


@pytest.mark.parametrize("first", STOPS)
@pytest.mark.parametrize("second", STOPS)
def test_the_first_stop_is_heeded_and_no_later_one_disturbs_the_report(
    first: signal.Signals, second: signal.Signals
) -> None:
    with terminated_as_interrupted():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(first)
        signal.raise_signal(second)
    signal.raise_signal(second)  # at its exit, Python would be killed by it


def test_what_was_not_stopped_can_be_stopped_by_others_as_before() -> None:
    before = {signo: signal.getsignal(signo) for signo in STOPS}
    with terminated_as_interrupted():
        pass
    assert {signo: signal.getsignal(signo) for signo in STOPS} == before


@pytest.mark.parametrize(("found", "code"), [(0, 130), (2, 130), (4, 4)])
def test_a_stop_while_it_is_printed_hides_nothing_worse(found: int, code: int) -> None:
    with pytest.raises(Interrupted) as caught, printed(found):
        raise KeyboardInterrupt
    assert caught.value.exit_code == code
