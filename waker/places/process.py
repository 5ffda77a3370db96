"""The road not taken: a fresh process, given Guest memory read-only over a Unix socket, and the fds it is to watch.

It inherits nothing but the socket (shared/child.py). What it gets in the first message is the least it needs: the
memory, which it can read and not write; the control page; a way to break the vCPU. The fds that come with a watch
are copies with numbers of its own, so a number that is closed and comes back in the Launcher means nothing here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from shared import wire
from shared.breaker import Breaker, BreakHandle, from_handle
from shared.child import forget_the_parent, spawn
from shared.errors import LabError, SourceRefused, WakerError, WireError
from shared.memory import Canary, GuestMemory
from shared.page import Page
from shared.vring import RingView
from shared.wire import Kind, PeerGone, Wire
from waker.api import Command, Nudge, Release, Setup, Source, Unwatch, Watch
from waker.places.child import Child
from waker.serve import serve
from waker.strategies import is_strategy, make_strategy, strategy_names
from waker.watchset import WatchSet

_NOWHERE = ((1 << 64) - 1, 0)
_NUMBERS_PER_SOURCE = 5  # the token; where its ring is, and its room: address and slot


class _SocketChannel:
    """Messages from the socket; the fds that come with a watch are the Waker's own from then on."""

    def __init__(self, launcher: Wire) -> None:
        self._launcher = launcher

    def fileno(self) -> int:
        return self._launcher.fileno()

    def receive(self) -> Sequence[Command]:
        message = self._launcher.receive()
        numbers, fds = message.numbers, message.fds
        if message.kind is Kind.RELEASE and len(numbers) == 1 and not fds:
            return [Release(numbers[0])]
        if message.kind is Kind.UNWATCH and numbers and not fds:
            return [Unwatch(numbers[0], numbers[1:])]
        if message.kind is Kind.NUDGE and not numbers and not fds:
            return [Nudge()]
        names = message.text.split("\0")
        if message.kind is Kind.WATCH and len(numbers) == 1 + _NUMBERS_PER_SOURCE * len(fds) and len(names) == len(fds):
            rows = zip(*(numbers[1 + n :: _NUMBERS_PER_SOURCE] for n in range(_NUMBERS_PER_SOURCE)), strict=True)
            sources = [
                (token, Source(fd, name, _view(ring, ring_slot), _view(room, room_slot)))
                for (token, ring, ring_slot, room, room_slot), fd, name in zip(rows, fds, names, strict=True)
            ]
            return [Watch(numbers[0], sources)]
        message.close_fds()
        raise WireError(
            f"wire: {message.kind.name} with {len(numbers)} numbers and {len(fds)} fds makes no sense to a Waker"
        )

    def answer(self, generation: int, refusal: str | None) -> None:
        if refusal is None:
            self._launcher.send(Kind.DONE, [generation])
        else:
            self._launcher.send(Kind.REFUSED, [generation], refusal)


class ProcessPlace:
    """The road not taken: a process that is handed shared Guest memory, read-only."""

    def __init__(self, setup: Setup) -> None:
        self._name = f"process/{setup.strategy}"
        self._wire, theirs = Wire.pair()
        try:
            with theirs:
                self.pid = spawn("waker", theirs, self._name)
            self._child = Child(self.pid, setup.breaker.break_out)
        except BaseException:
            self._wire.close()
            raise
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
            fds = [memory_fd, setup.page.fileno(), *handle.fds]
            self._wire.send(Kind.HELLO, [*canary, *handle.numbers], f"{setup.strategy} {handle.kind}", fds)
            ready = self._wire.receive()
            ready.close_fds()
            if ready.kind is not Kind.READY:
                raise WakerError(f"{self._name}: {ready.text or ready.kind.name}")

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
            self._answer(command.generation)
        return None

    def _watch(self, command: Watch) -> str | None:
        numbers = [command.generation]
        for token, source in command.sources:
            numbers += (token, *(source.ring or _NOWHERE), *(source.room or _NOWHERE))
        names = "\0".join(source.name for _, source in command.sources)
        self._wire.send(Kind.WATCH, numbers, names, [source.fd for _, source in command.sources])
        return self._answer(command.generation)

    def release(self, upto: int) -> None:
        self._wire.send(Kind.RELEASE, [upto])

    def nudge(self) -> None:
        self._wire.send(Kind.NUDGE)

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        self._child.end(hang_up=self._wire.close)

    def _answer(self, generation: int) -> str | None:
        """Wait for the answer to the change of this generation: None, or why it is refused."""
        answer = self._wire.receive()
        answer.close_fds()
        if answer.kind not in (Kind.DONE, Kind.REFUSED) or answer.numbers != (generation,):
            raise WakerError(f"{self._name}: answered change {generation} with {answer.kind.name} {answer.numbers}")
        return None if answer.kind is Kind.DONE else answer.text


def live_as_process(socket_fd: int) -> int:
    """Be the Waker process at the other end of `socket_fd`: greet, attach, serve; return the exit code."""
    forget_the_parent()
    try:
        launcher = Wire.on_fd(socket_fd)
    except OSError as error:
        print(f"waker: standard input is not the Launcher's socket ({error.strerror})", file=sys.stderr)
        return 1
    try:
        strategy_name, memory, page, breaker = _take_hello(launcher.receive())
        watched = WatchSet(make_strategy(strategy_name), memory, page, owns_fds=True)
        refusal = watched.add_channel(launcher.fileno())
        if refusal is not None:
            raise SourceRefused(refusal)
        launcher.send(Kind.READY)
    except PeerGone:
        return 0
    except (LabError, OSError) as error:
        with contextlib.suppress(LabError, OSError):
            launcher.send(Kind.REFUSED, text=str(error))
        return 1
    try:
        serve(_SocketChannel(launcher), watched, breaker, page)
    except PeerGone:
        return 0  # an answer that nobody is left to hear
    except (LabError, OSError) as error:
        print(f"waker: {error}", file=sys.stderr)
        return 1
    return 0


def _view(addr: int, slot: int) -> RingView | None:
    return None if (addr, slot) == _NOWHERE else RingView(addr, slot)


def _take_hello(hello: wire.Message) -> tuple[str, GuestMemory, Page, Breaker]:
    if hello.kind is not Kind.HELLO or len(hello.numbers) < 2 or len(hello.fds) < 2:
        hello.close_fds()
        raise WireError(f"wire: a Waker expects HELLO with its fds first, not {hello.kind.name}")
    strategy, _, kind = hello.text.partition(" ")
    if not is_strategy(strategy):
        hello.close_fds()
        raise WireError(f"wire: HELLO asks for strategy {strategy!r}; there are {', '.join(strategy_names())}")
    canary_addr, canary_word, *numbers = hello.numbers
    memory_fd, page_fd, *fds = hello.fds
    memory = GuestMemory.attach(memory_fd, Canary(canary_addr, canary_word))
    page = Page(page_fd)
    return strategy, memory, page, from_handle(BreakHandle(kind, tuple(numbers), tuple(fds)), page)
