"""The network as a Guest's driver has it: what comes is answered in the buffer in which it came.

No frame is copied: the buffer in which one came goes, with the answer in it, to be sent, and then back to receive. The
twin of i386/network.h, but for what is answered, which is in answers.py.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from ipaddress import AddressValueError, IPv4Address

from launcher.api import Notify
from launcher.engines.python import Cpu, Irqs, panic
from launcher.guests.support import find_device, kick
from shared.driverqueue import DriverQueue
from shared.virtio import ANY_LAYOUT, NET, NET_MAC, RING_FEATURES

BUFFERS = 64
_HEADER_SIZE = 10
_MAC_SIZE = 6
_BUFFER_SIZE = 1536  # the header, and the largest frame with a VLAN tag
_FRAMES_ADDR = 0x80000
_FEATURES = RING_FEATURES | 1 << NET_MAC | 1 << ANY_LAYOUT


class Network:
    """A network device that was found, and its queues from `start` on."""

    _received: DriverQueue[int]
    _sent: DriverQueue[int]

    def __init__(self, cpu: Cpu, guest: str) -> None:
        """Find it, and the Guest's own address in the first argument; without either the Guest crashes."""
        self._memory = cpu.memory
        self._found = find_device(cpu, NET, f"{guest}: a network (run with --tunnet)")
        try:
            self.addr = IPv4Address(cpu.args()[0].decode()).packed
        except (IndexError, UnicodeDecodeError, AddressValueError):
            panic(f"{guest}: its first argument is to be its IPv4 address")
        self.mac = self._found.config[:_MAC_SIZE]

    @property
    def text(self) -> bytes:
        """Both addresses, to be said."""
        return f"{self.mac.hex(':')}, {IPv4Address(self.addr)}".encode()

    def start(self) -> Generator[Notify, Irqs, None]:
        """Start it; nothing is received yet."""
        self._received, self._sent = yield from self._found.start(_FEATURES)

    def receive(self, buffers: int = BUFFERS) -> Generator[Notify, Irqs, None]:
        """Begin to receive, into so many buffers."""
        for number in range(buffers):
            self.give_back(number)
        yield from kick(self._received)

    def arrivals(self) -> Iterator[tuple[int, memoryview]]:
        """Take what came: buffer and frame. Each buffer is to be sent or given back, at any time."""
        while (used := self._received.reap()) is not None:
            number, written = used
            yield number, self.frame(number, max(written - _HEADER_SIZE, 0))

    def frame(self, number: int, length: int) -> memoryview:
        """Return the frame of this length in a buffer."""
        return self._memory.view(self.addr_of_frame(number), length)

    def addr_of_frame(self, number: int) -> int:
        """Return where in Guest memory the frame in a buffer begins."""
        return _addr_of(number) + _HEADER_SIZE

    def send(self, number: int, length: int) -> None:
        """Have the frame in a buffer sent; `go_on` takes the buffer back."""
        self._memory.view(_addr_of(number), _HEADER_SIZE)[:] = bytes(_HEADER_SIZE)
        self._sent.add([(_addr_of(number), _HEADER_SIZE + length)], [], number)

    def give_back(self, number: int) -> None:
        """Have a buffer received into."""
        self._received.add([], [(_addr_of(number), _BUFFER_SIZE)], number)

    def go_on(self) -> Generator[Notify, Irqs, None]:
        """Tell the device what it was given, and take back what was sent."""
        yield from kick(self._sent)
        while (used := self._sent.reap()) is not None:
            self.give_back(used[0])
        yield from kick(self._received)

    def may_sleep(self) -> bool:
        """Have an interrupt come for whatever there is to do next; False when that has come by now."""
        # Frames that are sent ask for an interrupt only where no other would come: when none is left to receive into.
        if self._received.in_flight:
            self._sent.disable_interrupts()
            return True
        return not self._sent.enable_interrupts()


def _addr_of(number: int) -> int:
    return _FRAMES_ADDR + number * _BUFFER_SIZE
