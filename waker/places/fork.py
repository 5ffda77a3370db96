"""The place of 2007: a forked child with a private copy of Guest memory, told what to watch by ints down a pipe.

`fd` watches it, `-fd - 1` stops: so an fd is its own name, and only those that were open at the fork can be named. A
file that was opened later takes another fork. In 2007 the release was a write to /dev/lguest; here it comes down the
pipe as well, and answers go back up a second one, because a change must be known to be obeyed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

from shared.child import TERMINAL_SIGNALS
from shared.errors import LabError, SourceRefused, UsageError
from shared.wire import PeerGone
from waker.api import Command, Outgrown, Release, Setup, Source, Unwatch, Watch
from waker.places.child import Child
from waker.serve import serve
from waker.strategies import make_strategy
from waker.watchset import WatchSet

_INT = struct.Struct("<i")
_BREAK_NUMBER = struct.Struct("<Q")
_RELEASE_MARK = -(1 << 31)


class _ForkChannel:
    """Ints from a pipe: `fd` watches it, `-fd - 1` stops. Answers go back up a second pipe."""

    def __init__(self, commands: int, answers: int, known: dict[int, Source]) -> None:
        self._commands, self._answers, self._known = commands, answers, known

    def fileno(self) -> int:
        return self._commands

    def receive(self) -> Sequence[Command]:
        number = self._read_int()
        if number == _RELEASE_MARK:
            return [Release(_BREAK_NUMBER.unpack(os.read(self._commands, _BREAK_NUMBER.size))[0])]
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
    """2007: a forked child with a private copy of Guest memory."""

    def __init__(self, setup: Setup) -> None:
        self._known = {source.fd: source for _, source in setup.sources}
        self._tokens = {token: source.fd for token, source in setup.sources}
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            commands, self._commands = os.pipe()
            theirs.callback(os.close, commands)
            ours.callback(os.close, self._commands)
            self._answers, answers = os.pipe()
            theirs.callback(os.close, answers)
            ours.callback(os.close, self._answers)
            self.pid = os.fork()
            if self.pid == 0:
                self._live(setup, commands, answers)
            self._child = Child(self.pid, setup.breaker.break_out)
            ours.pop_all()
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
            _keep_only({2, commands, answers, *self._known, *handle.fds})
            commands = os.dup(commands)  # the lowest number there is: with many files open, select needs it
            channel = _ForkChannel(commands, answers, self._known)
            watched = WatchSet(make_strategy(setup.strategy), setup.memory, setup.page)
            refusal = watched.add_channel(commands) or watched.add(list(self._known.items()))
            channel.answer(0, refusal)
            if refusal is None:
                serve(channel, watched, setup.breaker, setup.page)
            else:
                os.read(commands, 1)  # to end unasked would look like a death
            code = 0
        except (LabError, OSError) as error:
            print(f"waker: {error}", file=sys.stderr, flush=True)
        except BaseException:
            import traceback

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
        self._write(_INT.pack(_RELEASE_MARK) + _BREAK_NUMBER.pack(upto))

    def nudge(self) -> None:
        raise UsageError("a forked Waker cannot see what the Guest gives, so it leaves nothing alone")

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        self._child.end(hang_up=lambda: os.close(self._commands))
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
