"""A round: one arm in a fresh process, rung by the stimulus, and what came of it.

Whoever wants something measured says so in a `Plan`, and gets a `Round` (records.py). Nothing is dropped: an arm that
hangs or dies is a round, too, and the rings that it never served are named.
"""

from __future__ import annotations

import os
import random
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from time import monotonic_ns
from typing import NamedTuple

import numpy as np

from launcher.bench.measure import yardstick
from launcher.bench.measure.arm import Spec
from launcher.bench.measure.cases import DIRECT, Case, Value, get
from launcher.bench.measure.crew import HUNG, ROOT, Arm, Pipe, Stimulus, open_pipes, raise_fd_limit, uninterrupted
from launcher.bench.measure.hops import Array, hops
from launcher.bench.measure.ledger import (
    HEADER_WORDS,
    INTENDED,
    PUBLISHED,
    ROW_WORDS,
    SENT,
    SERVED_AT,
    WAKE,
    Ledger,
)
from launcher.bench.measure.usage import Meter
from launcher.bench.store.records import OK, SPAN, Round
from shared.errors import CannotRunError

PATIENCE_S = 5.0
"""A ring that is outstanding counts as lost when none was served for so long."""

STOP = "WATCHING→GONE"
"""The hop of a Waker that is stopped, in the case that starts it."""

_FILES_BESIDES, _FILES_PER_SOURCE = 256, 4  # a pipe, and the copies that a Waker process is passed

