"""The vring fd, after lguest's /dev/vring of 2008: an fd that is ready when a ring in Guest memory has news.

Its three verbs are the device node's. *Poll* asks whether any buffers have been used since the reader last looked,
and answers by comparing `used->idx`, read in the caller's own mapping of Guest memory, with the last index taken.
*Read* takes the news. *Write* tells the other end that there are new buffers.

The node's wait queue is a pipe here, the doorbell (a pipe, because every strategy can wait for one): the other end
rings it after it has published. It says "look again", never "there is news": whoever waits takes the ring of the bell
first and looks at the ring second, so that a ring published in between is rung for again. The last index taken lives
in the control page, where the Launcher writes it and the Waker reads it.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from shared.errors import SourceRefused
from shared.memory import GuestMemory
from shared.page import LOOKED_IDX, LOOKS, TAKEN_IDX, Page
from shared.structs import VRING_SLOTS

PIPE_SIZE = 65536
"""What a pipe holds by default: one read empties it."""


def ring_doorbell(doorbell: int) -> None:
    """Say "look again", after publishing; a bell that is full of rings will be heard anyway."""
    with contextlib.suppress(BlockingIOError):
        os.write(doorbell, b"!")


def open_doorbell() -> int:
    """Open a pipe as one fd for both its ends; neither reading nor ringing waits."""
    reader, writer = os.pipe()
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)


class RingView(NamedTuple):
    """Where a poller looks: the guest-physical address of a ring's index, and the slot in the control page.

    The index is `used->idx` of a vring fd, or `avail->idx` of a ring whose buffers a source needs (shared/room.py).
    """

    idx_addr: int
    slot: int

    def check(self, memory: GuestMemory) -> None:
        """Refuse what lies nowhere: raise `BadAddress` or `SourceRefused`."""
        memory.view(self.idx_addr, 2)
        if self.idx_addr % 2 or not 0 <= self.slot < VRING_SLOTS:
            raise SourceRefused(
                f"a ring index at {self.idx_addr:#x} with slot {self.slot} cannot be looked at; "
                f"indices lie at even addresses, and the control page has {VRING_SLOTS} slots"
            )

    def has_news(self, memory: GuestMemory, page: Page) -> bool:
        """Poll: whether the index is another than the Launcher has taken, as this process sees it."""
        return memory.u16[self.idx_addr >> 1] != page.words[TAKEN_IDX + self.slot]

    def answer_doorbell(self, doorbell: int, memory: GuestMemory, page: Page) -> None:
        """Take the bell's ring, then note what this process sees. The Waker calls it when the doorbell is ready."""
        with contextlib.suppress(BlockingIOError):
            os.read(doorbell, PIPE_SIZE)
        page.words[LOOKED_IDX + self.slot] = memory.u16[self.idx_addr >> 1]
        page.words[LOOKS] += 1


class VringFd:
    """The Launcher's end. `doorbell` and `kick` go to the other end, which rings the one and waits for the other."""

    def __init__(self, memory: GuestMemory, page: Page, used_idx_addr: int, slot: int) -> None:
        self._memory, self._page = memory, page
        self.view = RingView(used_idx_addr, slot)
        self.view.check(memory)
        self._word = TAKEN_IDX + slot
        self.doorbell = open_doorbell()
        try:
            self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            os.close(self.doorbell)
            raise
        page.words[self._word] = memory.u16[used_idx_addr >> 1]

    def fileno(self) -> int:
        """Return what to wait on: the doorbell."""
        return self.doorbell

    def poll(self) -> bool:
        """Whether the ring has news, seen through the Launcher's mapping."""
        return self.view.has_news(self._memory, self._page)

    def read(self) -> int:
        """Take the news: return how many buffers were used since the last read."""
        used = self._memory.u16[self.view.idx_addr >> 1]
        count = (used - self._page.words[self._word]) & 0xFFFF
        self._page.words[self._word] = used
        return count

    def write(self) -> None:
        """Tell the other end that there are new buffers."""
        os.eventfd_write(self.kick, 1)

    def close(self) -> None:
        """Close the doorbell and the kick."""
        os.close(self.doorbell)
        os.close(self.kick)
