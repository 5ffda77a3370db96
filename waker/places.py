"""Who waits: a forked child as in 2007, a stranger that is given all it needs, or a thread as in 2008.

Each place is two ends that agree: a `Channel` for the loop in waker/serve.py, and a `Place` for the Launcher. What
they differ in is what the Waker can see:

| place   | Guest memory                      | fds                                | commands                  |
|---------|-----------------------------------|------------------------------------|---------------------------|
| fork    | a private copy, stale from then on | those open at the fork, same numbers | ints down a pipe        |
| process | the same, mapped again, read-only | passed over a socket, own numbers  | messages on that socket   |
| thread  | the same mapping                  | the Launcher's                     | a queue; one byte snaps it |

A process that dies must be noticed even while the Guest halts for ever, so somebody has to wait for it: a thread
that sleeps in waitid(2), and breaks the Guest when it returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from queue import SimpleQueue
from typing import NoReturn

from shared import wire
from shared.breaker import Breaker, BreakHandle, from_handle
from shared.child import TERMINAL_SIGNALS, forget_the_parent, spawn
from shared.errors import LabError, SourceRefused, WakerError, WireError
from shared.memory import Canary, GuestMemory
from shared.page import Page
from shared.vring import RingView
from shared.wire import Kind, PeerGone, Wire
from waker.api import Channel, Command, Outgrown, Place, Release, Setup, Source, Strategy, Unwatch, Watch
from waker.serve import serve
from waker.watchset import WatchSet

_INT = struct.Struct("<i")
_RELEASE = struct.Struct("<ii")
_RELEASE_MARK = -(1 << 31)
_NO_RING = (1 << 64) - 1
_NUMBERS_PER_SOURCE = 3


def make_strategy(name: str) -> Strategy:
    """Make the strategy of waker/strategies/NAME.py."""
    strategy: Strategy = import_module(f"waker.strategies.{name}").Strategy()
    return strategy


# --- a child process: what fork and process share ------------------------------------------------------------------


class _Child:
    """A Waker's process, and the thread that waits for its end."""

    def __init__(self, pid: int, on_death: Callable[[], None]) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._on_death = on_death
        self._has_ended = threading.Event()
        self._watcher = threading.Thread(target=self._wait, name=f"death of {pid}", daemon=True)
        self._watcher.start()

    def _wait(self) -> None:
        with contextlib.suppress(ChildProcessError):  # somebody else reaped it: gone all the same
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._has_ended.set()
        self._on_death()

    def is_alive(self) -> bool:
        return not self._has_ended.is_set()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, patience_s: float = 2.0) -> None:
        """Wait for the end that was asked for, and enforce it when it does not come."""
        self._on_death = _nothing
        if not self._has_ended.wait(patience_s):
            self.kill()
        self._watcher.join()
        os.close(self._pidfd)


def _nothing() -> None:
    pass


# --- fork: 2007 ------------------------------------------------------------------------------------------------------


class _ForkChannel:
    """Ints from a pipe: `fd` watches it, `-fd - 1` stops. Answers go back up a second pipe."""

    def __init__(self, commands: int, answers: int, known: dict[int, Source]) -> None:
        self._commands, self._answers, self._known = commands, answers, known

    def fileno(self) -> int:
        return self._commands

    def receive(self) -> Sequence[Command]:
        number = self._read_int()
        if number == _RELEASE_MARK:
            return [Release(self._read_int())]
        if number >= 0:
            return [Watch(0, [(number, self._known[number])])]
        return [Unwatch(0, [-number - 1])]

    def answer(self, generation: int, refusal: str | None) -> None:
        text = (refusal or "").encode()
        os.write(self._answers, _INT.pack(len(text)) + text)

    def _read_int(self) -> int:
        data = os.read(self._commands, _INT.size)
        if not data:
            raise PeerGone("pipe: the Launcher has gone")
        number: int = _INT.unpack(data)[0]
        return number


