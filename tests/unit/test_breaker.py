"""One contract for every kind of breaker: a break is never lost, wherever it lands, and nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher import engines
from shared import breaker as breakers
from shared.breaker import KICK_SIGNAL, KINDS, Breaker, BreakHandle, ExitFlag, from_handle
from shared.errors import CannotRunError, UsageError
from shared.page import BREAK, Page
from tests.support.blocked import once_blocked
from tests.support.breakers import exit_flag, kick, open_breaker, passed_on
from tests.support.fds import no_new_fds, open_fds


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
    with open_breaker(kind, page) as breaker:
        yield breaker


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
        with Page(os.dup(page.fileno())) as theirs:
            peer = from_handle(passed_on(handle), theirs)
            peer.break_out()
            assert peer.is_set()
            peer.close()

    with once_blocked(lambda: in_a_forked_child(break_by_handle)):
        wait_for_break(breaker)


def test_a_peers_end_closes_what_it_was_given_and_no_more(page: Page, breaker: Breaker) -> None:
    handle = breaker.handle()
    with no_new_fds():
        peer = from_handle(passed_on(handle), page)
        peer.close()
        peer.close()
    breaker.break_out()
    breaker.wait()


def test_closing_leaks_no_fd_and_once_is_enough(page: Page, kind: str) -> None:
    with no_new_fds(), open_breaker(kind, page) as breaker:
        breaker.break_out()
        breaker.close()


def test_what_it_opened_is_not_inherited_by_children(page: Page, kind: str) -> None:
    before = open_fds()
    with open_breaker(kind, page):
        opened = open_fds().keys() - before.keys()
        assert not [fd for fd in opened if os.get_inheritable(int(fd))]


def test_a_vcpu_that_comes_later_begins_unbroken_and_is_broken_anew(page: Page, kind: str) -> None:
    for _ in range(3):
        with open_breaker(kind, page) as breaker:
            assert not breaker.is_set()
            with once_blocked(breaker.break_out):
                wait_for_break(breaker)
            breaker.clear()


def test_an_unknown_kind_is_refused_with_those_that_there_are(page: Page) -> None:
    with pytest.raises(UsageError, match=rf"^breaker 'hammer' is not known; there are {', '.join(KINDS)}$"):
        breakers.create("hammer", page)
    with pytest.raises(UsageError, match=r"^break handle of kind 'hammer' is not known"):
        from_handle(BreakHandle("hammer", (1, 1)), page)


@pytest.mark.parametrize("numbers", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("fds", [0, 1, 2])
def test_a_handle_of_another_shape_is_refused_and_its_fds_are_closed(
    page: Page, breaker: Breaker, numbers: int, fds: int
) -> None:
    handle = breaker.handle()
    if (numbers, fds) == (len(handle.numbers), len(handle.fds)):
        return
    with no_new_fds(), pytest.raises(UsageError, match=rf"^break handle of kind '{handle.kind}' has \d numbers and"):
        from_handle(BreakHandle(handle.kind, (1,) * numbers, tuple(os.eventfd(0) for _ in range(fds))), page)


def test_a_handle_of_no_kind_is_refused_and_its_fds_are_closed(page: Page) -> None:
    with no_new_fds(), pytest.raises(UsageError, match=r"^break handle of kind '../page' is not known"):
        from_handle(BreakHandle("../page", (), (os.eventfd(0),)), page)


def test_kicks_that_nobody_takes_fill_nothing_up_and_hide_no_break(breaker: Breaker) -> None:
    """A Guest that computes never waits, so no kick of its life is taken: more of them than a pipe holds."""
    for _ in range(70_000):
        breaker.break_out()
        breaker.clear()
    breaker.take_kick()
    with once_blocked(breaker.break_out):
        wait_for_break(breaker)
    breaker.clear()
    # All but a few are gone at once: no sleep is ended for nothing 70,000 times.
    early = 0
    with once_blocked(breaker.break_out):
        while not breaker.is_set():
            breaker.wait()
            early += 1
    assert early <= 3


def test_a_kick_without_a_flag_is_no_break(page: Page, breaker: Breaker) -> None:
    for _ in range(3):
        kick(breaker, page)
        assert not breaker.is_set()
    breaker.take_kick()
    with once_blocked(breaker.break_out):
        wait_for_break(breaker)


def test_every_kind_says_what_it_is_in_one_line(kind: str) -> None:
    description = breakers.description(kind)
    assert description.strip()
    assert "\n" not in description


def test_every_kind_can_be_made_here_or_says_why_not(page: Page, kind: str) -> None:
    reason = breakers.missing(kind)
    if reason is None:
        with exit_flag() as flag:
            breakers.create(kind, page, flag).close()
    else:
        with exit_flag() as flag, pytest.raises(CannotRunError) as refusal:
            breakers.create(kind, page, flag)
        assert str(refusal.value) == f"breaker '{kind}' cannot work here: {reason}"


def test_every_kind_stops_an_engine_and_every_engine_has_a_default() -> None:
    assert all(engines.of_breaker(kind) for kind in KINDS)
    for name in engines.names():
        kinds = engines.get(name).breakers
        assert kinds
        assert set(kinds) <= set(KINDS)


def test_a_file_in_the_folder_is_all_that_a_kind_takes() -> None:
    files = {path.stem for path in Path(breakers.__file__).with_name("breakers").glob("[!_]*.py")}
    assert set(KINDS) == files


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
    peer = from_handle(BreakHandle("signal", (pid, pid)), page)
    peer.break_out()
    assert page.words[BREAK] == 1


def test_a_thread_number_that_is_another_process_now_is_not_hit(page: Page) -> None:
    """The number of a thread that ended may come back: only the pair names it."""
    parent = os.getppid()
    from_handle(BreakHandle("signal", (os.getpid(), parent)), page).break_out()
    os.kill(parent, 0)


# --- what is special about a byte that KVM reads on entry


@pytest.fixture
def flag() -> Iterator[ExitFlag]:
    with exit_flag() as flag:
        yield flag


@pytest.fixture
def immediate(page: Page, flag: ExitFlag) -> Iterator[Breaker]:
    breaker = breakers.create("immediate", page, flag)
    yield breaker
    breaker.close()


def test_the_byte_is_set_from_anywhere_and_cleared_with_the_break(
    flag: ExitFlag, page: Page, immediate: Breaker
) -> None:
    def by_handle() -> None:
        peer = from_handle(passed_on(immediate.handle()), page)
        peer.break_out()
        peer.close()

    for somebody in (in_another_thread, in_a_forked_child):
        for do in (immediate.break_out, by_handle):
            somebody(do)
            assert flag.byte[0] == 1
            immediate.clear()
            assert flag.byte[0] == 0


def test_taking_the_kick_clears_the_byte_and_keeps_the_break(flag: ExitFlag, immediate: Breaker) -> None:
    immediate.break_out()
    immediate.take_kick()
    assert flag.byte[0] == 0
    assert immediate.is_set()


def test_its_signal_disturbs_nobody_who_is_not_asleep(immediate: Breaker) -> None:
    """No handler of Python's runs, so nothing is written to the fd that is there for the user's signals."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writer)
    try:
        for _ in range(100):
            immediate.break_out()
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
    assert not kick_is_blocked()


