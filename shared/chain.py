"""One chain: from the Guest's descriptors to views of Guest memory, believing nothing.

The Guest can change a descriptor while it is being looked at. So each one is read exactly once, into Python
numbers; those are checked, and only those are used. What comes out is views that lie in Guest memory, or a
`RingError` that says in one sentence which descriptor is wrong and how. The work is bounded: no chain is
followed past as many descriptors as its table has.
"""

from __future__ import annotations

from struct import Struct
from typing import NoReturn

from shared.errors import RingError
from shared.memory import GuestMemory
from shared.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MAX_CHAIN_BYTES, MAX_QUEUE_SIZE
from shared.vring_layout import DESC_SIZE, VringLayout

# structs.VringDesc as numbers: address, length, flags, next. Four times as fast here as a ctypes structure.
DESCRIPTOR = Struct("<QIHH")
_NEXT_OR_INDIRECT = DESC_F_NEXT | DESC_F_INDIRECT


class Chain:
    """Buffers that the Guest offered together: those to read, then those to write. One thread at a time.

    The views are Guest memory itself, which the Guest may change at any time: copy first what is decided on.
    """

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable

    @property
    def readable_bytes(self) -> int:
        """How many bytes the Guest sent."""
        return sum(map(len, self.readable))

    @property
    def writable_bytes(self) -> int:
        """How many bytes the Guest has room for."""
        return sum(map(len, self.writable))

    def read(self) -> bytes:
        """Return a copy of all that the Guest sent."""
        return b"".join(self.readable)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Scatter `data` over the writable buffers, from the first byte of the first one.

        Returns how many bytes were written: all of `data`, or as many as fit; the rest is the caller's.
        """
        done = 0
        for view in self.writable:
            part = data[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
            if done == len(data):
                break
        return done


class ChainReader:
    """Reads the chains of one ring; it keeps no state between two of them. One thread at a time."""

    __slots__ = ("_bytes", "_chain_limit", "_desc", "_indirect", "_name", "_num", "_unpack")

    def __init__(self, memory: GuestMemory, layout: VringLayout, name: str, *, indirect: bool) -> None:
        self._bytes = memory.view(0, memory.size)
        # VirtIO 1.3, 2.7.5.2: 2**32 bytes. And one larger than memory would name some bytes twice.
        self._chain_limit = min(memory.size, MAX_CHAIN_BYTES)
        self._desc = layout.desc
        self._num = layout.num
        self._name = name
        self._indirect = indirect
        self._unpack = DESCRIPTOR.unpack_from

    def read(self, head: int) -> Chain:
        """Return the chain that starts at descriptor `head`; raise `RingError` when it is malformed."""
        if head >= self._num:
            self.refuse_head(head)
        return self.follow(head, self._unpack(self._bytes, self._desc + (head << 4)))

    def follow(self, head: int, first: tuple[int, int, int, int]) -> Chain:
        """Return the chain whose first descriptor was read already; raise `RingError` if it is malformed."""
        addr, length, flags, _ = first
        data = self._bytes
        end = addr + length
        # Most chains are one buffer: the short way. Whatever is wrong with it, the long way says.
        if not flags & _NEXT_OR_INDIRECT and length and end <= len(data):
            if flags & DESC_F_WRITE:
                return Chain(head, [], [data[addr:end]])
            return Chain(head, [data[addr:end]], [])
        return self._walk(head, first)

    def refuse_head(self, head: int) -> NoReturn:
        """Raise `RingError` for a head that the table does not have."""
        self._refuse(head, f"was offered, but the table has {self._num}")

    def _walk(self, head: int, first: tuple[int, int, int, int]) -> Chain:
        data, memory_size, unpack = self._bytes, len(self._bytes), self._unpack
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        table, entries, indirect_of = self._desc, self._num, None
        at, seen, total = head, 1, 0
        addr, length, flags, next_ = first
        while True:
            end = addr + length
            if not length:
                self._refuse(at, "has no length", indirect_of)
            if end > memory_size:
                self._refuse(at, f"ends at {end:#x}, past guest memory ({memory_size:#x})", indirect_of)
            if flags & DESC_F_INDIRECT:
                self._check_indirect(at, length, flags, indirect_of)
                # VirtIO 1.3, 2.7.5.3.2: it may end an ordinary chain, and its WRITE flag is to be ignored.
                table, entries, indirect_of = addr, length // DESC_SIZE, at
                at, seen = 0, 1
                addr, length, flags, next_ = unpack(data, table)
                continue
            total += length
            if total > self._chain_limit:
                self._refuse(at, f"makes a chain of {total:#x} bytes, over {self._chain_limit:#x}", indirect_of)
            if flags & DESC_F_WRITE:
                writable.append(data[addr:end])
            elif writable:
                # VirtIO 1.3, 2.7.4.2
                self._refuse(at, "is to be read, but follows one to be written", indirect_of)
            else:
                readable.append(data[addr:end])
            if not flags & DESC_F_NEXT:
                return Chain(head, readable, writable)
            if next_ >= entries:
                self._refuse(at, f"goes on at {next_}, but the table has {entries}", indirect_of)
            if seen == entries:
                # VirtIO 1.3, 2.7.5.2
                reason = f"goes on after as many as the table has, {entries}: the chain is a loop"
                self._refuse(at, reason, indirect_of)
            at, seen = next_, seen + 1
            addr, length, flags, next_ = unpack(data, table + (at << 4))

    def _check_indirect(self, at: int, length: int, flags: int, indirect_of: int | None) -> None:
        # VirtIO 1.3, 2.7.5.3.1, and (the bound) 2.7.4.1
        if not self._indirect:
            self._refuse(at, "is indirect, which was not negotiated", indirect_of)
        if indirect_of is not None:
            self._refuse(at, "is indirect again", indirect_of)
        if flags & DESC_F_NEXT:
            self._refuse(at, "is indirect, but goes on")
        if length % DESC_SIZE:
            self._refuse(at, f"has an indirect table of {length} bytes, not a multiple of {DESC_SIZE}")
        if length > MAX_QUEUE_SIZE * DESC_SIZE:
            self._refuse(at, f"has an indirect table of {length // DESC_SIZE} entries, over {MAX_QUEUE_SIZE}")

    def _refuse(self, at: int, reason: str, indirect_of: int | None = None) -> NoReturn:
        if indirect_of is None:
            raise RingError(self._name, at, reason)
        raise RingError(self._name, indirect_of, f"has an indirect table whose descriptor {at} {reason}")
