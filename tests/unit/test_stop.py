"""Signals that ask to stop are a source like any device: readable until taken, and all is put back afterwards."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from launcher.stop import StopRequests
from shared.errors import EXIT_INTERRUPTED, Interrupted
from tests.support.fds import no_new_fds

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def stop() -> Iterator[StopRequests]:
    with StopRequests() as stop:
        yield stop


def is_readable(stop: StopRequests) -> bool:
    return bool(select.select([stop.source.fd], [], [], 0)[0])


def take_all(stop: StopRequests) -> None:
    while is_readable(stop):
        stop.take()


@pytest.mark.parametrize("signo", SIGNALS)
def test_a_signal_makes_the_source_ready_and_is_named_when_taken(stop: StopRequests, signo: signal.Signals) -> None:
    assert not is_readable(stop)
    os.kill(os.getpid(), signo)
    assert is_readable(stop)
    with pytest.raises(Interrupted, match=rf"^stopped by {signo.name}$") as caught:
        stop.take()
    assert caught.value.exit_code == EXIT_INTERRUPTED
    assert not is_readable(stop)


def test_taking_when_none_has_come_does_nothing(stop: StopRequests) -> None:
    stop.take()


def test_a_signal_that_is_no_stop_is_taken_and_stops_nobody(stop: StopRequests) -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        stop.take()
        assert not is_readable(stop)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_stop_behind_many_other_signals_is_not_lost(stop: StopRequests) -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        for _ in range(200):
            os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            take_all(stop)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_one_that_is_ignored_on_purpose_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not is_readable(stop)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_the_wakeup_fd_and_every_fd_are_as_before() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    wakeup_before = signal.set_wakeup_fd(theirs)
    handlers = [signal.getsignal(signo) for signo in SIGNALS]
    try:
        with no_new_fds(), StopRequests():
            assert [signal.getsignal(signo) for signo in SIGNALS] != handlers
        assert [signal.getsignal(signo) for signo in SIGNALS] == handlers
        assert signal.set_wakeup_fd(theirs) == theirs
    finally:
        signal.set_wakeup_fd(wakeup_before)
        os.close(ours)
        os.close(theirs)
