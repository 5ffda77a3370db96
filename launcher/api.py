"""The seams of the Launcher: protocols and values only.

An engine implements `Vcpu`; a device implements `Device`; neither knows the other. machine.py joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.breaker import Breaker
from shared.memory import PAGE_SIZE
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout
from waker import Source


@dataclass(frozen=True, slots=True)
class Broken:
    """The Guest was broken out of running, or woken from a halt, by a break."""


@dataclass(frozen=True, slots=True)
class Notify:
    """The Guest says that what is at `addr` has news: a ring, or a device's status (LHCALL_NOTIFY)."""

    addr: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The Guest is done (LHCALL_SHUTDOWN)."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The Guest wants to begin anew, on a machine of which nothing is left (lguest's restart_guest())."""


@dataclass(frozen=True, slots=True)
class Died:
    """The Guest crashed, for the reason it gave, or for what the engine saw."""

    reason: str


Exit = Broken | Notify | Shutdown | Restart | Died


DEVICE_AREA_PAGES = 64
"""What lies behind RAM: the device page, all rings, and at the end the page of the command line."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What an engine must know to start a Guest.

    RAM is guest-physical 0 to `device_page`; the device page, its rings, and the command line follow. `entry` is the
    address of the first instruction (0 for a Guest written in Python, which has none).
    """

    device_page: int
    entry: int = 0

    @property
    def command_line(self) -> int:
        """Where the Guest finds its arguments: how many in 32 bits, then each ended by a NUL."""
        return self.device_page + (DEVICE_AREA_PAGES - 1) * PAGE_SIZE


class Vcpu(Protocol):
    """What runs the Guest: the contract of /dev/lguest. All but what `breaker()` returns: one thread only."""

    def run(self) -> Exit:
        """Run the Guest until it wants something or is broken out. A halted Guest stays inside.

        A break asked for at any moment before or during the call ends it with `Broken`.
        """

    def interrupt(self, irq: int) -> None:
        """Have the Guest take interrupt `irq` as soon as it lets interrupts in; asking twice is asking once."""

    def breaker(self) -> Breaker:
        """Return what breaks this vCPU out."""

    def close(self) -> None:
        """Give back all that the engine opened."""


class Device(Protocol):
    """One device as the table and the loop see it. Called by the vCPU's thread only.

    A device never raises an interrupt by itself: it says which of its lines wants one, and is asked after each call.
    Line n belongs to queue n; a device without queues has line 0.
    """

    name: str
    type_id: int
    queue_sizes: tuple[int, ...]
    features: int
    config: bytes

    def attach(self, rings: Sequence[VringLayout]) -> Sequence[Source]:
        """Learn where its rings are, before the Guest exists; return what is to be watched from the beginning."""

    def start(self, queues: Sequence[Virtqueue]) -> Sequence[Source]:
        """Take the queues: the Guest's driver is ready. Return the sources that are to be watched again."""

    def on_ready(self, source: Source) -> bool:
        """Serve a source that is ready; False says: stop watching it until the Guest notifies again."""

    def on_notify(self, queue: int) -> Sequence[Source]:
        """Serve a queue in which the Guest put something; return the sources that are to be watched again."""

    def lines(self) -> Sequence[int]:
        """Return the lines that want an interrupt for what happened since this was last asked."""

    def reset(self) -> None:
        """Forget the queues: the Guest wrote 0 into the status."""

    def close(self) -> None:
        """Give back what the device opened or changed."""
