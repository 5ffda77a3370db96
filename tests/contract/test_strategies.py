"""R1 to R5, for every strategy that there is: one suite for all of them, on real files.

A strategy may return early, empty, or with only some of what is ready. So what must be seen is waited for (a hang is
the time limit's to find), and what must not be seen is looked for in several returns, which a neighbour that is ready
keeps from sleeping.
"""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.errors import SourceRefused
from tests.support.blocked import until_blocked
from tests.support.fds import no_new_fds
from tests.support.files import KINDS, File, close, make_eventfd, make_pipe
from tests.support.tasks import count_tasks, wait_for_tasks
from tests.support.until import until
from waker.api import Strategy
from waker.strategies import make_strategy, missing, strategy_names

NAMES = strategy_names()
RETURNS = 20  # how many returns of `wait` are looked at for what must not be in them


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    reason = missing(found)
    if reason is not None:
        pytest.skip(reason)
    return found


@pytest.fixture
def strategy(name: str) -> Iterator[Strategy]:
    strategy = make_strategy(name)
    yield strategy
    strategy.close()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=list(KINDS))
def file(request: pytest.FixtureRequest, opened: ExitStack) -> File:
    return KINDS[request.param](opened)


@pytest.fixture
def neighbour(opened: ExitStack) -> File:
    return make_pipe(opened)


def wait_for(strategy: Strategy, *fds: int) -> None:
    """Wait until each of these was reported."""
    missed = set(fds)
    while missed:
        missed -= strategy.wait()


def reported(strategy: Strategy, neighbour: File) -> set[int]:
    """Return what is reported, but for the neighbour, which is made ready so that no wait can sleep."""
    neighbour.ring()
    found: set[int] = set()
    for _ in range(RETURNS):
        found |= strategy.wait()
    neighbour.quiet()
    return found - {neighbour.fd}


def test_there_are_strategies() -> None:
    assert "select" in NAMES


def test_what_is_ready_is_reported(strategy: Strategy, file: File) -> None:
    strategy.add(file.fd)
    file.ring()
    wait_for(strategy, file.fd)


def test_what_was_ready_before_it_was_added_is_reported(strategy: Strategy, file: File) -> None:
    file.ring()
    strategy.add(file.fd)
    wait_for(strategy, file.fd)


def test_data_left_unread_is_reported_again_and_again(strategy: Strategy, file: File) -> None:
    strategy.add(file.fd)
    file.ring()
    for _ in range(5):
        wait_for(strategy, file.fd)


