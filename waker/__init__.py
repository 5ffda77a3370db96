"""Makes a running Guest stop and look. The front door: the Launcher knows nothing behind it.

    with waker.start("process/select", memory, page, breaker, [source]) as wake:
        …

A Waker's name is `PLACE/STRATEGY[+BREAKER][+ring-aware][+FAULT]`; `names()` lists those that
there are, found by looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared import breaker as breakers
from shared import fault as faults
from shared.breaker import KINDS, Breaker, ExitFlag, FaultyBreaker
from shared.errors import CannotRunError, UsageError
from shared.memory import GuestMemory
from shared.page import Page
from waker.api import Place, Setup, Source, WakerStats
from waker.handle import Waker
from waker.places import place_description, place_names, start_place
from waker.strategies import make_inline, missing, strategy_description, strategy_names

__all__ = [
    "RING_AWARE",
    "Source",
    "Waker",
    "WakerName",
    "WakerStats",
    "description",
    "make_breaker",
    "names",
    "parse",
    "start",
    "why_not",
]


RING_AWARE = "ring-aware"
"""The option of a Waker that looks whether the Guest has given a buffer, instead of being told what to watch."""


class WakerName(NamedTuple):
    """A name taken apart; `breaker` is None where the engine's default is meant."""

    place: str
    strategy: str
    breaker: str | None
    is_ring_aware: bool = False
    fault: faults.Fault | None = None

    @property
    def needs_private_memory(self) -> bool:
        """Whether Guest memory must be private for this Waker: what it was in 2007 is its point."""
        return self.place == "fork"


def names() -> list[str]:
    """Return the names of all Wakers, without breakers, the historical order of places first."""
    looping = [f"{place}/{strategy}" for place in place_names() for strategy in strategy_names("Strategy")]
    return looping + [f"{breakers.INLINE}/{strategy}" for strategy in strategy_names("Inline")]


def parse(name: str) -> WakerName:
    """Take a name apart; raise `UsageError`, listing what there is, when no such Waker exists."""
    base, *options = name.split("+")
    if base not in names():
        raise UsageError(f"waker '{name}' is not known; there are {', '.join(names())}")
    fault = faults.parse([option for option in options if faults.is_fault(option)])
    kinds = [option for option in options if option != RING_AWARE and not faults.is_fault(option)]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"breaker '{kind}' of waker '{name}' is not known; there are {', '.join(KINDS)}")
    if len(kinds) > 1 or options.count(RING_AWARE) > 1:
        raise UsageError(f"waker '{name}': one breaker is enough, and '{RING_AWARE}' is said once")
    place, _, strategy = base.partition("/")
    parsed = WakerName(place, strategy, kinds[0] if kinds else None, RING_AWARE in options, fault)
    if parsed.is_ring_aware and parsed.needs_private_memory:
        raise UsageError(
            f"waker '{name}': a forked Waker has a private copy of Guest memory, and cannot see what the Guest gives; "
            f"leave out '+{RING_AWARE}', or take another place"
        )
    return parsed


def why_not(name: str) -> str | None:
    """Return why this Waker cannot run here, or None when it can; raise `UsageError` for an unknown name."""
    parsed = parse(name)
    return missing(parsed.strategy) or (breakers.missing(parsed.breaker) if parsed.breaker else None)


def description(name: str) -> str:
    """Return what this Waker is and where it came from, in one line."""
    parsed = parse(name)
    return f"{place_description(parsed.place)} {strategy_description(parsed.strategy)}"


def make_breaker(name: str, kind: str, page: Page, flag: ExitFlag | None = None) -> Breaker:
    """Make what breaks the calling thread's vCPU for the Waker `name`: its own, for one that waits nowhere.

    `flag` is the byte that ends the vCPU's next run, where that is not the break word of the control page.
    """
    parsed = parse(name)
    if parsed.place != breakers.INLINE:
        return breakers.create(kind, page, flag)
    reason = why_not(name)
    if reason is not None:
        raise CannotRunError(f"waker '{name}' cannot run here: {reason}")
    from waker.places.inline import InlineWaker

    return InlineWaker(page, flag or ExitFlag(*page.break_byte()), make_inline(parsed.strategy), parsed.fault)


def start(name: str, memory: GuestMemory, page: Page, breaker: Breaker, sources: Sequence[Source] = ()) -> Waker:
    """Start a Waker that breaks the vCPU of `breaker` when one of `sources` is ready. The vCPU's thread calls it.

    Raises `UsageError` for an unknown name, `CannotRunError` for one that cannot run here, `MemoryRefused` when it
    needs shared memory and got private, `SourceRefused` when it cannot watch a source, `WakerError` when it does not
    come up.
    """
    parsed = parse(name)
    reason = missing(parsed.strategy)
    if reason is not None:
        raise CannotRunError(f"waker '{name}' cannot run here: {reason}")

    sent_by = breaker if parsed.fault is None else FaultyBreaker(breaker, parsed.fault)

    def start_one(watched: Sequence[tuple[int, Source]]) -> Place:
        if parsed.place == breakers.INLINE:
            from waker.places.inline import InlineWaker

            assert isinstance(breaker, InlineWaker)  # make_breaker made it
            return breaker.begin(memory, watched)
        return start_place(parsed.place, Setup(parsed.strategy, memory, page, sent_by, watched))

    return Waker(name, start_one, page, sources)
