"""The place of 2008: a thread of the Launcher's, which sees the same memory and the same fds.

A change is put into a queue that both share, and one byte down a pipe snaps the thread out of its wait. There is one
byte for each command, whether the thread is looking or held, so that neither side has to know which.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

from shared.errors import LabError, SourceRefused, WakerError
from shared.wire import PeerGone
from waker.api import Channel, Command, Nudge, Release, Setup, Unwatch, Watch
from waker.places.child import do_nothing
from waker.serve import serve
from waker.strategies import make_strategy
from waker.watchset import WatchSet


class _Killed(BaseException):
    """What a thread dies of when it is killed."""


class _ThreadChannel:
    """A queue in shared memory, and a byte down a pipe for each command, which snaps the thread out of its wait."""

    def __init__(self, snap: int, commands: deque[Command | None], answers: SimpleQueue[str | PeerGone | None]) -> None:
        self._snap, self._commands, self._answers = snap, commands, answers

    def fileno(self) -> int:
        return self._snap

    def receive(self) -> Sequence[Command]:
        if not os.read(self._snap, 1):
            raise PeerGone("pipe: the Launcher has stopped this Waker")
        if not self._commands:
            return []
        command = self._commands.popleft()
        if command is None:
            raise _Killed
        return [command]

    def answer(self, generation: int, refusal: str | None) -> None:
        self._answers.put(refusal)


class ThreadPlace:
    """2008: a thread of the Launcher's."""

    def __init__(self, setup: Setup) -> None:
        self._snapped, self._snap = os.pipe()
        self._commands: deque[Command | None] = deque()
        self._answers: SimpleQueue[str | PeerGone | None] = SimpleQueue()
        self._on_death = setup.breaker.break_out
        self._has_ended = False
        self.pid = os.getpid()
        self._thread = threading.Thread(target=self._live, args=(setup,), name=f"thread/{setup.strategy}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._snapped)
            os.close(self._snap)
            raise WakerError(f"thread/{setup.strategy}: {error}") from error
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
            refusal = watched.add_channel(self._snapped) or watched.add(setup.sources)
            self._answers.put(refusal)
            if refusal is None:
                serve(channel, watched, setup.breaker, setup.page)
        except _Killed:
            pass
        except (LabError, OSError) as error:
            print(f"waker: {error}", file=sys.stderr)
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

    def nudge(self) -> None:
        self._order(Nudge())

    def is_alive(self) -> bool:
        return not self._has_ended

    def kill(self) -> None:
        if self._has_ended:
            return  # its ident may be another thread's by now
        ident = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(_Killed))
        # It dies at its next bytecode, so it has to come out of the kernel. Where that bytecode is in a callback of the
        # garbage collector, or in a `__del__`, the interpreter drops the exception: then it dies of the command.
        self._commands.append(None)
        os.write(self._snap, b"!")

    def stop(self) -> None:
        self._on_death = do_nothing
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
