"""The console as a Guest's driver has it: say something, hear whether the end was typed, or send all back.

The twin of i386/words.h.
"""

from __future__ import annotations

from collections.abc import Generator

from launcher.api import Notify
from launcher.engines.python import Cpu, Irqs, Step
from launcher.guests.support import do, find_device, kick
from shared.driverqueue import DriverQueue
from shared.virtio import CONSOLE

EOT = 0x04
_BUFFERS = 8
_BUFFER_SIZE = 256
_TEXT_ADDR = 0x10000
_TYPED_ADDR = 0x11000


class Words:
    """A console that was found, and its queues from `start` on."""

    typed: DriverQueue[int]
    said: DriverQueue[int]

    def __init__(self, cpu: Cpu, guest: str) -> None:
        """Find the console; without one, the Guest of this name crashes."""
        self.memory = cpu.memory
        self._found = find_device(cpu, CONSOLE, f"{guest}: a console")

    def start(self) -> Generator[Notify, Irqs, None]:
        """Start it; nothing is listened to yet."""
        self.typed, self.said = yield from self._found.start()

    def say(self, text: bytes) -> Generator[Notify | Step, Irqs, None]:
        """Say it, and wait until it was said."""
        self.memory.view(_TEXT_ADDR, len(text))[:] = text
        self.said.enable_interrupts()  # an Echo may have done without
        yield from do(self.said, [(_TEXT_ADDR, len(text))], [])


class Ear:
    """Hears whether an EOT was typed; what else was is nobody's business."""

    def __init__(self, words: Words) -> None:
        """Give one buffer, of which `go_on` tells the console."""
        self._words = words
        self.has_heard_eot = False
        words.typed.add([], [(_TYPED_ADDR, _BUFFER_SIZE)], 0)

    def go_on(self) -> Generator[Notify, Irqs, None]:
        """Listen on."""
        typed = self._words.typed
        yield from kick(typed)
        while (used := typed.reap()) is not None:
            self.has_heard_eot |= EOT in bytes(self._words.memory.view(_TYPED_ADDR, used[1]))
            typed.add([], [(_TYPED_ADDR, _BUFFER_SIZE)], 0)
            yield from kick(typed)


class Echo:
    """Sends back what is typed, until an EOT: what came before it is still sent.

    No byte is copied: a buffer that came filled goes, as it is, to be said, and then back. When saying is slow the
    buffers are all over there, and what is typed waits at the host.
    """

    def __init__(self, words: Words) -> None:
        """Give all buffers, of which `go_on` tells the console."""
        self._words = words
        self.has_heard_eot = False
        self.echoed = 0
        """How many bytes were sent back."""
        for number in range(_BUFFERS):
            self._listen_with(number)

    @property
    def is_over(self) -> bool:
        """Whether the EOT has come and all before it was said."""
        return self.has_heard_eot and not self._words.said.in_flight

    def go_on(self) -> Generator[Notify, Irqs, None]:
        """Send back what has come."""
        typed, said = self._words.typed, self._words.said
        while not self.has_heard_eot and (used := typed.reap()) is not None:
            number, written = used
            addr = _TYPED_ADDR + number * _BUFFER_SIZE
            length = len(bytes(self._words.memory.view(addr, written)).partition(bytes([EOT]))[0])
            self.has_heard_eot = length < written
            if length:
                said.add([(addr, length)], [], number)
                self.echoed += length
            else:
                self._listen_with(number)
        yield from kick(said)
        while (used := said.reap()) is not None:
            self._listen_with(used[0])
        if not self.is_over:
            yield from kick(typed)

    def may_sleep(self) -> bool:
        """Have an interrupt come for whatever there is to do next; False when that has come by now."""
        # What is typed wakes us anyway; what was said asks for an interrupt only where no other would come.
        if self.has_heard_eot or not self._words.typed.in_flight:
            return not self._words.said.enable_interrupts()
        self._words.said.disable_interrupts()
        return True

    def _listen_with(self, number: int) -> None:
        self._words.typed.add([], [(_TYPED_ADDR + number * _BUFFER_SIZE, _BUFFER_SIZE)], number)
