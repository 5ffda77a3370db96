"""An engine by itself: a vCPU, its memory and its breaker, without devices or a Waker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

import pytest

from launcher import engines
from launcher.api import DEVICE_AREA_PAGES, Payload, Vcpu
from launcher.guests.idle import COUNTER
from shared import breaker as breakers
from shared.breaker import Breaker
from shared.memory import PAGE_SIZE, GuestMemory
from shared.page import Page
from tests.support.breakers import skip_what_is_missing

RAM = 2 << 20
PATIENCE_S = 30.0

KINDS = [(name, kind) for name in engines.names() for kind in engines.get(name).breakers]
"""Every engine with everything that can stop it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One vCPU; the calling thread is its."""

    vcpu: Vcpu
    breaker: Breaker
    memory: GuestMemory
    page: Page

    @property
    def counted(self) -> int:
        """How many interrupts the Guest `idle` has counted."""
        return int.from_bytes(self.memory.view(COUNTER, 4), "little")

    @contextlib.contextmanager
    def meanwhile(self, act: Callable[[], object]) -> Iterator[None]:
        """Have another thread do this while the block runs; what it raises is raised here."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                act()
            except BaseException as error:
                failed.append(error)
                self.breaker.break_out()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def break_when(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds, or patience ends; then break the Guest."""
        end = monotonic() + PATIENCE_S
        while not holds() and monotonic() < end:
            pass
        self.breaker.break_out()


@contextlib.contextmanager
def open_bench(engine_name: str, guest: str, kind: str | None = None) -> Iterator[Bench]:
    """Open a vCPU that runs `guest`, with an empty device page; skip where the engine cannot run."""
    engine = engines.get(engine_name)
    if reason := engine.why_not():
        pytest.skip(f"{engine_name}: {reason}")
    kind = kind or engine.breakers[0]
    skip_what_is_missing(kind)
    with contextlib.ExitStack() as closing:
        page = closing.enter_context(Page.create())
        memory = closing.enter_context(GuestMemory.create(RAM + DEVICE_AREA_PAGES * PAGE_SIZE))
        vcpu = engine.open(Payload(guest), memory, RAM, lambda flag: breakers.create(kind, page, flag))
        closing.callback(vcpu.close)
        closing.callback(vcpu.breaker().close)
        yield Bench(vcpu, vcpu.breaker(), memory, page)
