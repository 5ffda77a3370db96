"""What an arm says of itself when it is over: what was counted, what its threads took, when each stage was."""

from __future__ import annotations

import threading
from contextlib import suppress
from statistics import median
from time import clock_gettime_ns, monotonic_ns, pthread_getcpuclockid
from typing import Any

from launcher.machine import Machine
from shared.page import BREAKS, INTERRUPTS, IS_TRACING, LOOKS, NOTIFIES, SPURIOUS, TAKEN, WAKES, Page
from shared.trace import LAUNCHER_LANE, WAKER_LANE, Stage, Trace

_STAMPS = 2000


def counts(machine: Machine) -> dict[str, int]:
    """Stop the Waker, and return what the machine counted. The vCPU's thread calls it, once it is all over."""
    words, waker = machine.page.words, machine.loop.waker
    replaced = waker.stats().replaced
    waker.stop()  # from here on no break is on its way
    is_to_be_taken = machine.loop.vcpu.breaker().is_set()  # before the count: an inline Waker looks when it is asked
    in_vain = max(0, words[BREAKS] - words[TAKEN] - is_to_be_taken)
    return {
        # A Waker that died may have made a break, or not: nobody knows how many were in vain.
        **({} if replaced else {"broken_in_vain": in_vain}),
        "breaks": words[BREAKS],
        "taken": words[TAKEN],
        "spurious": words[SPURIOUS],
        "wakes": words[WAKES],
        "looks": words[LOOKS],
        "notifies": words[NOTIFIES],
        "interrupts": words[INTERRUPTS],
        "replaced": replaced,
    }


def cpu_of_threads() -> dict[str, int]:
    """Return the CPU time of each thread in ns, by its native id. Only a process itself can ask for it in ns."""
    times = {}
    for thread in threading.enumerate():
        with suppress(OSError):
            assert thread.ident is not None
            times[str(thread.native_id)] = clock_gettime_ns(pthread_getcpuclockid(thread.ident))
    return times


def traced(machine: Machine) -> dict[str, Any]:
    """Return the stamps of both sides and what one costs; nothing where none were made."""
    if not machine.page.words[IS_TRACING]:
        return {}
    lanes = (Trace(machine.page, lane).stamps() for lane in (WAKER_LANE, LAUNCHER_LANE))
    stamps = [(stamp.stage.name, stamp.time_ns) for lane in lanes for stamp in lane]
    return {"stamps": stamps, "ns_per_stamp": _ns_per_stamp()}


def _ns_per_stamp() -> float:
    """Measure what a stamp costs here and now: the best of some batches would flatter, so it is their median."""
    with Page.create() as page:
        page.words[IS_TRACING] = 1
        trace = Trace(page, LAUNCHER_LANE)
        took = []
        for _ in range(20):
            began_ns = monotonic_ns()
            for _ in range(_STAMPS // 20):
                trace.stamp(Stage.SERVICED)
            took.append((monotonic_ns() - began_ns) / (_STAMPS // 20))
        trace.close()
    return median(took)
