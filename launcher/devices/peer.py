"""The other end of a vring fd: a process of its own that fills a Guest's ring without the Launcher.

It is given the memory, writable, and the two eventfds. Told to FILL, it puts the text into the next buffer that the
Guest offered, publishes it in the used ring and rings the doorbell: the Launcher learns of it through its Waker, or
not at all.
"""

from __future__ import annotations

import contextlib
import os
import sys

from shared.child import forget_the_parent, spawn
from shared.errors import LabError, WireError
from shared.memory import Canary, GuestMemory
from shared.virtqueue import Virtqueue
from shared.vring import VringFd, ring_doorbell
from shared.vring_layout import VringLayout
from shared.wire import Kind, Message, PeerGone, Wire


class VringPeer:
    """The Launcher's handle on the peer process; `close()` it, or use it in a `with`."""

    def __init__(self, memory: GuestMemory, layout: VringLayout, fd: VringFd) -> None:
        """Start the process and pass it `memory`; raise `MemoryRefused` when that is private."""
        memory.fileno()
        self._wire, theirs = Wire.pair()
        with theirs:
            self.pid = spawn("launcher.devices.peer", theirs)
        try:
            with memory.canary() as canary:
                numbers = [*canary, layout.num, layout.desc, layout.avail, layout.used]
                self._wire.send(Kind.HELLO, numbers, fds=[memory.fileno(), fd.doorbell, fd.kick])
                self._expect(Kind.READY)
        except BaseException:
            self.close()
            raise

    def fill(self, text: str) -> None:
        """Have the next buffer filled with `text`; raise `WireError` when the Guest offered none."""
        self._wire.send(Kind.FILL, text=text)
        self._expect(Kind.DONE)

    def close(self) -> None:
        """End the process and wait for it."""
        self._wire.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def __enter__(self) -> VringPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expect(self, kind: Kind) -> None:
        answer = self._wire.receive()
        answer.close_fds()
        if answer.kind is not kind:
            raise WireError(f"vring peer: {answer.text or answer.kind.name}")


def live(socket_fd: int) -> int:
    """Be the peer process: attach, then fill when told to; return the exit code."""
    forget_the_parent()
    launcher = Wire.on_fd(socket_fd)
    with contextlib.suppress(PeerGone):
        try:
            queue, doorbell = _take_hello(launcher.receive())
            launcher.send(Kind.READY)
            while True:
                message = launcher.receive()
                message.close_fds()
                chain = queue.pop()
                if chain is None:
                    launcher.send(Kind.REFUSED, text="the Guest offered no buffer")
                    continue
                queue.push(chain, chain.write(message.text.encode()))
                if queue.needs_interrupt():
                    ring_doorbell(doorbell)
                launcher.send(Kind.DONE)
        except PeerGone:
            raise
        except (LabError, OSError) as error:
            launcher.send(Kind.REFUSED, text=str(error))
            return 1
    return 0


def _take_hello(hello: Message) -> tuple[Virtqueue, int]:
    if hello.kind is not Kind.HELLO or len(hello.numbers) != 6 or len(hello.fds) != 3:
        hello.close_fds()
        raise WireError(f"wire: a vring peer expects HELLO with three fds first, not {hello.kind.name}")
    canary_addr, word, *areas = hello.numbers
    memory = GuestMemory.attach(hello.fds[0], Canary(canary_addr, word), is_writable=True)
    return Virtqueue(memory, VringLayout(*areas), "vring"), hello.fds[1]


if __name__ == "__main__":
    sys.exit(live(0))
