"""A stop signal just before the entry: fact 8 of the design.

Python's handler runs between two bytecodes, so it is over before the Guest is entered: its fd wakes the Waker.
"""

from __future__ import annotations

import os
import signal

import pytest

import waker
from launcher import engines
from launcher.config import RunConfig
from launcher.devices.pulse import Pulse
from launcher.machine import open_machine
from launcher.stop import StopRequests
from shared.errors import Interrupted
from tests.support.races import (
    EVERY,
    LITTLE_S,
    WINDOW,
    Window,
    before_the_sleep,
    until_kicked,
)
from tests.support.rescue import rescue


def stop_before_the_entry(
    name: str, engine: str, guest: str, window: Window, patience_s: float, *, is_heard: bool = True
) -> bool:
    """Send SIGTERM between the look at the flag and the entry; return whether it was taken."""
    pulse = Pulse(count=2, kind="pipe" if waker.parse(name).strategy == "sigio" else "eventfd")
    config = RunConfig(image=guest, engine=engine, waker=name, memory_mib=2)
    with StopRequests() as stop, open_machine(config, lambda memory, page: [pulse], stop) as machine:
        if not is_heard:
            signal.set_wakeup_fd(-1)
        loop = machine.loop

        def terminate() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            if is_heard:
                until_kicked(loop, pulse.sources[1])

        window(loop, terminate)
        with rescue(loop.vcpu.breaker().break_out, patience_s) as was_needed:
            try:
                loop.run_once()
            except Interrupted:
                return not was_needed.is_set()
    return False


@EVERY
@WINDOW
def test_a_stop_signal_just_before_the_entry_is_taken(guest: str, window: Window, name: str, engine: str) -> None:
    assert stop_before_the_entry(name, engine, guest, window, 10.0)


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("name", ["thread/select", "inline/uring"])
def test_a_handler_that_only_notes_the_signal_is_heard_by_nobody(name: str, engine: str) -> None:
    assert not stop_before_the_entry(name, engine, "idle", before_the_sleep, LITTLE_S, is_heard=False)