class ForkPlace:
    """A forked child: it holds a private copy of Guest memory, and the fds that were open when it was forked."""

    def __init__(self, setup: Setup) -> None:
        self._known = {source.fd: source for _, source in setup.sources}
        self._tokens = {token: source.fd for token, source in setup.sources}
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._live(setup, commands, answers)
        os.close(commands)
        os.close(answers)
        self._child = _Child(pid, setup.breaker.break_out)
        self.pid = pid
        try:
            refusal = self._answer()
            if refusal is not None:
                raise SourceRefused(refusal)
        except BaseException:
            self.stop()
            raise

    def _live(self, setup: Setup, commands: int, answers: int) -> NoReturn:
        """The child's life: it never returns into the Launcher's code."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            handle = setup.breaker.handle()
            _keep_only({2, commands, answers, *self._known} | ({handle.fd} if handle.fd is not None else set()))
            channel = _ForkChannel(commands, answers, self._known)
            watched = WatchSet(make_strategy(setup.strategy), setup.memory, setup.page)
            watched.add_channel(commands)
            refusal = watched.add([(fd, source) for fd, source in self._known.items()])
            channel.answer(0, refusal)
            if refusal is None:
                serve(channel, watched, setup.breaker, setup.page)
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def change(self, command: Watch | Unwatch) -> str | None:
        if isinstance(command, Unwatch):
            for token in command.tokens:
                self._order(-self._tokens.pop(token) - 1)
            return None
        for _, source in command.sources:
            if self._known.get(source.fd) is not source:
                raise Outgrown(f"fork: {source.name} was opened after the fork")
        for at, (token, source) in enumerate(command.sources):
            refusal = self._order(source.fd)
            if refusal is not None:
                for _, earlier in command.sources[:at]:
                    self._order(-earlier.fd - 1)
                return refusal
            self._tokens[token] = source.fd
        return None

    def release(self, upto: int) -> None:
        self._write(_RELEASE.pack(_RELEASE_MARK, upto))

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        os.close(self._commands)  # end of file: the Launcher is gone, go too
        self._child.end()
        os.close(self._answers)

    def _order(self, number: int) -> str | None:
        self._write(_INT.pack(number))
        return self._answer()

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._commands, data)
        except BrokenPipeError as error:
            raise PeerGone("fork: the Waker has gone") from error

    def _answer(self) -> str | None:
        header = os.read(self._answers, _INT.size)
        if not header:
            raise PeerGone("fork: the Waker has gone")
        (length,) = _INT.unpack(header)
        return os.read(self._answers, length).decode() if length else None


def _keep_only(fds: set[int]) -> None:
    """Close every fd but these: the child must not keep the far ends of the Launcher's pipes open."""
    low = 0
    for fd in sorted(fds):
        if low < fd:  # CPython takes closerange(0, 0) for "all"
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


# --- process: the road not taken -------------------------------------------------------------------------------------


class _SocketChannel:
    """Messages from the socket; the fds that come with a watch are the Waker's own from then on."""

    def __init__(self, launcher: Wire) -> None:
        self._launcher = launcher

    def fileno(self) -> int:
        return self._launcher.fileno()

    def receive(self) -> Sequence[Command]:
        message = self._launcher.receive()
        numbers = message.numbers
        if message.kind is Kind.RELEASE and len(numbers) == 1:
            return [Release(numbers[0])]
        if message.kind is Kind.UNWATCH and numbers:
            return [Unwatch(numbers[0], numbers[1:])]
        if message.kind is Kind.WATCH and len(numbers) == 1 + _NUMBERS_PER_SOURCE * len(message.fds):
            names = message.text.split("\0")
            rows = zip(numbers[1::3], numbers[2::3], numbers[3::3], message.fds, names, strict=True)
            return [
                Watch(
                    numbers[0],
                    [
                        (token, Source(fd, name, None if addr == _NO_RING else RingView(addr, slot)))
                        for token, addr, slot, fd, name in rows
                    ],
                )
            ]
        message.close_fds()
        raise WireError(f"wire: {message.kind.name} with {len(numbers)} numbers makes no sense to a Waker")

    def answer(self, generation: int, refusal: str | None) -> None:
        if refusal is None:
            self._launcher.send(Kind.DONE, [generation])
        else:
            self._launcher.send(Kind.REFUSED, [generation], refusal)


