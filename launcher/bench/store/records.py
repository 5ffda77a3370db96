"""What is recorded: a run and its rounds, as values and as JSON.

The seam between what measures and what judges: one side makes these, the other knows nothing of how. receipts.py keeps
them in a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from launcher.bench.store.packing import Nanoseconds, pack, unpack
from shared.errors import LabError

OK: Final = "ok"  # what `Round.ended` says of a round that came to its end, and else:
HUNG: Final = "hung"
DIED: Final = "died: "  # and who of what
WRONG: Final = "wrong: "  # and what came back that was not what was sent

SPAN: Final = "span_ns"
"""Among the counts of a closed loop: from when the first ring was asked for until the last one was served."""


class ReceiptsError(LabError):
    """Refuse a file of receipts, with the line and the reason."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process or thread of a round used up, from its first wake-up to its last."""

    role: str
    """Who it is: launcher, waker or stimulus, which are processes; what else there is (a thread) is part of one."""
    cpu_ns: int | None
    """None for a thread that only its own process could have asked."""
    voluntary: int
    involuntary: int
    """Context switches."""
    pss_bytes: int | None = None
    """None for a thread: it has no memory of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One measured run of one arm in a fresh process."""

    arm: str
    """The arm's name, unique in a run. Rounds of one arm are repetitions of the same thing."""
    case: str
    engine: str
    waker: str
    """Of the yardstick: engine `c`, waker `c:direct` and so on."""
    parameters: dict[str, int | float | str]
    seed: int
    block: int
    """Rounds of one block are paired: they ran next to each other."""
    position: int
    """Which of the block's rounds it was, from 0."""
    started: str
    """UTC, ISO 8601."""
    duration_ns: int
    latencies_ns: Nanoseconds
    """From the *intended* send time until serviced, in order of sequence number; a coalesced one counts by itself."""
    stages_ns: dict[str, Nanoseconds] = field(default_factory=dict)
    """For each hop (`SEEN→BREAK`) how long it took; may be empty."""
    counts: dict[str, int] = field(default_factory=dict)
    """sent, served, lost, late, coalesced, spurious, breaks, notifies, interrupts, syscalls, ...; what cannot be
    counted is absent, never 0."""
    lost_seqs: list[int] = field(default_factory=list)
    """The sequence numbers of rings that woke nobody: never served, or brought along by a later one. With the seed,
    what it takes to replay it."""
    usage: list[Usage] = field(default_factory=list)
    trace_ns_per_stamp: float | None = None
    """What a stamp was measured to cost; None when none were made."""
    ended: str = OK
    """`ok`, or why not: `hung`, `died: ...`, `wrong: ...`."""


@dataclass(frozen=True, slots=True)
class Run:
    """What all rounds of a run share: the first line of the file.

    `host` is the provenance. `compare` knows some of its keys (launcher/bench/store/hosts.py); others are kept.
    """

    command: str
    kind: str
    """bench, duel, doctor or calibration."""
    host: dict[str, Any]
    started: str = ""


def setting(name: str, *values: int | float | str) -> str:
    """Return a parameter as the command line sets it, or varies it."""
    return f"{name}={','.join(f'{value:.15g}' if isinstance(value, float) else str(value) for value in values)}"


def round_to_json(round_: Round) -> dict[str, Any]:
    """Return the round as an object for JSON, its arrays packed."""
    value = {f.name: getattr(round_, f.name) for f in fields(round_)}
    value["latencies_ns"] = pack(round_.latencies_ns)
    value["stages_ns"] = {hop: pack(times) for hop, times in round_.stages_ns.items()}
    value["lost_seqs"] = [int(seq) for seq in round_.lost_seqs]
    value["counts"] = {name: int(count) for name, count in round_.counts.items()}
    value["usage"] = [{f.name: getattr(usage, f.name) for f in fields(usage)} for usage in round_.usage]
    return value


def run_to_json(run: Run) -> dict[str, Any]:
    """Return the run as an object for JSON."""
    return {f.name: getattr(run, f.name) for f in fields(run)}


