"""The devices that are rung in a measured machine. Each notes in the ledger what it served, and when.

The time is taken immediately after the read, as the yardstick in C does, and before any book is kept. Nothing here
allocates on the way but what the interpreter must.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from time import monotonic_ns

from launcher.bench.measure.ledger import HEADER_WORDS, IN_VAIN, ROW_WORDS, SERVED, SERVED_AT, SOURCE, WAKE, Ledger
from launcher.bench.measure.stimulus import stream
from launcher.devices.console import Console
from launcher.devices.pulse import Pulse
from launcher.devices.vring import VringDevice
from shared.driverqueue import DriverQueue
from shared.errors import EXIT_BROKEN_RULE, LabError
from shared.memory import GuestMemory
from shared.page import BREAKS, TAKEN, TAKEN_IDX, Page
from shared.room import Room
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from waker import Source

BUFFERS_ADDR = 0x120000
"""Where buffers lie that are not the Guest's own, above all that it uses: its image lies at 0x100000."""
_BUFFER_SIZE = 2048
_RING_SIZE = 256
_ROOM_SLOT = 1
_ROOM_IDX_ADDR = 0x30000
"""Where the index of available buffers is that a churned source needs."""


class Wrong(LabError):  # noqa: N818 - what came
    """Say that what came back is not what was sent."""

    exit_code = EXIT_BROKEN_RULE


class Served:
    """Writes down which rings were served. The wake is the break of the Launcher's that it was answered in."""

    def __init__(self, ledger: Ledger, page: Page | None, sources: int = 1) -> None:
        """Read from the plan in `ledger` which rows are whose."""
        self._words = ledger.words
        self._page_words = None if page is None else page.words
        rows: list[list[int]] = [[] for _ in range(sources)]
        for number, source in enumerate(ledger.column(SOURCE)):
            rows[source].append(HEADER_WORDS + number * ROW_WORDS)
        self._rows = [iter(mine) for mine in rows]
        self._in_vain = 0

    def see(self) -> None:
        """See how many breaks were in vain so far. To be called while the Waker is held: then none is on its way.

        It is noted with what is served next: of rings that the Guest has yet to answer, the next answer.
        """
        if (page := self._page_words) is not None:
            self._in_vain = max(0, page[BREAKS] - page[TAKEN])

    def note(self, source: int, count: int, now_ns: int) -> None:
        """Note that so many more rings of this source were served at this time; raise `Wrong` if it had fewer."""
        rows = islice(self._rows[source], count)
        noted = 0
        for at in rows:
            self._note(at, now_ns)
            noted += 1
        if noted < count:
            raise Wrong(f"source {source}: {count} rings came, and {noted} were still to come")
        self._words[SERVED] += count

    def note_row(self, number: int, now_ns: int) -> None:
        """Note that ring `number` was served at this time: for rings that need not be served in order."""
        words, at = self._words, HEADER_WORDS + number * ROW_WORDS
        if at >= len(words) or words[at + SERVED_AT]:
            raise Wrong(f"ring {number} was answered, which nobody waits for")
        self._note(at, now_ns)
        words[SERVED] += 1

    def _note(self, at: int, now_ns: int) -> None:
        words, page = self._words, self._page_words
        words[at + SERVED_AT] = now_ns
        if page is None:
            words[at + WAKE] = words[SERVED] + 1
        else:
            words[at + WAKE], words[at + IN_VAIN] = page[TAKEN], self._in_vain


class Rings(Pulse):
    """The pipes that the stimulus rings, and some files that nobody does."""

    def __init__(self, fds: Sequence[int], served: Served, idle: int = 0, idle_kind: str = "eventfd") -> None:
        """Watch these pipes, and `idle` other files of a kind."""
        super().__init__(count=0, kind=idle_kind)
        self._served = served
        self._numbers: dict[Source, int] = {}
        for number, fd in enumerate(fds):
            source = Source(fd, f"ring {number}")
            self.sources.append(source)
            self._writers[source] = fd
            self._numbers[source] = number
        for _ in range(idle):
            self.open()

    def on_ready(self, source: Source) -> bool:
        """Take what was rung."""
        count = len(os.read(source.fd, 4096))
        now_ns = monotonic_ns()
        self._served.see()
        self._served.note(self._numbers[source], count, now_ns)
        self._wants_interrupt = True
        return True