class ProcessPlace:
    """A fresh `python -m waker`: it inherits a socket, and is given the memory read-only, the page, the way to break."""

    def __init__(self, setup: Setup) -> None:
        self._name = f"process/{setup.strategy}"
        self._wire, theirs = Wire.pair()
        with theirs:
            pid = spawn("waker", theirs, self._name)
        self._child = _Child(pid, setup.breaker.break_out)
        self.pid = pid
        try:
            self._greet(setup)
            for at in range(0, len(setup.sources), wire.MAX_FDS):
                refusal = self._watch(Watch(0, setup.sources[at : at + wire.MAX_FDS]))
                if refusal is not None:
                    raise SourceRefused(refusal)
        except BaseException:
            self.stop()
            raise

    def _greet(self, setup: Setup) -> None:
        handle = setup.breaker.handle()
        with setup.memory.canary() as canary, contextlib.ExitStack() as closing:
            memory_fd = setup.memory.readonly_fd()
            closing.callback(os.close, memory_fd)
            fds = [memory_fd, setup.page.fileno()] + ([handle.fd] if handle.fd is not None else [])
            self._wire.send(Kind.HELLO, [*canary, handle.pid, handle.tid], f"{setup.strategy} {handle.kind}", fds)
            self._expect(Kind.READY)

    def change(self, command: Watch | Unwatch) -> str | None:
        if isinstance(command, Watch):
            for at in range(0, len(command.sources), wire.MAX_FDS):
                batch = command.sources[at : at + wire.MAX_FDS]
                refusal = self._watch(Watch(command.generation, batch))
                if refusal is not None:
                    self.change(Unwatch(command.generation, [token for token, _ in command.sources[:at]]))
                    return refusal
            return None
        for at in range(0, len(command.tokens), 4096):
            self._wire.send(Kind.UNWATCH, [command.generation, *command.tokens[at : at + 4096]])
            self._expect(Kind.DONE)
        return None

    def _watch(self, command: Watch) -> str | None:
        numbers = [command.generation]
        for token, source in command.sources:
            numbers += (token, *(source.ring or (_NO_RING, 0)))
        names = "\0".join(source.name for _, source in command.sources)
        self._wire.send(Kind.WATCH, numbers, names, [source.fd for _, source in command.sources])
        answer = self._wire.receive()
        return None if answer.kind is Kind.DONE else answer.text

    def release(self, upto: int) -> None:
        self._wire.send(Kind.RELEASE, [upto])

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        self._wire.close()
        self._child.end()

    def _expect(self, kind: Kind) -> None:
        answer = self._wire.receive()
        answer.close_fds()
        if answer.kind is not kind:
            raise WakerError(f"{self._name}: {answer.text or answer.kind.name}")


def live_as_process(socket_fd: int) -> int:
    """Be the Waker process at the other end of `socket_fd`: greet, attach, serve; return the exit code."""
    forget_the_parent()
    launcher = Wire.on_fd(socket_fd)
    try:
        hello = launcher.receive()
    except PeerGone:
        return 0
    try:
        strategy_name, memory, page, breaker = _take_hello(hello)
        watched = WatchSet(make_strategy(strategy_name), memory, page, owns_fds=True)
        watched.add_channel(launcher.fileno())
        launcher.send(Kind.READY)
    except (LabError, OSError) as error:
        with contextlib.suppress(PeerGone):
            launcher.send(Kind.REFUSED, text=str(error))
        return 1
    with contextlib.suppress(PeerGone):  # an answer that nobody is left to hear
        serve(_SocketChannel(launcher), watched, breaker, page)
    return 0


