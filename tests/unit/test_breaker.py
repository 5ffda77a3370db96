"""One contract for every kind of breaker: a break is never lost, wherever it lands, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from shared import breaker as breakers
from shared.breaker import KICK_SIGNAL, KINDS, Breaker, BreakHandle, from_handle
from shared.errors import UsageError
from shared.page import BREAK, Page
from tests.support.blocked import once_blocked
from tests.support.fds import no_new_fds


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def breaker(page: Page, kind: str) -> Iterator[Breaker]:
    breaker = breakers.create(kind, page)
    yield breaker
    breaker.close()


def wait_for_break(breaker: Breaker) -> None:
    """Sleep as a halted vCPU does: a wait may return early, the flag decides."""
    while not breaker.is_set():
        breaker.wait()


def in_another_thread(do: Callable[[], object]) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


def in_a_forked_child(do: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


SOMEBODY = pytest.mark.parametrize("somebody", [in_another_thread, in_a_forked_child, lambda do: do()])


def test_it_says_what_it_is(breaker: Breaker, kind: str) -> None:
    assert breaker.kind == kind
    assert breaker.handle().kind == kind


def test_nothing_is_broken_at_first(breaker: Breaker) -> None:
    assert not breaker.is_set()


@SOMEBODY
def test_a_break_that_comes_before_the_wait_ends_it(
    breaker: Breaker, somebody: Callable[[Callable[[], object]], None]
) -> None:
    somebody(breaker.break_out)
    assert breaker.is_set()
    breaker.wait()  # at once: the kick stays until it is taken
    assert breaker.is_set()


def test_a_break_ends_a_wait(breaker: Breaker) -> None:
    with once_blocked(breaker.break_out):
        breaker.wait()
        assert breaker.is_set()


def test_a_break_by_another_process_ends_a_wait(breaker: Breaker) -> None:
    with once_blocked(lambda: in_a_forked_child(breaker.break_out)):
        wait_for_break(breaker)


def test_the_flag_is_set_before_the_kick_can_be_felt(breaker: Breaker) -> None:
    for _ in range(50):
        thread = threading.Thread(target=breaker.break_out)
        thread.start()
        breaker.wait()
        assert breaker.is_set()
        thread.join()
        breaker.clear()


@SOMEBODY
def test_breaking_many_times_is_breaking_once(
    breaker: Breaker, somebody: Callable[[Callable[[], object]], None]
) -> None:
    def many() -> None:
        for _ in range(100):
            breaker.break_out()

    somebody(many)
    breaker.wait()
    breaker.clear()
    assert not breaker.is_set()
    with once_blocked(breaker.break_out):
        wait_for_break(breaker)


def test_a_cleared_break_is_gone_and_the_next_one_counts(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.break_out()
        assert breaker.is_set()
        breaker.clear()
        assert not breaker.is_set()


def test_a_kick_left_over_ends_one_wait_and_loses_no_break(breaker: Breaker) -> None:
    breaker.break_out()
    breaker.clear()  # the Guest left for another reason: nobody took the kick
    breaker.take_kick()
    with once_blocked(breaker.break_out):
        wait_for_break(breaker)
    breaker.clear()
    with once_blocked(breaker.break_out):
        wait_for_break(breaker)


def test_taking_a_kick_that_did_not_come_does_not_wait(breaker: Breaker) -> None:
    breaker.take_kick()
    breaker.take_kick()
    assert not breaker.is_set()


def test_taking_a_kick_leaves_the_flag(breaker: Breaker) -> None:
    breaker.break_out()
    breaker.take_kick()
    assert breaker.is_set()


def test_a_break_between_the_look_and_the_wait_is_not_lost(breaker: Breaker) -> None:
    for _ in range(200):
        assert not breaker.is_set()
        in_another_thread(breaker.break_out)
        wait_for_break(breaker)
        breaker.clear()
        breaker.take_kick()


def test_breaks_that_race_with_clearing_are_not_lost(breaker: Breaker) -> None:
    """Whatever is asked for after a clear is seen: each turn is answered before the next is asked for."""
    turns, answered = 2000, threading.Semaphore(0)

    def break_again_and_again() -> None:
        for _ in range(turns):
            breaker.break_out()
            answered.acquire()

    thread = threading.Thread(target=break_again_and_again)
    thread.start()
    for _ in range(turns):
        wait_for_break(breaker)
        breaker.clear()
        answered.release()
    thread.join()


def test_a_signal_whose_handler_returns_does_not_fail_the_wait(breaker: Breaker) -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGWINCH, lambda signo, frame: handled.append(signo))
    try:
        tid = threading.get_ident()
        with once_blocked(lambda: (signal.pthread_kill(tid, signal.SIGWINCH), breaker.break_out())):
            wait_for_break(breaker)
        assert handled == [signal.SIGWINCH]
    finally:
        signal.signal(signal.SIGWINCH, before)


def test_a_handle_breaks_from_a_process_that_has_nothing_else(page: Page, breaker: Breaker) -> None:
    handle = breaker.handle()

    def break_by_handle() -> None:
        fd = None if handle.fd is None else os.dup(handle.fd)
        with Page(os.dup(page.fileno())) as theirs:
            peer = from_handle(handle._replace(fd=fd), theirs)
            peer.break_out()
            assert peer.is_set()
            peer.close()

    with once_blocked(lambda: in_a_forked_child(break_by_handle)):
        wait_for_break(breaker)


def test_a_peers_end_closes_what_it_was_given_and_no_more(page: Page, breaker: Breaker) -> None:
    handle = breaker.handle()
    with no_new_fds():
        peer = from_handle(handle._replace(fd=None if handle.fd is None else os.dup(handle.fd)), page)
        peer.close()
    breaker.break_out()
    breaker.wait()


def test_closing_leaks_no_fd_and_once_is_enough(page: Page, kind: str) -> None:
    with no_new_fds():
        breaker = breakers.create(kind, page)
        breaker.break_out()
        breaker.close()
        breaker.close()


def test_what_it_opened_is_not_inherited_by_children(breaker: Breaker) -> None:
    fd = breaker.handle().fd
    assert fd is None or not os.get_inheritable(fd)


def test_a_vcpu_that_comes_later_begins_unbroken_and_is_broken_anew(page: Page, kind: str) -> None:
    for _ in range(3):
        breaker = breakers.create(kind, page)
        with once_blocked(breaker.break_out):
            wait_for_break(breaker)
        breaker.clear()
        breaker.close()


def test_an_unknown_kind_is_refused_with_those_that_there_are(page: Page) -> None:
    with pytest.raises(UsageError, match=rf"^breaker 'hammer' is not known; there are {', '.join(KINDS)}$"):
        breakers.create("hammer", page)
    with pytest.raises(UsageError, match=r"^break handle of kind 'hammer' is not known"):
        from_handle(BreakHandle("hammer", 1, 1, None), page)


def test_a_handle_without_the_fd_that_it_needs_is_refused(page: Page) -> None:
    with pytest.raises(UsageError, match=r"^break handle of kind 'eventfd'"):
        from_handle(BreakHandle("eventfd", 0, 0, None), page)


# --- what is special about a signal


def kick_is_blocked() -> bool:
    return KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_kick_signal_is_blocked_only_while_there_is_a_vcpu(page: Page) -> None:
    assert not kick_is_blocked()
    breaker = breakers.create("signal", page)
    assert kick_is_blocked()
    breaker.close()
    assert not kick_is_blocked()


def test_a_kick_signal_that_was_blocked_before_stays_blocked(page: Page) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
    try:
        breakers.create("signal", page).close()
        assert kick_is_blocked()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})


def test_a_kick_that_nobody_took_does_not_kill_us_when_the_signal_is_unblocked(page: Page) -> None:
    breaker = breakers.create("signal", page)
    in_a_forked_child(breaker.break_out)
    assert KICK_SIGNAL in signal.sigpending()
    breaker.close()
    assert KICK_SIGNAL not in signal.sigpending()


def test_closing_the_peers_end_leaves_the_signal_mask_alone(page: Page) -> None:
    breaker = breakers.create("signal", page)
    from_handle(breaker.handle(), page).close()
    assert kick_is_blocked()
    breaker.close()


def test_only_the_vcpus_thread_is_kicked(page: Page) -> None:
    breaker = breakers.create("signal", page)
    pending: list[bool] = []
    breaker.break_out()
    in_another_thread(lambda: pending.append(KICK_SIGNAL in signal.sigpending()))
    assert pending == [False]
    assert KICK_SIGNAL in signal.sigpending()
    breaker.close()


def test_breaking_a_launcher_that_has_gone_is_no_error(page: Page) -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    peer = from_handle(BreakHandle("signal", pid, pid, None), page)
    peer.break_out()
    assert page.words[BREAK] == 1


def test_a_thread_number_that_is_another_process_now_is_not_hit(page: Page) -> None:
    """The number of a thread that ended may come back: only the pair names it."""
    parent = os.getppid()
    from_handle(BreakHandle("signal", os.getpid(), parent, None), page).break_out()
    os.kill(parent, 0)