class Churned(Rings):
    """A pipe whose every ring takes the last buffer that the Guest has given; `refill` is the Guest that gives one.

    A ring-aware Waker is told of it where it looks; any other has to be told to leave the file alone, and to watch it
    again.
    """

    def __init__(self, fds: Sequence[int], served: Served, memory: GuestMemory, page: Page, *, is_aware: bool) -> None:
        super().__init__(fds, served)
        self._memory, self._page_words = memory, page.words
        self._is_aware = is_aware
        self.is_starved = False
        if is_aware:
            self.sources[0].room = Room(memory, page, _ROOM_SLOT).at(_ROOM_IDX_ADDR)
            self._memory.u16[_ROOM_IDX_ADDR >> 1] += 1

    def on_ready(self, source: Source) -> bool:
        """Take what was rung, and with it the last buffer."""
        super().on_ready(source)
        self.is_starved = True
        if self._is_aware:
            self._page_words[TAKEN_IDX + _ROOM_SLOT] = self._memory.u16[_ROOM_IDX_ADDR >> 1]
        return self._is_aware

    def refill(self) -> Sequence[Source]:
        """Give another buffer; return what is to be watched again."""
        self.is_starved = False
        if not self._is_aware:
            return self.sources
        at = _ROOM_IDX_ADDR >> 1
        self._memory.u16[at] = (self._memory.u16[at] + 1) & 0xFFFF
        return ()


class Typed(Console):
    """A console whose output is looked at: what was typed must come back, and each ring's last byte is its end."""

    def __init__(self, input_fd: int, served: Served, size: int, room: Room | None) -> None:
        self._sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        super().__init__(input_fd, self._sink, room=room)
        self._served, self._size, self._at = served, size, 0
        self.is_started = False
        """Whether the Guest's driver is there."""

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Note that the Guest is up: how long that took is not what is measured."""
        self.is_started = True
        return super().start(queues)

    def on_ready(self, source: Source) -> bool:
        """Take what was typed; what the Guest makes of it comes later."""
        keep = super().on_ready(source)
        self._served.see()
        return keep

    def _write(self, data: bytes) -> None:
        super()._write(data)
        now_ns = monotonic_ns()
        if data != stream(self._at, len(data)):
            raise Wrong(f"echo: byte {self._at} of what was typed, or one after it, did not come back as it was")
        before, self._at = self._at, self._at + len(data)
        if count := self._at // self._size - before // self._size:
            self._served.note(0, count, now_ns)

    def close(self) -> None:
        """Close the sink, too."""
        super().close()
        os.close(self._sink)


class Filled(VringDevice):
    """A ring that the stimulus fills. The Guest's half is here: it offers buffers and takes them back.

    The sequence number lies in the buffer: what the Guest is told of must be there, and in order.
    """

    def __init__(self, memory: GuestMemory, page: Page, served: Served) -> None:
        super().__init__(memory, page, _RING_SIZE)
        self._served, self._number = served, 0
        self._driver: DriverQueue[int]

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Offer a whole ring of buffers."""
        sources = super().attach(rings)
        self._driver = DriverQueue(self._memory, self.layout, "vring of the Guest")
        for number in range(_RING_SIZE):
            self._offer(BUFFERS_ADDR + number * _BUFFER_SIZE)
        return sources

    def on_ready(self, source: Source) -> bool:
        """Take the news; then be the Guest."""
        before = self.taken
        keep = super().on_ready(source)
        now_ns = monotonic_ns()
        self._served.see()
        if count := self.taken - before:
            self._served.note(0, count, now_ns)
            for _ in range(count):
                self._take_back()
        return keep

    def _offer(self, addr: int) -> None:
        self._driver.add([], [(addr, _BUFFER_SIZE)], addr)

    def _take_back(self) -> None:
        used = self._driver.reap()
        if used is None:
            raise Wrong(f"vring: buffer {self._number} was announced, and is not there")
        addr = used[0]
        number = int.from_bytes(self._memory.view(addr, 8), "little")
        if number != self._number:
            raise Wrong(f"vring: buffer {self._number} holds number {number}")
        self._number += 1
        self._offer(addr)
