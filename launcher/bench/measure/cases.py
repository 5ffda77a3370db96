"""The cases: what is done to a Waker, what is counted, and what can be set.

A case is a value, not a program: which Guest runs, which device the stimulus rings, how it rings, and which parameters
matter. What rings and what serves are the same for all (stimulus.py, runs.py), so two cases differ in what they say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import waker
from launcher import engines
from launcher.bench.measure import namespace
from launcher.machine import choose_breaker
from shared.errors import LabError, UsageError

Value = int | float | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that can be set: its default, its bounds (numbers) or its choices (words), and what it is."""

    default: Value
    help: str
    low: float = 0
    high: float = float("inf")
    choices: tuple[str, ...] = ()
    multiple_of: int = 1
    """Of whole numbers."""

    def parse(self, name: str, text: str) -> Value:
        """Return the value that `text` is; raise `UsageError` for one that cannot be."""
        if isinstance(self.default, str):
            if text not in self.choices:
                raise UsageError(f"parameter {name}={text} is none of {', '.join(self.choices)}")
            return text
        kind = type(self.default)
        try:
            value = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise UsageError(f"parameter {name}={text} is not {wanted}") from None
        if not self.low <= value <= self.high:
            raise UsageError(f"parameter {name}={text} is outside {self.low:g} to {self.high:g}")
        if value % self.multiple_of and kind is int:
            raise UsageError(f"parameter {name}={text} is no multiple of {self.multiple_of}")
        return value