def test_its_signal_is_blocked_again_where_it_was_and_stays_harmless(page: Page, flag: ExitFlag) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
    breaker = breakers.create("immediate", page, flag)
    assert not kick_is_blocked()
    breaker.close()
    assert kick_is_blocked()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
    signal.raise_signal(KICK_SIGNAL)


def test_the_first_of_two_that_is_closed_leaves_the_other_its_handler(page: Page, flag: ExitFlag) -> None:
    with Page.create() as elsewhere, exit_flag() as other_flag:
        first, second = breakers.create("immediate", page, flag), breakers.create("immediate", elsewhere, other_flag)
        first.close()
        second.break_out()  # it ended the process
        second.close()


def test_without_a_byte_to_set_it_is_refused_with_the_engine_that_has_one(page: Page) -> None:
    nowhere = ExitFlag(*page.break_byte())
    for flag in (None, nowhere):
        with pytest.raises(UsageError, match=r"^breaker 'immediate' needs a vCPU with a byte .*: engine kvm$"):
            breakers.create("immediate", page, flag)
    assert not kick_is_blocked()


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (4096, 4096), (1, 1 << 40), (1, (1 << 64) - 1), ((1 << 64) - 1, 4096)]
)
def test_a_handle_whose_byte_is_nowhere_is_refused_and_its_fd_closed(
    page: Page, flag: ExitFlag, offset: int, size: int
) -> None:
    handle = BreakHandle("immediate", (os.getpid(), threading.get_native_id(), offset, size), (os.dup(flag.fd),))
    before = open_fds().keys() - {str(handle.fds[0])}
    with pytest.raises(UsageError, match=r"^break handle of kind 'immediate'"):
        from_handle(handle, page)
    assert open_fds().keys() == before


def test_a_handle_of_what_cannot_be_mapped_is_refused_and_its_fd_closed(page: Page) -> None:
    with no_new_fds(), pytest.raises(UsageError, match=r"^break handle of kind 'immediate' .* cannot be mapped"):
        from_handle(BreakHandle("immediate", (1, 1, 1, 4096), (os.eventfd(0),)), page)


# --- what is special about fds that one side only writes


@pytest.mark.parametrize("kind", ["pipe", "mqueue"])
def test_a_peer_is_given_what_can_be_written_and_not_read(page: Page, kind: str) -> None:
    with open_breaker(kind, page) as breaker:
        (fd,) = breaker.handle().fds
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        assert flags & os.O_ACCMODE == os.O_WRONLY
        assert flags & os.O_NONBLOCK


def test_a_pipe_whose_launcher_has_gone_is_no_error(page: Page) -> None:
    breaker = breakers.create("pipe", page)
    peer = from_handle(passed_on(breaker.handle()), page)
    breaker.close()
    peer.break_out()
    peer.close()
    assert page.words[BREAK] == 1
