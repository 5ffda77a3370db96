"""Whoever is killed, and whenever: no breaker leaves a name, a file or a process behind.

The moments are not left to chance. A child of the test is the Launcher; it counts what it calls, and kills itself
with SIGKILL at the n-th call into C, for one n after the other until it survives. Before and after it: what the call
has made is there, and nobody knows of it yet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import waker
from shared import breaker as breakers
from shared import linux
from shared.breaker import KINDS
from shared.breakers import mqueue
from shared.errors import WakerError
from shared.memory import GuestMemory
from shared.page import Page
from shared.wire import Wire
from tests.support.breakers import exit_flag, open_breaker, skip_what_is_missing
from tests.support.fds import no_new_fds
from waker import Source
from waker.places import process

try:
    import posix_ipc
except ImportError:  # only queues need it
    posix_ipc = None

STARTS = 25
"""At how many moments of a Waker's start its Launcher is killed; each of them costs a process."""
NOBODY = 65_534


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    skip_what_is_missing(found)
    return found


NamesLeft = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def names_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[NamesLeft]:
    """Give queues a name that no other test on this machine uses, and say which names are there that were not before.

    Semaphores are looked for where they are files; our queue is opened, which works even if nothing is mounted.
    """
    name = f"/lguest-launcher-test-{os.getpid()}"
    monkeypatch.setattr(mqueue, "name", lambda: name)
    before = semaphores()
    yield lambda: sorted(semaphores() - before) + queues()
    remove_queue()


def semaphores() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("sem.*")}


def queues() -> list[str]:
    if posix_ipc is None:
        return []
    try:
        posix_ipc.MessageQueue(mqueue.name()).close()
    except (posix_ipc.ExistentialError, OSError):  # the latter: a kernel without queues
        return []
    return [mqueue.name()]


def remove_queue() -> None:
    if queues():
        posix_ipc.unlink_message_queue(mqueue.name())


