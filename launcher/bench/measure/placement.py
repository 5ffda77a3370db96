"""On which processors a round's processes are: the placement moves a wake-up more than the mechanism does."""

from __future__ import annotations

import os
from typing import NamedTuple

from shared.errors import CannotRunError


class Placement(NamedTuple):
    """On which processors Launcher, Waker and stimulus are."""

    launcher: int
    waker: int
    stimulus: int


def placement(pin: str, *, is_busy: bool) -> Placement | None:
    """Return who goes where, or None for wherever the scheduler likes. Raises `CannotRunError` with one processor.

    The stimulus goes where nobody computes: the third processor if there is one, else that of the Launcher, which
    sleeps until the Waker has been awake, but for one that `is_busy` or has no Waker beside it.
    """
    if pin == "free":
        return None
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise CannotRunError(f"pin={pin} needs two processors, and this process may use {len(cpus)}; leave it at free")
    if pin == "same":
        return Placement(cpus[0], cpus[0], cpus[1])
    return Placement(cpus[0], cpus[1], cpus[2] if len(cpus) > 2 else cpus[is_busy])