def _take_hello(hello: wire.Message) -> tuple[str, GuestMemory, Page, Breaker]:
    if hello.kind is not Kind.HELLO or len(hello.numbers) != 4 or len(hello.fds) not in (2, 3):
        hello.close_fds()
        raise WireError(f"wire: a Waker expects HELLO with its fds first, not {hello.kind.name}")
    strategy, _, kind = hello.text.partition(" ")
    canary_addr, canary_word, pid, tid = hello.numbers
    memory = GuestMemory.attach(hello.fds[0], Canary(canary_addr, canary_word))
    page = Page(hello.fds[1])
    break_fd = hello.fds[2] if len(hello.fds) == 3 else None
    return strategy, memory, page, from_handle(BreakHandle(kind, pid, tid, break_fd), page)


# --- thread: 2008 ----------------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """What a thread dies of when it is killed."""


class _ThreadChannel:
    """A queue in shared memory, and a byte down a pipe for each command, which snaps the thread out of its wait."""

    def __init__(self, snap: int, commands: deque[Command], answers: SimpleQueue[str | None | PeerGone]) -> None:
        self._snap, self._commands, self._answers = snap, commands, answers

    def fileno(self) -> int:
        return self._snap

    def receive(self) -> Sequence[Command]:
        if not os.read(self._snap, 1):
            raise PeerGone("pipe: the Launcher has stopped this Waker")
        return [self._commands.popleft()] if self._commands else []

    def answer(self, generation: int, refusal: str | None) -> None:
        self._answers.put(refusal)


class ThreadPlace:
    """A thread of the Launcher's: the same memory, the same fds."""

    def __init__(self, setup: Setup) -> None:
        self._snapped, self._snap = os.pipe()
        self._commands: deque[Command] = deque()
        self._answers: SimpleQueue[str | None | PeerGone] = SimpleQueue()
        self._on_death = setup.breaker.break_out
        self._has_ended = False
        self.pid = os.getpid()
        self._thread = threading.Thread(target=self._live, args=(setup,), name=f"thread/{setup.strategy}", daemon=True)
        self._thread.start()
        try:
            refusal = self._answer()
            if refusal is not None:
                raise SourceRefused(refusal)
        except BaseException:
            self.stop()
            raise

    def _live(self, setup: Setup) -> None:
        watched: WatchSet | None = None
        try:
            channel: Channel = _ThreadChannel(self._snapped, self._commands, self._answers)
            watched = WatchSet(make_strategy(setup.strategy), setup.memory, setup.page)
            watched.add_channel(self._snapped)
            refusal = watched.add(setup.sources)
            self._answers.put(refusal)
            if refusal is None:
                serve(channel, watched, setup.breaker, setup.page)
        except _Killed:
            pass
        finally:
            # In this order: whoever is told of the death finds it true.
            self._has_ended = True
            self._answers.put(PeerGone(f"thread/{setup.strategy}: the thread has ended"))
            if watched is not None:
                watched.close()
            self._on_death()

    def change(self, command: Watch | Unwatch) -> str | None:
        self._order(command)
        return self._answer()

    def release(self, upto: int) -> None:
        self._order(Release(upto))

    def is_alive(self) -> bool:
        return not self._has_ended

    def kill(self) -> None:
        ident = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(_Killed))
        os.write(self._snap, b"!")  # it dies at its next bytecode, so it has to come out of the kernel

    def stop(self) -> None:
        self._on_death = _nothing
        os.close(self._snap)  # end of file: go
        self._thread.join()
        os.close(self._snapped)

    def _order(self, command: Command) -> None:
        if self._has_ended:
            raise PeerGone("thread: the thread has ended")
        self._commands.append(command)  # before the byte: whoever reads the byte finds it
        os.write(self._snap, b"!")

    def _answer(self) -> str | None:
        answer = self._answers.get()
        if isinstance(answer, PeerGone):
            self._answers.put(answer)
            raise answer
        return answer


PLACES: dict[str, Callable[[Setup], Place]] = {
    "fork": ForkPlace,
    "process": ProcessPlace,
    "thread": ThreadPlace,
}
