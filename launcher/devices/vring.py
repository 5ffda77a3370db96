"""The vring device: a ring of the Guest's that another process fills, and an fd that says when.

The Launcher copies nothing and sees no buffer. The other end (launcher/devices/peer.py; in 2008 the host's tap) was
passed the memory, fills the Guest's buffers in place and rings the doorbell; when the Waker breaks the Guest for it,
all there is to do is the interrupt. A Guest that resets the device ends the other end's service: start another.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.memory import GuestMemory
from shared.page import Page
from shared.virtio import VRING
from shared.virtqueue import Virtqueue
from shared.vring import VringFd
from shared.vring_layout import VringLayout
from waker import Source


class VringDevice:
    """One ring served by a stranger. The vCPU's thread calls it."""

    name = "vring"
    type_id = VRING
    features = 0  # the other end is not told what the Guest would have acknowledged
    config = b""

    def __init__(self, memory: GuestMemory, page: Page, num: int = 64, slot: int = 0) -> None:
        """Prepare a ring of `num` entries; `slot` is its own in the control page."""
        self.queue_sizes: tuple[int, ...] = (num,)
        self._memory, self._page, self._slot = memory, page, slot
        self.layout: VringLayout
        self.fd: VringFd
        self.source: Source
        self.taken = 0
        """How many used buffers were announced to the Guest."""
        self._wants_interrupt = False

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Make the vring fd, now that its ring has a place."""
        (self.layout,) = rings
        self.fd = VringFd(self._memory, self._page, self.layout.used_idx, self._slot)
        self.source = Source(self.fd.doorbell, self.name, self.fd.view)
        return (self.source,)

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Do nothing: the queue is the other end's to serve."""
        return ()

    def on_ready(self, source: Source) -> bool:
        """Take the news; no byte of it."""
        news = self.fd.read()
        self.taken += news
        self._wants_interrupt = self._wants_interrupt or news > 0
        return True

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Tell the other end that there are new buffers."""
        self.fd.write()
        return ()

    def lines(self) -> Sequence[int]:
        """Ask for an interrupt when there was news."""
        wants, self._wants_interrupt = self._wants_interrupt, False
        return (0,) if wants else ()

    def reset(self) -> None:
        """Begin at the zeroed ring again."""
        self.fd.read()

    def close(self) -> None:
        """Close the vring fd."""
        if hasattr(self, "fd"):
            self.fd.close()
