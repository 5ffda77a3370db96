"""Signals that ask to stop are a source like any device: readable until taken, and all is put back afterwards."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from launcher.restart import begin_anew
from launcher.stop import StopRequests
from shared.errors import EXIT_INTERRUPTED, CannotRunError, Interrupted
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


def test_a_signal_that_came_before_they_are_held_back_is_not_lost(stop: StopRequests) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        stop.hold_back()


def test_nor_is_one_that_came_behind_many_others(stop: StopRequests) -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        for _ in range(200):
            os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.hold_back()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_that_comes_once_they_are_held_back_waits_for_who_comes_after() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with StopRequests() as first:
        first.hold_back()
        signal.raise_signal(signal.SIGHUP)  # to this thread: the others of a test runner would let it in
        assert not is_readable(first)
        with StopRequests(is_continued=True) as second:
            with pytest.raises(Interrupted, match="SIGHUP"):
                second.take()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_who_comes_after_gets_the_rest_of_the_time() -> None:
    with StopRequests(timeout_s=1000) as first:
        first.hold_back()
        with StopRequests(timeout_s=2000, is_continued=True):
            assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000


def test_a_program_that_is_not_there_any_more_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(CannotRunError, match=r"^restart: cannot run /no/such/python again: No such file"):
        with StopRequests() as stop:
            begin_anew(stop, 1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


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
