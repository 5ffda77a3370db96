"""A ring as numpy arrays: many entries read or written by one call. It knows no rules but one.

The rule is that a head is checked before it indexes the table; all others are shared.chain's. Only this file
of `shared` imports numpy, and only the batch forms of `Virtqueue` import this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.chain import DESCRIPTOR, Chain, ChainReader
from shared.memory import GuestMemory
from shared.vring_layout import DESC_SIZE, VringLayout

_DESCRIPTOR = np.dtype(f"V{DESC_SIZE}")  # opaque here: struct makes tuples of them in a third of numpy's time


class RingArrays:
    """The areas of one ring, seen as arrays. They keep Guest memory mapped for as long as they live."""

    def __init__(self, memory: GuestMemory, layout: VringLayout) -> None:
        data = memory.view(0, memory.size)
        num = layout.num
        self._num = num
        self._desc = np.frombuffer(data, _DESCRIPTOR, num, layout.desc)
        self._avail = np.frombuffer(data, np.uint16, num, layout.avail_ring)
        self._used = np.frombuffer(data, np.uint32, 2 * num, layout.used_ring).reshape(num, 2)

    def read_chains(self, reader: ChainReader, start: int, count: int) -> list[Chain]:
        """Return the `count` chains offered from index `start` on; raise `RingError` for a malformed one."""
        # A copy: each head, and each first descriptor, is read from Guest memory once.
        heads = self._avail[self._entries(start, count)]
        if heads.max(initial=0) >= self._num:
            reader.refuse_head(int(heads[heads >= self._num][0]))
        firsts = DESCRIPTOR.iter_unpack(self._desc[heads].tobytes())
        follow = reader.follow
        return [follow(head, first) for head, first in zip(heads.tolist(), firsts, strict=True)]

    def write_used(self, start: int, elements: Sequence[tuple[int, int]]) -> None:
        """Write pairs of head and bytes written into the used ring, from index `start` on."""
        if elements:
            self._used[self._entries(start, len(elements))] = elements

    def _entries(self, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        return np.arange(start, start + count) & (self._num - 1)
