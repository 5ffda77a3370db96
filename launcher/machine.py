"""The one file that knows every part: opens them in order, closes them in reverse.

    page, memory, image      what everybody shares
    breaker, vCPU            the calling thread becomes the vCPU's
    device table, devices    laid out before the Guest exists
    Waker                    last: a forked one must find every file open, and any one must go first

Whatever fails half way closes what was opened before it, so a terminal is put back even then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import waker
from launcher import engines
from launcher.api import DEVICE_AREA_PAGES, Boot, Device, Payload
from launcher.config import RunConfig
from launcher.devices.table import DeviceTable
from launcher.identity import introduce
from launcher.loop import Loop
from launcher.ready import ReadySet
from launcher.stop import StopRequests
from shared.breaker import INLINE
from shared.errors import UsageError
from shared.memory import PAGE_SIZE, GuestMemory
from shared.page import INTERRUPTS, IS_TRACING, Page
from shared.trace import LAUNCHER_LANE, Stage, Trace
from waker import Source

MakeDevices = Callable[[GuestMemory, Page], Sequence[Device]]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is ready to run its Guest: `machine.loop.run()`."""

    config: RunConfig
    engine: engines.Choice
    memory: GuestMemory
    page: Page
    table: DeviceTable
    loop: Loop


@contextmanager
def open_machine(
    config: RunConfig,
    make_devices: MakeDevices,
    stop: StopRequests | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Iterator[Machine]:
    """Open a machine in the calling thread, which becomes the vCPU's, and close it again.

    `warn` takes a sentence about the Guest that its user should read before it starts.

    Raises `UsageError` for a Guest, engine or Waker that does not exist or a pair that cannot work, and what the
    parts raise when they cannot be opened.
    """
    name = waker.parse(config.waker)
    choice = engines.choose(config.engine, config.image, name.breaker)
    kind = choose_breaker(choice.engine, config.waker)
    with ExitStack() as closing:
        page = closing.enter_context(Page.create())
        page.words[IS_TRACING] = config.is_tracing
        introduce(page, config, choice.engine.name)
        memory = closing.enter_context(_make_memory(config, name))
        device_page = config.memory_mib << 20
        line = config.command_line
        memory.view(Boot(device_page).command_line, len(line))[:] = line
        payload = Payload(config.image, config.args, config.initrd, warn)
        vcpu = choice.engine.open(
            payload, memory, device_page, lambda flag: waker.make_breaker(config.waker, kind, page, flag)
        )
        closing.callback(vcpu.close)
        closing.callback(vcpu.breaker().close)
        trace = Trace(page, LAUNCHER_LANE)
        closing.callback(trace.close)
        ready = ReadySet(memory, page)
        closing.callback(ready.close)

        def interrupt(irq: int) -> None:
            trace.stamp(Stage.INTERRUPT)
            page.words[INTERRUPTS] += 1
            vcpu.interrupt(irq)

        table = DeviceTable(memory, device_page, interrupt, page)
        closing.callback(table.close)
        sources = _add_all(table, make_devices(memory, page))
        if stop is not None:
            sources.append(stop.source)
        wake = closing.enter_context(waker.start(config.waker, memory, page, vcpu.breaker(), sources))
        for source in sources:
            ready.add(source)
        yield Machine(config, choice, memory, page, table, Loop(vcpu, table, wake, ready, page, trace, stop))


def choose_breaker(engine: engines.Engine, waker_name: str) -> str:
    """Return the kind of breaker that this Waker uses on this engine.

    Raises `UsageError` for a pair that cannot work, in one sentence that says what can.
    """
    name = waker.parse(waker_name)
    if name.place == INLINE:
        if name.breaker is not None:
            raise UsageError(f"waker '{waker_name}' breaks the Guest by itself; leave out '+{name.breaker}'")
        return INLINE
    if name.breaker is None:
        return engine.breakers[0]
    if name.breaker not in engine.breakers:
        raise UsageError(f"waker '{waker_name}': {engines.refuse_breaker(name.breaker, engine)}")
    return name.breaker


def _add_all(table: DeviceTable, devices: Sequence[Device]) -> list[Source]:
    """Put these on the page, which closes them from then on; return what is to be watched from the beginning."""
    sources: list[Source] = []
    left = list(devices)
    try:
        while left:
            sources += table.add(left[0])
            del left[0]
    except BaseException:  # no room, say: for the others neither
        for device in reversed(left):
            device.close()
        raise
    return sources


def _make_memory(config: RunConfig, name: waker.WakerName) -> GuestMemory:
    size = (config.memory_mib << 20) + DEVICE_AREA_PAGES * PAGE_SIZE
    if name.needs_private_memory:
        return GuestMemory.private(size)
    return GuestMemory.create(size, config.memory_backing)