def run_from_json(at: str, value: object) -> Run:
    """Return the run; raise `ReceiptsError` that begins with `at` where a field is not as it must be."""
    f = _Fields(at, value)
    return Run(command=f.text("command"), kind=f.text("kind"), host=f.table("host"), started=f.text("started"))


def round_from_json(at: str, value: object) -> Round:
    """Return the round; raise `ReceiptsError` that begins with `at` where a field is not as it must be."""
    f = _Fields(at, value)
    return Round(
        arm=f.text("arm"),
        case=f.text("case"),
        engine=f.text("engine"),
        waker=f.text("waker"),
        parameters={name: f.check(name, value, (int, float, str)) for name, value in f.table("parameters").items()},
        seed=f.check("seed", f.get("seed"), (int,)),  # as large as it likes
        block=f.integer("block"),
        position=f.integer("position"),
        started=f.text("started"),
        duration_ns=f.integer("duration_ns"),
        latencies_ns=f.packed("latencies_ns", f.get("latencies_ns")),
        stages_ns={hop: f.packed(hop, times) for hop, times in f.table("stages_ns").items()},
        counts={name: f.whole(name, count) for name, count in f.table("counts").items()},
        lost_seqs=[f.whole("lost_seqs", seq) for seq in f.list("lost_seqs")],
        usage=[_usage_from_json(_Fields(f.at, usage)) for usage in f.list("usage")],
        trace_ns_per_stamp=f.check("trace_ns_per_stamp", f.get("trace_ns_per_stamp"), (int, float, type(None))),
        ended=f.check("ended", f.get("ended"), (str,)),
    )


def _usage_from_json(f: _Fields) -> Usage:
    return Usage(
        role=f.text("role"),
        cpu_ns=None if f.get("cpu_ns") is None else f.integer("cpu_ns"),
        voluntary=f.integer("voluntary"),
        involuntary=f.integer("involuntary"),
        pss_bytes=None if f.get("pss_bytes") is None else f.integer("pss_bytes"),
    )


class _Fields:
    """A JSON object, a field of which is there and of its type, or refused by name."""

    def __init__(self, at: str, value: object) -> None:
        self.at = at
        if not isinstance(value, dict):
            raise ReceiptsError(f"{at}: {value!r:.40} is not an object with fields")
        self._value = value

    def get(self, name: str) -> Any:
        if name not in self._value:
            raise ReceiptsError(f"{self.at}: '{name}' is missing")
        return self._value[name]

    def check(self, name: str, value: Any, types: tuple[type, ...]) -> Any:
        if type(value) not in types:  # not isinstance: True is no number
            raise ReceiptsError(f"{self.at}: '{name}' is {value!r:.40}, which it cannot be")
        return value

    def text(self, name: str) -> str:
        text: str = self.check(name, self.get(name), (str,))
        if not text.isprintable():  # it would reach a terminal
            raise ReceiptsError(f"{self.at}: '{name}' is {text!r:.40}, which is not plain text")
        return text

    def integer(self, name: str) -> int:
        return self.whole(name, self.get(name))

    def whole(self, name: str, value: object) -> int:
        number: int = self.check(name, value, (int,))
        if not -(2**63) <= number < 2**63:  # nothing is counted that high, and no float can hold it
            raise ReceiptsError(f"{self.at}: '{name}' is beyond 64 bits")
        return number

    def table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = self.check(name, self.get(name), (dict,))
        for key, value in table.items():
            for text in (key, value):
                if isinstance(text, str) and not text.isprintable():
                    raise ReceiptsError(f"{self.at}: '{name}' has {text!r:.40} in it, which is not plain text")
        return table

    def list(self, name: str) -> list[Any]:
        items: list[Any] = self.check(name, self.get(name), (list,))
        return items

    def packed(self, name: str, value: object) -> Nanoseconds:
        try:
            return unpack(value)
        except ValueError as error:
            raise ReceiptsError(f"{self.at}: '{name}' {error}") from None
