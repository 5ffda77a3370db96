"""The engine `python`: a Guest written in Python. It needs no privilege, so it is always there.

A Guest is a generator. Each `yield` is the end of an instruction: it says what the Guest wants, and it is the only
place at which the vCPU can be stopped, as on a real one.

    irqs = yield HALT            sleep until an interrupt; which ones came
    yield COMPUTE                nothing: an instruction ended
    yield Notify(addr)           tell the host
    yield Shutdown()             done
    yield Restart()              begin anew

The vCPU looks at the break flag at each of them. A Guest that computes holds the GIL meanwhile, so that a Waker that
is a thread of the same process waits up to `sys.getswitchinterval()` for its turn: that is a property of this engine
and is there to be measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from enum import Enum
from typing import NamedTuple, NoReturn

from launcher.api import Boot, Broken, Died, Exit, Notify, Restart, Shutdown
from launcher.words import shown
from shared.breaker import Breaker
from shared.errors import LabError
from shared.memory import PAGE_SIZE, GuestMemory

BREAKERS: tuple[str, ...] = ("eventfd", "signal", "pipe", "futex", "semaphore", "mqueue")
"""What can stop this engine, its default first."""


class Step(Enum):
    """What a Guest wants of its vCPU, where that is no exit."""

    COMPUTE = "compute"
    HALT = "halt"


COMPUTE = Step.COMPUTE
HALT = Step.HALT

Irqs = frozenset[int]
GuestCode = Generator[Step | Notify | Shutdown | Restart, Irqs, None]
Program = Callable[["Cpu"], GuestCode]

REASON_LIMIT = 256
"""How many characters of a crash reason are shown."""

_WANTS = "HALT, COMPUTE, Notify(addr), Shutdown() or Restart()"
_NO_IRQS: Irqs = frozenset()
_BROKEN = Broken()
# A Guest that leaves by sys.exit() must not take its Launcher, and the exit code, along.
_GUEST_FAULTS = (Exception, SystemExit, GeneratorExit)


class Cpu(NamedTuple):
    """What a Guest written in Python can reach: its memory, and where the device page and the command line are."""

    memory: GuestMemory
    device_page: int
    command_line: int

    def args(self) -> list[bytes]:
        """Return the arguments that came after the image."""
        line = bytes(self.memory.view(self.command_line, PAGE_SIZE))
        return line[4:].split(b"\0")[: int.from_bytes(line[:4], "little")]


class GuestPanic(Exception):  # noqa: N818 - what a Guest does
    """Raised by a Guest: crash with this reason."""


class PythonVcpu:
    """Runs a generator as if it were a Guest. One thread only."""

    def __init__(self, memory: GuestMemory, program: Program, boot: Boot, breaker: Breaker) -> None:
        # Called inside a generator of ours: a program that fails at once, or is none, dies as any other does.
        self._guest = _begin(program, Cpu(memory, boot.device_page, boot.command_line))
        self._breaker = breaker
        self._pending: set[int] = set()
        self._is_halted = False
        self._is_started = False

    def run(self) -> Exit:
        """Run until the Guest wants something or a break comes; see `launcher.api.Vcpu`."""
        is_broken, wait = self._breaker.is_set, self._breaker.wait
        while not is_broken():
            if self._is_halted and not self._pending:
                wait()
                continue
            try:
                wanted = self._step()
            except StopIteration:
                return Died("it ran off the end of its code")
            except (GuestPanic, LabError) as error:  # the latter: it found the device's half of a ring malformed
                return Died(_last_words(str(error)))
            except _GUEST_FAULTS as error:
                return Died(_last_words(f"{type(error).__name__}: {error}"))
            if wanted is HALT:
                self._is_halted = True
            elif isinstance(wanted, Shutdown | Restart) or (
                isinstance(wanted, Notify) and isinstance(wanted.addr, int)
            ):
                return wanted
            elif wanted is not COMPUTE:
                return Died(_last_words(f"it yielded {wanted!r}, but a Guest yields {_WANTS}"))
        return _BROKEN

    def _step(self) -> Exit | Step:
        """Run one instruction: to the Guest's next yield."""
        if not self._is_started:
            self._is_started = True
            return next(self._guest)
        if not self._is_halted:
            return self._guest.send(_NO_IRQS)
        irqs = frozenset(self._pending)
        self._pending.clear()
        self._is_halted = False
        return self._guest.send(irqs)

    def interrupt(self, irq: int) -> None:
        """Have the Guest take `irq` at its next halt."""
        self._pending.add(irq)

    def breaker(self) -> Breaker:
        """Return what breaks this vCPU out."""
        return self._breaker

    def close(self) -> None:
        """End the Guest wherever it is; what it does about that is nobody's trouble any more."""
        with contextlib.suppress(*_GUEST_FAULTS):
            self._guest.close()


def panic(reason: str) -> NoReturn:
    """Crash the Guest that calls this."""
    raise GuestPanic(reason)


def _begin(program: Program, cpu: Cpu) -> GuestCode:
    yield from program(cpu)


def _last_words(reason: str) -> str:
    return shown(reason[:REASON_LIMIT]) or "crashed without a reason"