@contextlib.contextmanager
def each_call_into_c(step: Callable[[], None]) -> Iterator[None]:
    """Call `step` before and after each: the interpreter tells of those that do not go through ctypes."""

    def around(function: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            step()
            result = function(*given)
            step()
            return result

        return call

    def tell(_frame: object, event: str, _arg: object) -> None:
        if event in ("c_call", "c_return"):
            step()

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_syscall", "_ioctl", "_set_handler"):
            patch.setattr(linux, name, around(getattr(linux, name)))
        for name in ("sem_init", "sem_post", "sem_wait", "sem_trywait", "sigaction"):
            patch.setattr(linux._libc, name, around(getattr(linux._libc, name)))
        sys.setprofile(tell)
        try:
            yield
        finally:
            sys.setprofile(None)


def dies_at_call(number: int, live: Callable[[], None]) -> bool:
    """Have a child live and die at its `number`-th call into C; False when its life was over before that.

    Returns when all that the child had started is gone, too: standard error is what they all keep open.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        calls, me = 0, os.getpid()

        def count() -> None:
            nonlocal calls
            calls += 1
            if calls == number and os.getpid() == me:  # a forked Waker has inherited this function
                os.kill(me, signal.SIGKILL)

        try:
            with each_call_into_c(count):
                live()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(reader, "rb") as said:
        words = said.read()
    assert status in (0, -signal.SIGKILL), words.decode()
    return status != 0


def make(kind: str) -> None:
    with Page.create() as page, open_breaker(kind, page) as breaker:
        breaker.break_out()
        breaker.wait()


def test_a_launcher_killed_while_it_makes_its_breaker_leaves_nothing_for_long(kind: str, names_left: NamesLeft) -> None:
    """A queue has a name between two system calls: whoever comes next takes that away, and it is never two."""
    number = 1
    while dies_at_call(number, lambda: make(kind)):
        if kind != "mqueue":
            assert names_left() == []
        number += 1
        if names_left():
            make(kind)
            assert names_left() == []
    assert number > 10


def test_a_queue_whose_maker_was_killed_before_it_could_take_its_name_away_is_replaced(names_left: NamesLeft) -> None:
    skip_what_is_missing("mqueue")

    def die(_name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        posix_ipc.unlink_message_queue = die
        make("mqueue")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert names_left() == [mqueue.name()]
    make("mqueue")
    assert names_left() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a queue and then be somebody else")
def test_a_queue_of_that_name_that_is_another_users_is_refused_in_one_sentence() -> None:
    skip_what_is_missing("mqueue")
    fd = posix_ipc.MessageQueue(mqueue.name(), posix_ipc.O_CREX, mode=0o600, max_messages=1, max_message_size=1).mqd
    os.close(fd)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        os.write(writer, str(breakers.missing("mqueue")).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as said:
        assert said.read() == f"the message queue {mqueue.name()} is another user's"


def start(place: str, kind: str) -> None:
    make_memory = GuestMemory.private if place == "fork" else GuestMemory.create
    with contextlib.ExitStack() as opened:
        page = opened.enter_context(Page.create())
        memory = opened.enter_context(make_memory(0x20000))
        breaker = opened.enter_context(open_breaker(kind, page))
        bell = os.eventfd(1)
        opened.callback(os.close, bell)
        with waker.start(f"{place}/select", memory, page, breaker, [Source(bell, "bell")]) as wake:
            while not breaker.is_set():
                breaker.wait()
            breaker.clear()
            wake.release(wake.held())


@pytest.mark.parametrize("place", ["fork", "process"])
def test_a_launcher_killed_at_any_moment_of_a_wakers_start_leaves_no_name_and_no_process(
    kind: str, place: str, names_left: NamesLeft
) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    with each_call_into_c(count):
        start(place, kind)
    for number in range(1, calls, max(1, calls // STARTS)):
        dies_at_call(number, lambda: start(place, kind))
        if kind == "mqueue" and names_left():
            remove_queue()  # that moment has a test of its own
        assert names_left() == []


def test_a_waker_killed_at_any_step_of_the_handshake_leaves_nothing_and_another_one_works(
    monkeypatch: pytest.MonkeyPatch, kind: str, names_left: NamesLeft
) -> None:
    born: list[int] = []
    steps = fatal = 0
    spawn, send, receive = process.spawn, Wire.send, Wire.receive

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == fatal:
            os.kill(born[-1], signal.SIGKILL)

    def spawn_and_step(*args: object) -> int:
        born.append(spawn(*args))  # type: ignore[arg-type]
        step()
        return born[-1]

    def send_and_step(*args: object, **more: object) -> None:
        send(*args, **more)  # type: ignore[arg-type]
        step()

    def receive_and_step(wire: Wire) -> object:
        message = receive(wire)
        step()
        return message

    monkeypatch.setattr(process, "spawn", spawn_and_step)
    monkeypatch.setattr(Wire, "send", send_and_step)
    monkeypatch.setattr(Wire, "receive", receive_and_step)
    fatal = 1
    with no_new_fds():
        while True:
            steps = 0
            with contextlib.suppress(WakerError):  # it died before it watched anything
                start("process", kind)
            assert names_left() == []
            if steps < fatal:
                break
            fatal += 1
        fatal = 0
        start("process", kind)
    assert len(born) > 5
    for pid in born:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_breaker_that_is_alive_has_no_name_either(kind: str, names_left: NamesLeft) -> None:
    with Page.create() as page, open_breaker(kind, page):
        assert names_left() == []
        assert "/dev/shm" not in Path("/proc/self/maps").read_text()


def test_a_kernel_without_queues_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("posix_ipc")

    def fail(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(posix_ipc, "MessageQueue", fail)
    assert breakers.missing("mqueue") == "mq_open: Function not implemented"
    assert waker.why_not("process/select+mqueue") == "mq_open: Function not implemented"
    with exit_flag() as flag, Page.create() as page, no_new_fds():
        with pytest.raises(Exception, match=r"^breaker 'mqueue' cannot work here: mq_open: Function not implemented$"):
            breakers.create("mqueue", page, flag)


def test_python_without_posix_ipc_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "posix_ipc", None)
    assert breakers.missing("mqueue") == "the Python module posix_ipc is not installed"
