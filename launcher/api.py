"""The seams of the Launcher: protocols and values only.

An engine implements `Vcpu`; a device implements `Device`; neither knows the other. machine.py joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

BOOT_MAGIC = 0x6C677374
"""What a Guest finds in EAX, as it would find a boot loader's magic: "lgst"."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a Guest is made of: its name or file, the arguments that came after it, and the initrd of a Linux kernel."""

    guest: str
    args: tuple[str, ...] = ()
    initrd: str | None = None
    warn: Callable[[str], None] = field(default=lambda _: None, compare=False)
    """Takes a sentence about the Guest that its user should read before it starts."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The flat segments that a Guest starts in, and where in memory the table is that names them (size 0: nowhere)."""

    code_selector: int = 0x08
    data_selector: int = 0x10
    gdt: int = 0
    gdt_size: int = 0


@dataclass(frozen=True, slots=True)
class LinuxBoot:
    """Where a bzImage finds what its boot protocol promises, the zero page (boot_params) and a GDT, and a stack."""

    zero_page: int
    stack: int
    segments: Segments


@dataclass(frozen=True, slots=True)
class Boot:
    """What an engine must know to start a Guest.

    RAM is guest-physical 0 to `device_page`; the device page, its rings, and the command line follow. `entry` is the
    address of the first instruction (0 for a Guest written in Python, which has none). Machine code starts in 32-bit
    protected mode, paging and interrupts off, with `registers` (what they do not name is 0) and `segments`.
    """

    device_page: int
    entry: int = 0
    linux: LinuxBoot | None = None

    @property
    def command_line(self) -> int:
        """Where the Guest finds its arguments: how many in 32 bits, then each ended by a NUL."""
        return self.device_page + (DEVICE_AREA_PAGES - 1) * PAGE_SIZE

    @property
    def registers(self) -> dict[str, int]:
        """What is in the general registers at the first instruction, by their names."""
        if self.linux is not None:
            # EBP, EDI and EBX must be 0: boot.rst, 32-bit boot protocol.
            return {"esi": self.linux.zero_page, "esp": self.linux.stack}
        return {"eax": BOOT_MAGIC, "ebx": self.device_page, "ecx": self.command_line, "esp": self.device_page}

    @property
    def segments(self) -> Segments:
        """The segments at the first instruction."""
        return Segments() if self.linux is None else self.linux.segments


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
