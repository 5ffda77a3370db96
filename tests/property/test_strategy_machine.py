"""Whatever is done to a set of files, a strategy reports those that are ready, and nothing else: R1, R2 and R4.

The model knows for each file of the set whether it is ready. A file that was closed while it was in the set is the
caller's mistake: what is said under its number means nothing until the number is removed or added anew, but no other
may suffer for it. What is *in* the set must be reported for as long as it is ready; what is not in it, or not ready,
must not be reported at all. The inline form, which tells what fired since it was armed, may be late: there, what was
ready once since it was last reported may be reported once more.

`--hypothesis-profile=many` tries a hundred times as much.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.breaker import ExitFlag
from shared.errors import SourceRefused
from shared.linux import is_open
from tests.support.fds import no_new_fds
from tests.support.rescue import rescue
from waker.api import InlineStrategy, Strategy
from waker.strategies import make_inline, make_strategy, missing, strategy_names

MOST_FILES = 6
FORMS = [(form, name) for form in ("Strategy", "Inline") for name in strategy_names(form)]

SETTINGS = settings(
    max_examples=max(10, settings.default.max_examples // 4),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class File:
    """A file of some kind; `fd` is the end that is watched, and `is_ready` what the model thinks of it."""

    can_hang_up = True

    def __init__(self) -> None:
        self.fd = -1
        self.rung = 0
        self.has_hung_up = False
        self.was_ready = False  # at some time since it was last reported

    @property
    def is_ready(self) -> bool:
        return self.rung > 0 or self.has_hung_up

    def ring(self) -> None: ...

    def drain(self) -> None: ...

    def hang_up(self) -> None: ...

    def is_missed(self) -> bool:
        """Whether the other end sees that this one is gone."""
        return True

    def close_other(self) -> None: ...


class Eventfd(File):
    can_hang_up = False

    def __init__(self) -> None:
        super().__init__()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        os.eventfd_read(self.fd)


class Pipe(File):
    def __init__(self) -> None:
        super().__init__()
        self.fd, self._writer = os.pipe()

    def ring(self) -> None:
        os.write(self._writer, b"!")

    def drain(self) -> None:
        os.read(self.fd, 4096)

    def hang_up(self) -> None:
        os.close(self._writer)
        self._writer = -1

    def is_missed(self) -> bool:
        return self._writer < 0 or bool(select_one(self._writer) & select.POLLERR)

    def close_other(self) -> None:
        if self._writer >= 0:
            self.hang_up()


class Socket(File):
    def __init__(self) -> None:
        super().__init__()
        mine, self._other = socket.socketpair()
        self.fd = mine.detach()

    def ring(self) -> None:
        self._other.send(b"!")

    def drain(self) -> None:
        os.read(self.fd, 4096)

    def hang_up(self) -> None:
        self._other.close()

    def is_missed(self) -> bool:
        return self._other.fileno() < 0 or bool(select_one(self._other.fileno()) & select.POLLHUP)

    def close_other(self) -> None:
        self._other.close()


def select_one(fd: int) -> int:
    """Return what there is to say of this fd now."""
    poll = select.poll()
    poll.register(fd, 0)
    return sum(events for _, events in poll.poll(0))


KINDS: list[Callable[[], File]] = [Eventfd, Pipe, Socket]


class Looping:
    """A strategy as a Waker that waits uses it."""

    may_be_late = False

    def __init__(self, name: str) -> None:
        self._strategy: Strategy = make_strategy(name)
        self.add, self.remove, self.wait = self._strategy.add, self._strategy.remove, self._strategy.wait
        self.close = self._strategy.close

    def kick(self) -> bool:
        """Do nothing: there is no such verb."""
        return False


class InPlace:
    """The inline form, as waker/places/inline.py uses it: the byte, the look, and arming anew what fired."""

    may_be_late = True

    def __init__(self, name: str) -> None:
        self._byte = ctypes.c_ubyte(0)
        flag = ExitFlag(memoryview(self._byte).cast("B"), ctypes.addressof(self._byte))
        self._strategy: InlineStrategy = make_inline(name)(flag)
        self.add, self.remove = self._strategy.add, self._strategy.remove
        self.close = self._strategy.close
        self._fired: set[int] = set()

    def wait(self) -> set[int]:
        self._strategy.rearm(self._fired)
        while not (self._byte.value or self._strategy.is_pending()):
            self._strategy.wait()
            self._byte.value = 1
        self._byte.value = 0
        self._fired = self._strategy.look()
        return self._fired

    def kick(self) -> bool:
        self._strategy.kick()
        return True


class StrategyMachine(RuleBasedStateMachine):
    """A strategy against the list of files that were added to it."""

    form = "Strategy"
    name = ""

    @initialize()
    def make(self) -> None:
        self.strategy = Looping(self.name) if self.form == "Strategy" else InPlace(self.name)
        self.open: list[File] = []
        self.watched: dict[int, File] = {}
        self.ghosts: dict[int, File] = {}  # closed while they were in the set
        self.copies: list[int] = []
        self.guard = self._make_guard()

    def teardown(self) -> None:
        if not hasattr(self, "guard"):
            return
        try:
            self.see_all_that_is_ready()
        finally:
            self.strategy.close()
            for file in [*self.open, *self.ghosts.values(), self.guard]:
                file.close_other()
            for fd in [*self.copies, self.guard.fd, *(file.fd for file in self.open)]:
                os.close(fd)

    def _make_guard(self) -> File:
        """Put a file into the set that ends any wait; an inline strategy may refuse some kinds."""
        for kind in KINDS:
            guard = kind()
            try:
                self.strategy.add(guard.fd)
            except SourceRefused:
                os.close(guard.fd)
                guard.close_other()
            else:
                return guard
        raise AssertionError(f"{self.name} takes no kind of file at all")

    # What is done to files

    @precondition(lambda self: len(self.open) < MOST_FILES)
    @rule(kind=st.sampled_from(KINDS))
    def open_one(self, kind: Callable[[], File]) -> None:
        self.open.append(kind())

    @precondition(lambda self: self.ghosts)
    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def open_another_under_the_number_of_one_that_was_closed_in_the_set(
        self, kind: Callable[[], File], data: st.DataObject
    ) -> None:
        number = data.draw(st.sampled_from(sorted(self.ghosts)))
        if not is_open(number):  # else a part of another file has it, or the strategy itself
            self._open_as(kind, number)

    def _open_as(self, kind: Callable[[], File], number: int) -> None:
        os.dup2(self.guard.fd, number, inheritable=False)  # taken, so that no other part of the file gets it
        file = kind()
        os.dup2(file.fd, number, inheritable=False)
        os.close(file.fd)
        file.fd = number
        self.open.append(file)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.open))
        if not file.has_hung_up:
            file.ring()
            file.rung += 1
            file.was_ready = True

    @precondition(lambda self: any(file.rung for file in self.open))
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from([file for file in self.open if file.rung]))
        file.drain()
        file.rung = 0

    @precondition(lambda self: any(file.can_hang_up and not file.has_hung_up for file in self.open))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from([file for file in self.open if file.can_hang_up and not file.has_hung_up]))
        file.hang_up()
        file.has_hung_up = file.was_ready = True

    # What is done to the set

    @precondition(lambda self: self._outside())
    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self._outside()))
        try:
            self.strategy.add(file.fd)
        except SourceRefused:
            assert self.form == "Inline", "a strategy that waits takes every kind"
            return
        self.forget_ghost(file.fd)
        self.watched[file.fd] = file
        file.was_ready = file.is_ready

    def _outside(self) -> list[File]:
        return [file for file in self.open if self.watched.get(file.fd) is not file]

    @precondition(lambda self: self.watched)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.watched)))
        self.strategy.remove(number)
        del self.watched[number]

    @precondition(lambda self: self.watched)
    @rule(data=st.data())
    def remove_and_add_at_once(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.watched)))
        self.strategy.remove(number)
        self.strategy.add(number)
        self.watched[number].was_ready = self.watched[number].is_ready

    @precondition(lambda self: self._outside())
    @rule(data=st.data())
    def remove_what_is_not_there(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self._outside())).fd
        self.strategy.remove(number)
        self.forget_ghost(number)

    @precondition(lambda self: self.ghosts)
    @rule(data=st.data())
    def remove_what_was_closed(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.ghosts)))
        self.strategy.remove(number)
        self.forget_ghost(number)

    def forget_ghost(self, number: int) -> None:
        ghost = self.ghosts.pop(number, None)
        if ghost is not None:
            ghost.close_other()

    # What ends a file

    @precondition(lambda self: self.open)
    @rule(data=st.data(), leaves_copy=st.booleans(), kind=st.sampled_from([None, *KINDS]))
    def remove_and_close(self, data: st.DataObject, leaves_copy: bool, kind: Callable[[], File] | None) -> None:
        """Close it as is right, and perhaps open another under its number at once."""
        file = data.draw(st.sampled_from(self.open))
        number = file.fd
        if leaves_copy:
            self.copies.append(os.dup(number))
        self.strategy.remove(number)
        self.watched.pop(number, None)
        self.forget_ghost(number)
        self._close(file)
        if not leaves_copy:
            assert file.is_missed(), "the file was closed, but something still holds it open"
        file.close_other()
        if kind is not None:
            self._open_as(kind, number)

    @precondition(lambda self: self.watched)
    @rule(data=st.data(), leaves_copy=st.booleans(), kind=st.sampled_from([None, *KINDS]))
    def close_in_the_set(self, data: st.DataObject, leaves_copy: bool, kind: Callable[[], File] | None) -> None:
        """Close it as is wrong, and perhaps open another under its number at once."""
        number = data.draw(st.sampled_from(sorted(self.watched)))
        file = self.watched.pop(number)
        if leaves_copy:
            self.copies.append(os.dup(number))
        self._close(file)
        self.ghosts[number] = file
        if kind is not None:
            self._open_as(kind, number)

    def _close(self, file: File) -> None:
        os.close(file.fd)
        self.open.remove(file)

    # What is reported

    @rule()
    def see_all_that_is_ready(self) -> None:
        """Wait until each that is ready was reported; where there is none, a guard ends the wait."""
        missed = {number for number, file in self.watched.items() if file.is_ready}
        is_guarded = not missed
        if is_guarded:
            self.guard.ring()
            missed = {self.guard.fd}
        with rescue(self.guard.ring) as was_needed:
            while missed and not was_needed.is_set():
                missed -= self.check(self.strategy.wait(), is_guarded)
            assert not was_needed.is_set(), f"{missed} are ready, and the strategy sleeps"
        if is_guarded:
            self.guard.drain()

    def check(self, reported: set[int], is_guarded: bool) -> set[int]:
        for number in reported:
            if number in self.ghosts:
                continue
            if number == self.guard.fd:
                assert is_guarded or self.strategy.may_be_late, "the guard was reported, and is not ready"
                continue
            file = self.watched.get(number)
            assert file is not None, f"{number} was reported, and is not in the set"
            if not file.is_ready:
                assert self.strategy.may_be_late, f"{number} was reported, and is not ready"
                assert file.was_ready, f"{number} was reported twice for one time that it was ready"
            file.was_ready = file.is_ready
        return reported

    @rule()
    def wait_once(self) -> None:
        """Wait, and be content with little: what was armed again stays so."""
        self.guard.ring()
        with rescue(self.guard.ring) as was_needed:
            self.check(self.strategy.wait(), is_guarded=True)
        assert not was_needed.is_set(), "the strategy sleeps although its guard is ready"
        self.guard.drain()

    @rule()
    def kick(self) -> None:
        if self.strategy.kick():
            with rescue(self.guard.ring) as was_needed:
                self.check(self.strategy.wait(), is_guarded=True)
            assert not was_needed.is_set(), "the strategy was kicked, and sleeps"

    @invariant()
    def nobody_has_a_number_twice(self) -> None:
        numbers = [file.fd for file in getattr(self, "open", [])]
        assert len(numbers) == len(set(numbers))


@pytest.mark.usefixtures("kick_may_stay_blocked")
@pytest.mark.parametrize(("form", "name"), FORMS)
def test_a_strategy_reports_what_is_ready_and_nothing_else(form: str, name: str) -> None:
    if (reason := missing(name)) is not None:
        pytest.skip(reason)
    machine = type("Machine", (StrategyMachine,), {"form": form, "name": name})
    with no_new_fds():
        run_state_machine_as_test(machine, settings=SETTINGS)
