"""Many wakes in a row, none of them lost: what a rule tried a few times cannot show.

A stimulus in a process of its own rings the pulse and waits to be answered, then rings again, at once or a few dozen
microseconds later. It is answered while the Launcher is still servicing, so the next ring lands anywhere: before the
release, between release and entry, inside the Guest. A ring that wakes nobody is noticed: nothing else would ever
wake that Launcher, until its watchdog does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from launcher.check.rig import PATIENCE_S, Rig, RuleBroken, open_rig
from shared.page import SPURIOUS

_PER_WATCHDOG = 200  # a watchdog is a thread: too dear for every ring

_STIMULUS = """
import os, random, sys
ring, answer, count, size = map(int, sys.argv[1:])
one = (1).to_bytes(size, "little")
for _ in range(count):
    for _ in range(random.randrange(2000)):
        pass
    os.write(ring, one)
    if not os.read(answer, 1):
        sys.exit(1)
"""


class Endured(NamedTuple):
    """What came of it: rings served, breaks made, those of them for nothing, and the seconds it took."""

    served: int
    breaks: int
    spurious: int
    seconds: float


def endure(waker_name: str, engine_name: str, count: int, guest: str = "idle") -> Endured:
    """Have `count` rings served one after the other; raise `RuleBroken` when one is lost. The main thread only."""
    with open_rig(waker_name, engine_name, guest) as rig:
        answer, answered = os.pipe()
        serve = rig.pulse.on_ready
        rig.pulse.on_ready = lambda source: serve(source) and bool(os.write(answered, b"!"))  # type: ignore[method-assign]
        start = monotonic()
        with _stimulus(rig.pulse.writer(), answer, answered, count, rig.pulse.ring_size):
            while rig.pulse.rung < count:
                _serve_some(rig, min(count, rig.pulse.rung + _PER_WATCHDOG))
        return Endured(rig.pulse.rung, rig.breaks, rig.machine.page.words[SPURIOUS], monotonic() - start)


def _serve_some(rig: Rig, until: int) -> None:
    with rig.watchdog(PATIENCE_S) as has_fired:
        while rig.pulse.rung < until and not has_fired.is_set():
            rig.machine.loop.run_once()
    if rig.pulse.rung < until:
        raise RuleBroken(f"ring {rig.pulse.rung + 1} was lost: nobody was woken for {PATIENCE_S:.0f} s")


@contextmanager
def _stimulus(ring: int, answer: int, answered: int, count: int, size: int) -> Iterator[None]:
    argv = [sys.executable, "-S", "-c", _STIMULUS, str(ring), str(answer), str(count), str(size)]
    try:
        with subprocess.Popen(argv, pass_fds=(ring, answer)) as process:
            try:
                yield
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuleBroken(f"the stimulus left with {process.returncode}")
    finally:
        os.close(answer)
        os.close(answered)
