"""The console: standard input and output as virtio-console (VirtIO 1.3, 5.3), as lguest's Launcher had it.

Queue 0 takes what is typed to the Guest, queue 1 what the Guest says. Three things are more than moving bytes:

- A terminal is made raw, so that the Guest gets every key, and is put back on every way out that a process can take.
- The end of the input hands the Guest one EOT (0x04), as a terminal's ^D would, and then nothing more.
- A raw terminal has no ^C. So three of them within a second are taken as "let me out", as in lguest.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
from collections import deque
from collections.abc import Sequence
from time import monotonic

from shared.errors import Interrupted, LabError, RingError
from shared.room import Room
from shared.virtio import CONSOLE, RING_FEATURES
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

EOT = b"\x04"
_CTRL_C = 0x03
_LET_ME_OUT = 3
_WITHIN_S = 1.0
_QUEUE_SIZE = 64
# No more than this at a time goes out, so that one Guest buffer cannot block us for long (a pipe that is said to be
# writable takes PIPE_BUF without blocking).
_WRITE_SIZE = 4096
# What is typed while the Guest gives no buffer is kept, as a terminal keeps it, and read all the same: a Guest that
# hangs, or never starts its console, must not keep the user from getting out. Past that the terminal itself keeps it.
_TYPED_AHEAD = 4096


class Console:
    """The console device on two fds, which stay the caller's. The vCPU's thread calls it."""

    name = "console"
    type_id = CONSOLE
    queue_sizes: tuple[int, ...] = (_QUEUE_SIZE, _QUEUE_SIZE)
    features = RING_FEATURES
    config = b""

    def __init__(
        self, input_fd: int = 0, output_fd: int = 1, stop_fd: int | None = None, room: Room | None = None
    ) -> None:
        """Take the two ends, and make the input raw if it is a terminal.

        A write that would block for long gives up when `stop_fd` becomes readable: it says that the user wants out.
        So do three ^C, for a terminal is read on meanwhile.
        With a `room`, a Waker that sees it leaves the input alone while the Guest has given no buffer; but for a
        terminal, which is read on.
        """
        self._output_fd = output_fd
        self._outlet = select.poll()
        self._outlet.register(output_fd, select.POLLOUT)
        if stop_fd is not None:
            self._outlet.register(stop_fd, select.POLLIN)
        self._queues: Sequence[Virtqueue] = ()
        self._spare: Chain | None = None
        self._is_starved = False
        self._has_ended = False
        self._owes_eot = False
        self._typed_ahead = bytearray()
        self._interrupts: deque[float] = deque(maxlen=_LET_ME_OUT)
        self._source = Source(input_fd, self.name)
        self._cooked = _make_raw(input_fd)
        self._room = room if self._cooked is None else None
        try:
            os.fstat(input_fd)
        except OSError:  # closed by whoever started us: that is the end of the input, too
            self._has_ended = self._owes_eot = True

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Have the input watched."""
        if self._room is not None:
            self._source.room = self._room.at(rings[0].avail_idx)
        return self._sources()

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Take both queues; what was typed before the Guest was ready comes now."""
        self._queues = queues
        queues[0].disable_notify()  # it is of interest only while we starve
        self._is_starved = False
        self._hand_over()
        self._tell_room()
        return self._sources()

    def on_ready(self, source: Source) -> bool:
        """Move what was typed into the Guest's next buffer; False when it has given none (a terminal is read on)."""
        if self._has_ended:  # while we waited for the output
            return False
        chain = None if self._typed_ahead else self._take_input_buffer()
        size = _TYPED_AHEAD - len(self._typed_ahead) if chain is None else min(chain.writable_bytes, 65536)
        if chain is None and (self._cooked is None or not size):
            return False
        try:
            data = os.read(source.fd, size)
        except BlockingIOError:  # somebody else shares this file and was quicker
            self._spare = chain
            self._tell_room()
            return True
        except OSError as error:  # a terminal that hung up (EIO)
            if not os.isatty(source.fd):
                raise LabError(f"console: cannot read the input: {error.strerror}") from error
            data = b""
        self._watch_for_escape(data)
        if not data:
            self._has_ended = True
        if chain is not None:
            self._give(chain, data or EOT)
        else:
            self._owes_eot = self._has_ended
            self._typed_ahead += data
        return not self._has_ended

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Write what the Guest says; or take up reading again when it has given buffers to read into."""
        if queue == 1:
            self._write_out()
            return ()
        if not self._is_starved:
            self._tell_room()
            return ()
        self._is_starved = False
        self._queues[0].disable_notify()
        self._hand_over()
        self._tell_room()  # a kick may have come late, for a buffer that is taken: then we want the next one
        return self._sources()

    def lines(self) -> Sequence[int]:
        """Ask for the interrupts that the Guest wants to have."""
        return [line for line, queue in enumerate(self._queues) if queue.needs_interrupt()]

    def reset(self) -> None:
        """Forget the queues."""
        self._queues = ()
        self._spare = None
        if self._room is not None:
            self._room.forget()
        self._owes_eot = self._has_ended  # the next driver is to learn of it, too

    def close(self) -> None:
        """Put the terminal back as it was."""
        cooked, self._cooked = self._cooked, None
        if cooked is not None:
            with contextlib.suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(self._source.fd, termios.TCSADRAIN, cooked)

    def _tell_room(self) -> None:
        if self._room is not None and self._queues:
            self._room.tell(self._queues[0], spare=self._spare is not None)

    def _sources(self) -> Sequence[Source]:
        return () if self._has_ended else (self._source,)

    def _take_input_buffer(self) -> Chain | None:
        chain, self._spare = self._spare, None
        if chain is not None or not self._queues:
            return chain
        queue = self._queues[0]
        chain = queue.pop()
        if chain is None and queue.enable_notify():
            queue.disable_notify()
            chain = queue.pop()
        if chain is None:
            self._is_starved = True
            return None
        if chain.readable or not chain.writable:
            # VirtIO 1.3, 5.3.6: the receive queue holds buffers for the device to write.
            raise RingError(queue.name, chain.head, "is a buffer for input that the device cannot write")
        return chain

    def _give(self, chain: Chain, data: bytes) -> None:
        self._queues[0].push(chain, chain.write(data))
        self._tell_room()

    def _hand_over(self) -> None:
        """Give the Guest what was typed while it had no buffer, and the end after it."""
        while self._typed_ahead and (chain := self._take_input_buffer()) is not None:
            taken = chain.write(self._typed_ahead)
            del self._typed_ahead[:taken]
            self._queues[0].push(chain, taken)
        if self._typed_ahead:
            return
        if self._owes_eot and (chain := self._take_input_buffer()) is not None:
            self._owes_eot = False
            self._give(chain, EOT)

    def _watch_for_escape(self, data: bytes) -> None:
        if self._cooked is None:
            return
        now = monotonic()
        self._interrupts.extend([now] * data.count(_CTRL_C))
        if len(self._interrupts) == _LET_ME_OUT and now - self._interrupts[0] < _WITHIN_S:
            raise Interrupted("stopped by three ^C within a second")

    def _write_out(self) -> None:
        queue = self._queues[1]
        queue.disable_notify()
        while True:
            while (chain := queue.pop()) is not None:
                if chain.writable:
                    # VirtIO 1.3, 5.3.6: the transmit queue holds buffers for the device to read.
                    raise RingError(queue.name, chain.head, "is a buffer of output that the device is to write")
                self._write(chain.read())
                queue.push(chain, 0)
            if not queue.enable_notify():
                return
            queue.disable_notify()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if not self._wait_for_room():
                return
            try:
                rest = rest[os.write(self._output_fd, rest[:_WRITE_SIZE]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise LabError(f"console: cannot write the output: {error.strerror}") from error

    def _wait_for_room(self) -> bool:
        """Wait until the output takes more; False when the user wants out instead."""
        is_terminal = self._cooked is not None and not self._has_ended and self._source.fd != self._output_fd
        ready = self._outlet.poll(0 if is_terminal else None)
        return any(fd == self._output_fd for fd, _ in ready) if ready else self._listen_until_room()

    def _listen_until_room(self) -> bool:
        """Wait as long, and read the terminal meanwhile: a key that nobody reads cannot be the ^C that lets out."""
        keys = self._source.fd
        self._outlet.register(keys, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in self._outlet.poll()}
                if ready != {keys}:
                    return self._output_fd in ready
                if not self.on_ready(self._source):  # it has ended, or there is no room to keep more
                    self._outlet.unregister(keys)
        finally:
            with contextlib.suppress(KeyError):
                self._outlet.unregister(keys)


def _make_raw(fd: int) -> list[int | list[bytes | int]] | None:
    """Make a terminal hand over every key at once, unseen; return how it was, or None for what is no terminal."""
    try:
        cooked = termios.tcgetattr(fd)
    except termios.error:
        return None
    raw = list(cooked)
    raw[0] = cooked[0] & ~termios.IXON
    raw[3] = cooked[3] & ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    control = list(cooked[6])
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    raw[6] = control
    termios.tcsetattr(fd, termios.TCSADRAIN, raw)
    return cooked