_ARM = Path(__file__).with_name("arm.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """One round to be run."""

    arm: str
    """Its name in the run, which tells it from all others."""
    case: str
    engine: str
    """`kvm`, `python`, …; `c` for the yardstick."""
    waker: str
    """A Waker's name, `c:PROGRAM`, or `spin/direct`."""
    parameters: dict[str, Value]
    rings: int
    """How many are counted; those of the warm-up come before them."""
    seed: int
    """Of gaps and order of sources: rounds with the same seed are rung alike."""
    block: int = 0
    position: int = 0
    is_tracing: bool = False
    breaks_before: int = 0
    """How many breaks earlier rounds of this arm made, for a fault that comes once in so many (shared/fault.py)."""
    patience_s: float = PATIENCE_S
    tree: Path = ROOT
    """The tree whose machine is measured."""


class Placement(NamedTuple):
    """On which processors Launcher, Waker and stimulus are."""

    launcher: int
    waker: int
    stimulus: int


def placement(pin: str, *, is_busy: bool) -> Placement | None:
    """Return who goes where, or None for wherever the scheduler likes. Raises `CannotRunError` with one processor.

    The stimulus goes where nobody computes: the third processor if there is one, else the one whose owner sleeps.
    """
    if pin == "free":
        return None
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise CannotRunError(f"pin={pin} needs two processors, and this process may use {len(cpus)}; leave it at free")
    if pin == "same":
        return Placement(cpus[0], cpus[0], cpus[1])
    return Placement(cpus[0], cpus[1], cpus[2] if len(cpus) > 2 else cpus[is_busy])


def run_round(plan: Plan) -> Round:
    """Run one arm in a fresh process; all of the plan's rings are rung, whatever the arm does.

    Raises `CannotRunError` when the arm cannot run here, `ArmFailed` when it ends before it is ready.
    """
    case = get(plan.case)
    placed = placement(str(plan.parameters.get("pin", "free")), is_busy=case.guest == "spin")
    raise_fd_limit(_FILES_BESIDES + _FILES_PER_SOURCE * int(plan.parameters.get("sources", 1)))
    started, began_ns = datetime.now(UTC).isoformat(timespec="milliseconds"), monotonic_ns()
    with ExitStack() as closing:
        ledger_fd = Ledger.create(_warmup(plan) + plan.rings)
        closing.callback(os.close, ledger_fd)
        ledger = closing.enter_context(Ledger(ledger_fd))
        pipes = closing.enter_context(open_pipes(_active(plan)))
        plan_rings(plan, case, ledger, len(pipes))
        arm_fds = [ledger_fd, *(pipe.reader for pipe in pipes)]
        argv = _arm_argv(plan, case, ledger_fd, ledger.rings, pipes)
        with uninterrupted():
            arm = closing.enter_context(Arm(argv, arm_fds))
        stimulus: Stimulus | None = None
        has_stimulus, is_asked_by_fd = case.is_rung and case.is_open, case.device in ("vring", "net")
        if has_stimulus and not is_asked_by_fd:  # meanwhile
            with uninterrupted():
                stimulus = closing.enter_context(_stimulus(plan, case, ledger_fd, [pipe.writer for pipe in pipes]))
        layout, passed = arm.wait_until_ready()
        for fd in passed:
            closing.callback(os.close, fd)
        if has_stimulus and is_asked_by_fd:
            with uninterrupted():
                stimulus = closing.enter_context(_stimulus(plan, case, ledger_fd, passed, layout))
        if stimulus is not None:
            stimulus.wait_until_ready()
        meter = Meter(arm.pid, None if stimulus is None else stimulus.pid)
        if placed is not None:
            meter.pin(*placed)
        (arm if stimulus is None else stimulus).begin()
        ended = arm.wait_until_done(stimulus, ledger, plan.patience_s)
        meter.stop()
        report = arm.report(ended) if ended in ("ok", HUNG) else {}
        if stimulus is not None and ended == OK:
            stimulus.finish()
        calls = meter.reads_and_writes()
        usage = meter.usage(report.get("cpu_ns", {}), report.get("ended_cpu_ns", 0))
        rows = np.array(ledger.words[HEADER_WORDS:], dtype=np.int64).reshape(-1, ROW_WORDS)
        stamps = [(str(stage), int(time_ns)) for stage, time_ns in report.get("stamps", [])]
        published = ledger.words[PUBLISHED] if case.is_rung else ledger.rings
    warmup = _warmup(plan)
    served = rows[:, SERVED_AT] > 0
    counts = report.get("counts", {}) | ({} if calls is None else {"reads_and_writes": calls})
    # A frame that was dropped on its way woke nobody, and that is no Waker's fault.
    is_hung = ended == HUNG and not counts.get("dropped")
    lost = _lost(rows[:published], counts.get("broken_in_vain", 0), is_hung=is_hung)
    sent_ns, served_ns = rows[served, SENT].tolist(), rows[served, SERVED_AT].tolist()
    stages = hops(stamps, sent_ns, served_ns, is_answered=case.is_answered) if stamps else {}
    if "stopped_ns" in report:
        stages[STOP] = np.array(report["stopped_ns"], dtype=np.int64)
    counted = served & (np.arange(len(rows)) >= warmup)
    return Round(
        arm=plan.arm,
        case=plan.case,
        engine=plan.engine,
        waker=plan.waker,
        parameters=plan.parameters,
        seed=plan.seed,
        block=plan.block,
        position=plan.position,
        started=started,
        duration_ns=monotonic_ns() - began_ns,
        latencies_ns=rows[counted, SERVED_AT] - rows[counted, INTENDED],
        stages_ns=stages,
        counts={**counts, **_count(case, rows, published, warmup, len(lost))},
        lost_seqs=lost.tolist(),
        usage=usage,
        trace_ns_per_stamp=report.get("ns_per_stamp"),
        ended=ended,
    )


def _lost(rows: Array, in_vain: int, *, is_hung: bool) -> Array:
    """Return the rings that woke nobody: those never served, and those that a later ring brought the Launcher to.

    That so many breaks were lost is counted, and one of them is what it hangs in. Whose the others were is told by the
    time that a ring had to wait. In an arm that died, nothing that is unserved was lost by its Waker.
    """
    waited = rows[:, SERVED_AT] - rows[:, SENT]
    waited[rows[:, SERVED_AT] == 0] = -1
    unserved = np.flatnonzero(waited < 0) if is_hung else np.empty(0, dtype=np.int64)
    made_up_for = max(0, in_vain - bool(len(unserved)))
    latest = np.argsort(waited, kind="stable")[len(waited) - made_up_for :]
    lost: Array = np.union1d(unserved, latest)
    return lost


def _count(case: Case, rows: Array, published: int, warmup: int, lost: int) -> dict[str, int]:
    """Count what the ledger proves. A ring is late when the next one was sent before it was served.

    In a closed loop none is; how long it took for all that are counted says how many there are in a second.
    """
    sent = rows[:published]
    served = sent[sent[:, SERVED_AT] > 0]
    wakes = len(np.unique(served[:, WAKE]))
    is_last_of_burst = (np.diff(sent[:, INTENDED]) > 0) & case.is_open
    counted = served[warmup:]
    span_ns = 0 if case.is_open or not len(counted) else counted[:, SERVED_AT].max() - counted[:, INTENDED].min()
    return {
        **({} if case.is_open else {SPAN: int(span_ns)}),
        "sent": published,
        "warmup": min(warmup, published),
        "served": len(served),
        "coalesced": len(served) - wakes,
        "late": int(np.count_nonzero((sent[:-1, SERVED_AT] > sent[1:, SENT]) & is_last_of_burst)),
        "unserved": published - len(served),
        "lost": lost,
    }


def _warmup(plan: Plan) -> int:
    burst = int(plan.parameters.get("burst", 1))
    return -(-int(plan.parameters.get("warmup", 0)) // burst) * burst  # whole bursts


def _active(plan: Plan) -> int:
    return int(plan.parameters.get("sources", 1)) if plan.parameters.get("active") == "all" else 1


def plan_rings(plan: Plan, case: Case, ledger: Ledger, sources: int) -> None:
    """Decide when each ring is due, and where."""
    if not (case.is_rung and case.is_open):
        return
    order = random.Random(plan.seed)
    if "seconds" in plan.parameters:
        ledger.plan([int(float(plan.parameters["seconds"]) * 1e9)] * ledger.rings, [0] * ledger.rings)
        return
    mean_ns = float(plan.parameters["idle_us"]) * 1e3
    burst = int(plan.parameters.get("burst", 1))
    is_random = plan.parameters["gaps"] == "random"
    gaps = (
        0 if number % burst else int(mean_ns * (0.5 + order.random() if is_random else 1))
        for number in range(ledger.rings)
    )
    ledger.plan(accumulate(gaps), (order.randrange(sources) for _ in range(ledger.rings)))


def _arm_argv(plan: Plan, case: Case, ledger_fd: int, rings: int, pipes: list[Pipe]) -> list[str]:
    idle = int(plan.parameters.get("sources", 1)) - len(pipes)
    if plan.waker.startswith(yardstick.PREFIX):
        program = yardstick.build(plan.waker.removeprefix(yardstick.PREFIX))
        readers = ",".join(str(pipe.reader) for pipe in pipes)
        return [str(program), readers, *map(str, (ledger_fd, rings, idle))]
    spec = Spec(
        device="direct" if plan.waker == DIRECT else case.device,
        engine=plan.engine,
        guest=case.guest,
        waker=re.sub(r"\+drop=\d+(?=\+|$)", rf"\g<0>@{plan.breaks_before}", plan.waker),
        ledger=ledger_fd,
        fds=[pipe.reader for pipe in pipes],
        idle=idle,
        seed=plan.seed,
        own={name: plan.parameters[name] for name in case.own},
        memory_mib=int(plan.parameters["memory_mib"]),
        switch_us=int(plan.parameters["switch_us"]),
        is_tracing=plan.is_tracing,
    )
    return [sys.executable, "-P", str(_ARM), str(plan.tree), spec.to_json()]


def _stimulus(plan: Plan, case: Case, ledger_fd: int, fds: list[int], layout: list[str] | None = None) -> Stimulus:
    kind = case.device if case.device in ("console", "vring", "net") else "pipes"
    size = [str(plan.parameters["payload"])] if "payload" in case.own else []
    lead_us, burst = int(plan.parameters.get("lead_us", 60)), int(plan.parameters.get("burst", 1))
    argv = [str(ledger_fd), str(lead_us), str(burst), kind, *map(str, fds), *(layout or []), *size]
    return Stimulus(argv, [ledger_fd, *fds])
