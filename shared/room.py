"""Room: whether the Guest has given a buffer to read into, told so that a Waker can see it by itself.

A device that finds no buffer has its file unwatched until the Guest notifies: two changes of the watch set, each
acknowledged, for every buffer that comes late. But a Waker that sees Guest memory can look: the Guest's index of
available buffers lies there, and the index up to which the Launcher has taken them lies in the control page. While
the two are the same there is no room, and the file, ready as it may be, is left alone.

The danger is a buffer that comes just as the Waker looks away. So each side tells first and looks second. The Waker
marks the file as starved, and then looks at the ring once more. The Launcher, before it tells that the last buffer is
taken, asks the Guest to notify for the next one; and at a notification it looks for starved files, and nudges.
"""

from __future__ import annotations

from shared.memory import GuestMemory
from shared.page import TAKEN_IDX, Page
from shared.virtqueue import Virtqueue
from shared.vring import RingView


class Room:
    """The Launcher's end, for one ring of buffers that a device writes. The vCPU's thread calls it."""

    def __init__(self, memory: GuestMemory, page: Page, slot: int) -> None:
        """Prepare to tell by `slot` of the control page, which is nobody else's."""
        self._memory, self._words, self._word = memory, page.words, TAKEN_IDX + slot
        self._slot = slot

    def at(self, avail_idx_addr: int) -> RingView:
        """Return what a source carries, for the ring whose `avail->idx` is at this guest-physical address."""
        self._words[self._word] = self._memory.u16[avail_idx_addr >> 1]
        return RingView(avail_idx_addr, self._slot)

    def tell(self, queue: Virtqueue, spare: int = 0) -> None:
        """Tell how many buffers are taken, after some were, or came; `spare` of them can still be written."""
        if not queue.is_empty() or spare or queue.enable_notify():
            queue.disable_notify()
        self._words[self._word] = (queue.popped_idx - spare) & 0xFFFF

    def forget(self) -> None:
        """Begin at the zeroed ring again."""
        self._words[self._word] = 0