def test_what_was_read_is_not_reported_again_until_more_comes(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    for _ in range(3):
        file.ring()
        wait_for(strategy, file.fd)
        file.quiet()
        reported(strategy, neighbour)  # a report that comes late is no lie
        assert reported(strategy, neighbour) == set()


def test_what_is_not_ready_is_not_reported(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    assert reported(strategy, neighbour) == set()


def test_each_of_two_that_are_ready_is_reported(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    neighbour.ring()
    for _ in range(3):
        wait_for(strategy, file.fd, neighbour.fd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "tty"])
def test_the_other_end_hanging_up_is_reported_for_as_long_as_somebody_looks(
    strategy: Strategy, opened: ExitStack, kind: str
) -> None:
    file = KINDS[kind](opened)
    strategy.add(file.fd)
    file.hang_up()
    for _ in range(3):
        wait_for(strategy, file.fd)


def test_a_regular_file_is_ready_or_is_refused(strategy: Strategy, opened: ExitStack, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    opened.callback(os.close, fd)
    try:
        strategy.add(fd)
    except (SourceRefused, PermissionError):  # epoll says EPERM; waker/watchset.py makes a refusal of it
        return
    wait_for(strategy, fd)


def test_a_refused_file_leaves_the_others_watched(strategy: Strategy, neighbour: File, tmp_path: Path) -> None:
    strategy.add(neighbour.fd)
    with (tmp_path / "file").open("w") as file:
        try:
            strategy.add(file.fileno())
        except (SourceRefused, OSError):
            pass
        else:
            strategy.remove(file.fileno())
        neighbour.ring()
        wait_for(strategy, neighbour.fd)


def test_a_wait_sleeps_until_something_is_ready(name: str, file: File, neighbour: File) -> None:
    blocked: list[Strategy] = []
    found: list[int] = []

    def wait() -> None:
        strategy = make_strategy(name)  # one thread makes it and uses it: R3
        strategy.add(file.fd)
        strategy.add(neighbour.fd)
        blocked.append(strategy)
        while not (ready := strategy.wait()):
            pass
        found.extend(ready)
        strategy.close()

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: blocked, "no strategy was made")
    until_blocked(thread.native_id or 0)
    assert found == []
    file.ring()
    thread.join()
    assert found == [file.fd]


def test_a_removed_file_is_not_reported(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    wait_for(strategy, file.fd)
    strategy.remove(file.fd)
    assert reported(strategy, neighbour) == set()


def test_what_came_while_it_was_removed_is_reported_once_it_is_added_again(
    strategy: Strategy, file: File, neighbour: File
) -> None:
    strategy.add(neighbour.fd)
    for _ in range(3):
        strategy.add(file.fd)
        strategy.remove(file.fd)
        file.ring()
        assert reported(strategy, neighbour) == set()
        strategy.add(file.fd)
        wait_for(strategy, file.fd)
        file.quiet()
        strategy.remove(file.fd)


def test_what_was_added_again_after_it_was_reported_is_watched_once(
    strategy: Strategy, file: File, neighbour: File
) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    wait_for(strategy, file.fd)
    strategy.remove(file.fd)
    strategy.add(file.fd)
    wait_for(strategy, file.fd)
    os.close(file.fd)
    for _ in range(3):
        neighbour.ring()
        wait_for(strategy, neighbour.fd)
        neighbour.quiet()
    strategy.remove(file.fd)
    assert reported(strategy, neighbour) == set()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_was_removed_and_closed_is_gone_for_the_other_end_at_once(
    strategy: Strategy, opened: ExitStack, neighbour: File, kind: str
) -> None:
    file = KINDS[kind](opened)
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    wait_for(strategy, file.fd)
    strategy.remove(file.fd)
    strategy.add(file.fd)
    file.quiet()
    reported(strategy, neighbour)
    strategy.remove(file.fd)
    os.close(file.fd)
    with pytest.raises(BrokenPipeError):
        file.ring()


def test_a_file_can_be_removed_after_it_was_closed(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    os.close(file.fd)
    strategy.remove(file.fd)
    assert reported(strategy, neighbour) == set()


def test_a_closed_fd_does_not_disturb_its_neighbours(strategy: Strategy, file: File, neighbour: File) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    os.close(file.fd)
    for _ in range(3):
        neighbour.ring()
        wait_for(strategy, neighbour.fd)
        neighbour.quiet()


def test_a_file_that_lives_on_under_another_number_does_not_disturb_its_neighbours(
    strategy: Strategy, file: File, neighbour: File, opened: ExitStack
) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    opened.callback(os.close, os.dup(file.fd))
    file.ring()
    os.close(file.fd)  # an epoll goes on reporting it: the file is still open
    neighbour.ring()
    wait_for(strategy, neighbour.fd)
    strategy.remove(file.fd)
    for _ in range(3):
        wait_for(strategy, neighbour.fd)


def test_a_number_that_comes_back_as_another_file_is_not_watched(
    strategy: Strategy, file: File, neighbour: File, opened: ExitStack
) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    wait_for(strategy, file.fd)
    strategy.remove(file.fd)
    other = reuse(file.fd, opened)
    other.ring()
    assert reported(strategy, neighbour) == set()


def test_a_number_that_comes_back_can_be_watched_as_what_it_is_now(
    strategy: Strategy, file: File, neighbour: File, opened: ExitStack
) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    wait_for(strategy, file.fd)
    strategy.remove(file.fd)
    other = reuse(file.fd, opened)
    strategy.add(other.fd)
    assert reported(strategy, neighbour) == set()
    other.ring()
    wait_for(strategy, other.fd)


def test_a_number_that_came_back_unannounced_can_be_watched_all_the_same(
    strategy: Strategy, file: File, neighbour: File, opened: ExitStack
) -> None:
    strategy.add(file.fd)
    strategy.add(neighbour.fd)
    other = reuse(file.fd, opened)  # closed without a word, as W8 tries it
    strategy.remove(file.fd)
    strategy.add(other.fd)
    other.ring()
    neighbour.ring()
    wait_for(strategy, other.fd, neighbour.fd)


def reuse(fd: int, opened: ExitStack) -> File:
    """Close `fd` and have another file come back under its number."""
    other = make_eventfd(opened)
    os.dup2(other.fd, fd, inheritable=False)
    opened.callback(close, fd)
    return other._replace(fd=fd)


def test_hundreds_of_files_can_be_watched(strategy: Strategy, opened: ExitStack) -> None:
    files = [make_eventfd(opened) for _ in range(300)]
    for file in files:
        strategy.add(file.fd)
    for file in (files[-1], files[0], files[150]):
        file.ring()
        wait_for(strategy, file.fd)
        file.quiet()


def test_an_fd_beyond_fd_setsize_is_watched_or_refused_in_one_sentence(
    strategy: Strategy, opened: ExitStack, neighbour: File, name: str
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1024:
        pytest.skip("RLIMIT_NOFILE is 1024 or less: no fd can have a number so high")
    low = make_pipe(opened)
    fd = fcntl.fcntl(low.fd, fcntl.F_DUPFD_CLOEXEC, 1024)
    opened.callback(os.close, fd)
    strategy.add(neighbour.fd)
    low.ring()
    if name != "select":
        strategy.add(fd)
        wait_for(strategy, fd)
        return
    with pytest.raises(SourceRefused, match=rf"^select cannot watch fd {fd}, .*FD_SETSIZE \(1024\); use another"):
        strategy.add(fd)
    assert reported(strategy, neighbour) == set()


def test_the_last_fd_below_fd_setsize_is_watched(strategy: Strategy, opened: ExitStack) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1024:
        pytest.skip("RLIMIT_NOFILE is below 1024: no fd can have the number 1023")
    low = make_pipe(opened)
    os.dup2(low.fd, 1023, inheritable=False)
    opened.callback(os.close, 1023)
    strategy.add(1023)
    low.ring()
    wait_for(strategy, 1023)


def leave_unused(strategy: Strategy, file: File) -> None:
    strategy.add(file.fd)


def leave_after_a_wait(strategy: Strategy, file: File) -> None:
    strategy.add(file.fd)
    file.ring()
    wait_for(strategy, file.fd)


def leave_with_a_closed_file(strategy: Strategy, file: File) -> None:
    strategy.add(file.fd)
    os.close(file.fd)


@pytest.mark.parametrize("use", [leave_unused, leave_after_a_wait, leave_with_a_closed_file])
def test_close_frees_all_that_was_opened(name: str, use: Callable[[Strategy, File], None]) -> None:
    before = count_tasks()
    with no_new_fds(), ExitStack() as opened:
        strategy = make_strategy(name)
        use(strategy, make_pipe(opened))
        strategy.close()
    wait_for_tasks(before)


def test_two_of_a_kind_do_not_know_each_other(name: str, strategy: Strategy, file: File, neighbour: File) -> None:
    other = make_strategy(name)
    other.add(file.fd)
    strategy.add(neighbour.fd)
    file.ring()
    assert reported(strategy, neighbour) == set()
    wait_for(other, file.fd)
    other.close()
    neighbour.ring()
    wait_for(strategy, neighbour.fd)
