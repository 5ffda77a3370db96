"""What a long measurement does with the terminal it was started from."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from launcher.bench.show.terminal import progress, terminated_as_interrupted


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
        said = at.read(4096)
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