# What every case has.
_MACHINE = {
    "memory_mib": Parameter(16, "Guest memory", 2, 3072),
    "switch_us": Parameter(5000, "the interpreter's switch interval (GIL), in us", 1, 1_000_000),
    "pin": Parameter(
        "free",
        "processors: Launcher and Waker on one, on two, or as the scheduler likes",
        choices=("free", "same", "apart"),
    ),
}
# What every case has that is rung.
_RINGS = {
    "idle_us": Parameter(200.0, "mean time between rings: how deep all are asleep by then", 1, 1_000_000),
    "gaps": Parameter("random", "half to one and a half of it at random, or all the same", choices=("random", "fixed")),
    "lead_us": Parameter(60, "how long before a ring is due the stimulus is awake", 0, 1_000_000),
    "warmup": Parameter(20, "rings at the beginning of a round that are served and not counted", 0, 10_000),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `yardsticks` are the programs in C that do the same."""

    name: str
    measures: str
    guest: str = "idle"
    device: str = "rings"
    own: Mapping[str, Parameter] = field(default_factory=dict)
    yardsticks: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)
    """What is put behind a Waker's name where nobody named any."""
    is_rung: bool = True
    """Whether there are rings; else Wakers come and go."""
    is_open: bool = True
    """Whether a stimulus rings when it is time, whatever the arm does (open loop); else an answer brings the next."""
    is_timed: bool = True
    """Whether its latencies are the point; else its counts are."""

    @property
    def is_answered(self) -> bool:
        """Whether a ring is served when the Guest has answered it; else when the device has what came."""
        return self.device in ("console", "net")

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Return all its parameters by name."""
        rings: Mapping[str, Parameter] = _RINGS if self.is_rung and self.is_timed else {}
        if not self.is_open:
            rings = {name: parameter for name, parameter in rings.items() if name == "warmup"}
        return {**self.own, **rings, **_MACHINE, **self.own}  # its own first, and also where they are everybody's

    def wakers(self) -> list[str]:
        """Return the names of all Wakers that there are, and of their variants that matter here."""
        return [f"{name}{variant}" for variant in self.variants for name in waker.names() if _is_one(name, variant)]

    def defaults(self) -> dict[str, Value]:
        """Return the defaults."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def pin_of_duels(self) -> str:
        """Return where a duel's processes run if nobody says: where rounds differ least (DESIGN.md)."""
        if len(os.sched_getaffinity(0)) < 2:
            return "free"
        return "apart" if "apart" in self.parameters["pin"].choices else "same"

    def parse(self, name: str, text: str) -> Value:
        """Return the value of a parameter of this case; raise `UsageError` for one that it does not have."""
        if name not in self.parameters:
            raise UsageError(f"case {self.name} has no parameter '{name}'; there are {', '.join(self.parameters)}")
        return self.parameters[name].parse(name, text)

    def why_not(self, waker_name: str, engine_name: str) -> str | None:
        """Return why this Waker on this engine cannot run the case here, or None."""
        if waker_name == DIRECT:
            return None if DIRECT in self.yardsticks else "it has no Waker, and serves rings alone"
        try:
            parsed = waker.parse(waker_name)
            reason = waker.why_not(waker_name) or engines.get(engine_name).why_not()
            choose_breaker(engines.get(engine_name), waker_name)
        except LabError as refusal:
            return str(refusal)
        return reason or self._why_not_this(parsed)

    def _why_not_this(self, name: waker.WakerName) -> str | None:
        if self.device == "vring" and name.needs_private_memory:
            return "its Guest memory is private and cannot be given to the process that fills the ring"
        return namespace.missing() if self.device == "net" else None


def _is_one(name: str, variant: str) -> bool:
    return variant != f"+{waker.RING_AWARE}" or not waker.parse(name).needs_private_memory


DIRECT = "spin/direct"
"""The harness alone: it looks at the file by itself, and there is no Waker."""

_C_HALTED = ("c:direct", "c:thread_select", "c:process_select")
_HARNESS = ("c:direct_spin", DIRECT)
_ROUNDTRIP = {"payload": Parameter(1, "bytes that are typed at once", 1, 256)}

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("wake", "from a ring to its being served, with the Guest halted", yardsticks=(*_C_HALTED, *_HARNESS)),
        Case(
            "wake-busy",
            "the same, with a Guest that computes and never leaves by itself",
            guest="spin",
            yardsticks=("c:kvm_sigio", "c:kvm_thread_select"),
        ),
        Case("echo", "from a typed byte through the Guest to its being written out", "echo", "console", _ROUNDTRIP),
        Case(
            "vring",
            "from a buffer that another process fills in Guest memory to its being taken (a vring fd)",
            device="vring",
            own={"payload": Parameter(64, "bytes in a buffer", 8, 2048)},
        ),
        Case(
            "churn",
            "as wake, where each ring takes the Guest's last buffer: unwatched and watched again, every time",
            device="churn",
            variants=("", f"+{waker.RING_AWARE}"),
        ),
        Case(
            "fanin",
            "as wake, with many sources, of which one is rung, or all are in turn",
            own={
                "sources": Parameter(64, "how many are watched", 1, 10_000),
                "active": Parameter("one", "which of them are rung", choices=("one", "all")),
            },
            yardsticks=_C_HALTED,
        ),
        Case(
            "burst",
            "a storm: so many rings at once; how many are served in a second, and how many share a wake",
            own={"burst": Parameter(64, "rings at once", 1, 4096)},
            yardsticks=_C_HALTED,
        ),
        Case(
            "idle",
            "the cost of nothing for some seconds; and then one ring",
            own={"seconds": Parameter(1.0, "how long", 0.001, 3600)},
            is_timed=False,
        ),
        Case(
            "ping",
            "from a datagram sent into a TAP through the Guest to its answer's being back in the sender's socket",
            guest="pong",
            device="net",
            own={
                "payload": Parameter(64, "bytes in a datagram", 8, 1472),
                # An emulated processor answers in 0.2 ms, more with busy neighbours: faster, and queues are measured.
                "idle_us": Parameter(2000.0, _RINGS["idle_us"].help, 1, 1_000_000),
            },
        ),
        Case(
            "block",
            "from the Guest's asking for a random read of its disk to the answer in its ring; each answer brings the "
            "next read (a closed loop: nothing is rung)",
            device="disk",
            own={
                "depth": Parameter(1, "reads in flight", 1, 42),
                "bytes": Parameter(4096, "bytes in a read", 512, 65536, multiple_of=512),
                "size_mib": Parameter(16, "the disk, a file in the page cache", 1, 1024),
                "io": Parameter("thread", "what moves the bytes", choices=("thread", "uring")),
            },
            is_open=False,
        ),
        Case(
            "start",
            "from nothing to a Waker that watches, and its end; what an inline one has made with the vCPU is not in it",
            device="start",
            # No "apart": a Waker that comes later comes where its Launcher is.
            own={
                "pin": Parameter("free", "processors: all on one, or as the scheduler likes", choices=("free", "same"))
            },
            is_rung=False,
        ),
    )
}


def get(name: str) -> Case:
    """Return the case of this name; raise `UsageError`, listing what there is, when there is none."""
    if name not in CASES:
        raise UsageError(f"case '{name}' is not known; there are {', '.join(CASES)}")
    return CASES[name]


def why_nobody(case: Case) -> str | None:
    """Return why no Waker on no engine here can run this case, or None when one can."""
    reasons = [case.why_not(name, engine) for name in case.wakers() for engine in engines.names()]
    return next((reason for reason in reasons if reason), "there is no Waker") if all(reasons) else None
