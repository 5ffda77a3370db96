"""What the rules are tried on: a machine with a pulse and a vring, whose Guest never wants anything by itself.

The rig is the vCPU's thread. A rule rings something and lets the Guest run; a watchdog breaks the Guest when nobody
else does, so a rule that does not hold fails instead of hanging. Patience bounds how long a failure takes; nothing
that holds depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import waker
from launcher.api import Broken, Device
from launcher.config import RunConfig
from launcher.devices.pulse import Pulse
from launcher.devices.vring import VringDevice
from launcher.machine import Machine, open_machine
from shared.memory import GuestMemory
from shared.page import BREAKS, TAKEN_IDX, Page
from shared.room import Room

PATIENCE_S = 10.0
ROOM_SLOT = 1
ROOM_IDX_ADDR = 0x30000
"""Where the index of available buffers is that source 1 of a ring-aware Waker needs."""

QUIET_S = 0.05
"""How long to watch nothing happen. A slower machine makes this less sensitive, never wrong."""


class RuleBroken(Exception):  # noqa: N818 - an event
    """Say how a rule does not hold."""


class RuleSkipped(Exception):  # noqa: N818 - an event
    """Say why a rule cannot be tried here."""


class ExpectedlyStale(Exception):  # noqa: N818 - an event
    """Say what a forked Waker saw instead of the ring: that was its nature, and is shown, not excused."""


class ExpectedlyRestless(ExpectedlyStale):
    """Say how often a Waker looked that never sleeps: that is what it is the yardstick for."""


@dataclass(frozen=True, slots=True)
class Rig:
    """One machine under test, in the calling thread."""

    waker_name: str
    engine_name: str
    machine: Machine
    pulse: Pulse
    vring: VringDevice

    def expect_break(self, why: str) -> None:
        """Run the Guest until a Waker breaks it, and serve that; raise `RuleBroken` when none does."""
        if not self.runs_into_break(PATIENCE_S):
            raise RuleBroken(f"{why}: the Guest was not broken out within {PATIENCE_S:.0f} s")

    def expect_quiet(self, why: str) -> None:
        """Run the Guest for a moment; raise `RuleBroken` when a Waker breaks it."""
        before = self.breaks
        if self.runs_into_break(QUIET_S) or self.breaks != before:
            times = self.breaks - before
            raise RuleBroken(
                f"{why}: the Guest was broken out " + (f"{times} times" if times else "by an earlier break")
            )

    def runs_into_break(self, patience_s: float) -> bool:
        """Run the Guest and serve its first break; False when it was ours, because patience ended."""
        with self.watchdog(patience_s) as has_fired:
            exit_ = self.machine.loop.run_once()
        if not isinstance(exit_, Broken):
            raise RuleBroken(f"the Guest left by itself: {exit_}")
        return not has_fired.is_set()

    def starve(self) -> None:
        """Have no buffer left for source 1, as far as a ring-aware Waker can see."""
        self.machine.page.words[TAKEN_IDX + ROOM_SLOT] = self.machine.memory.u16[ROOM_IDX_ADDR >> 1]

    def feed(self) -> None:
        """Give a buffer for source 1, as a Guest does that notifies."""
        idx = ROOM_IDX_ADDR >> 1
        self.machine.memory.u16[idx] = (self.machine.memory.u16[idx] + 1) & 0xFFFF
        self.machine.loop.waker.nudge()

    def leave(self, why: str) -> int:
        """Run the Guest until it is broken out, take the break, serve nothing, and return what to release."""
        vcpu = self.machine.loop.vcpu
        with self.watchdog(PATIENCE_S) as has_fired:
            exit_ = vcpu.run()
        if not isinstance(exit_, Broken) or has_fired.is_set():
            raise RuleBroken(f"{why}: the Guest was not broken out within {PATIENCE_S:.0f} s")
        vcpu.breaker().clear()
        return self.machine.loop.waker.held()

    def wait_for_break(self, why: str) -> None:
        """Wait, outside the Guest, until a Waker has asked for a break."""
        self.wait_until(self.machine.loop.vcpu.breaker().is_set, f"{why}: no break was asked for")

    def wait_until(self, holds: Callable[[], bool], otherwise: str) -> None:
        """Wait, outside the Guest, until something holds; raise `RuleBroken` when it does not within our patience."""
        end = monotonic() + PATIENCE_S
        while not holds():
            if monotonic() > end:
                raise RuleBroken(f"{otherwise} within {PATIENCE_S:.0f} s")

    def ring_later(self, at: int = 0) -> None:
        """Ring from another thread, by when the Guest is most likely running, or asleep in its halt."""
        timer = threading.Timer(QUIET_S / 2, self.pulse.ring, (at,))
        timer.daemon = True
        timer.start()

    def linger(self) -> None:
        """Let a moment pass in which something wrong could happen."""
        threading.Event().wait(QUIET_S)

    @property
    def breaks(self) -> int:
        """How many breaks the Wakers of this machine have made."""
        return self.machine.page.words[BREAKS]

    @contextmanager
    def watchdog(self, patience_s: float) -> Iterator[threading.Event]:
        """Break the Guest when patience ends; what is yielded is set then."""
        has_fired = threading.Event()

        def fire() -> None:
            has_fired.set()
            self.machine.loop.vcpu.breaker().break_out()

        timer = threading.Timer(patience_s, fire)
        timer.daemon = True
        timer.start()
        try:
            yield has_fired
        finally:
            timer.cancel()
            timer.join()


@contextmanager
def open_rig(waker_name: str, engine_name: str, guest: str = "idle") -> Iterator[Rig]:
    """Open a machine with this Waker, this engine and this Guest, and close it again."""
    # A kind of file that every strategy can watch: eventfds send no SIGIO.
    pulse = Pulse(count=2, kind="pipe" if waker.parse(waker_name).strategy == "sigio" else "eventfd")
    made: list[VringDevice] = []
    config = RunConfig(image=guest, engine=engine_name, waker=waker_name, memory_mib=2)

    def make_devices(memory: GuestMemory, page: Page) -> list[Device]:
        made.append(VringDevice(memory, page))
        if waker.parse(waker_name).is_ring_aware:
            pulse.sources[1].room = Room(memory, page, ROOM_SLOT).at(ROOM_IDX_ADDR)
            memory.u16[ROOM_IDX_ADDR >> 1] += 1
        return [pulse, made[0]]

    with open_machine(config, make_devices) as machine:
        yield Rig(waker_name, engine_name, machine, pulse, made[0])
