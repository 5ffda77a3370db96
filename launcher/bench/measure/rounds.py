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
from typing import Any

import numpy as np

from launcher.bench.measure import evidence, yardstick
from launcher.bench.measure.cases import DIRECT, Case, Value, get
from launcher.bench.measure.crew import Arm, Stimulus, uninterrupted
from launcher.bench.measure.files import Pipe, enough_files, open_pipes
from launcher.bench.measure.hops import DUE, hops
from launcher.bench.measure.ledger import (
    HEADER_WORDS,
    INTENDED,
    PUBLISHED,
    ROW_WORDS,
    SENT,
    SERVED_AT,
    Ledger,
)
from launcher.bench.measure.placement import Placement, placement
from launcher.bench.measure.provenance import Ticks
from launcher.bench.measure.spec import ROOT, Spec
from launcher.bench.measure.usage import Meter
from launcher.bench.store.records import DIED, HUNG, OK, Round

PATIENCE_S = 5.0
"""A ring that is outstanding counts as lost when none was served for so long."""

STOP = "WATCHING→GONE"
"""The hop of a Waker that is stopped, in the case that starts it."""

_FILES_BESIDES, _FILES_PER_SOURCE = 256, 4  # a pipe, and the copies that a Waker process is passed

# How the names begin of what leaves the second processor to nobody: there the stimulus is in no one's way.
_ALONE = ("inline/", DIRECT, "c:direct", "c:kvm_sigio")

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


def processors_of(plan: Plan) -> Placement | None:
    """Return on which processors this round's processes are."""
    is_alone = plan.waker.startswith(_ALONE)
    return placement(str(plan.parameters.get("pin", "free")), is_busy=get(plan.case).guest == "spin" or is_alone)


def run_round(plan: Plan) -> Round:
    """Run one arm in a fresh process. Once it hangs or dies, no more is rung.

    Raises `CannotRunError` when the arm cannot run here, `ArmFailed` when it ends before it is ready.
    """
    case = get(plan.case)
    started, began_ns = datetime.now(UTC).isoformat(timespec="milliseconds"), monotonic_ns()
    processors = processors_of(plan)
    sources = int(plan.parameters.get("sources", 1))
    with ExitStack() as closing:
        closing.enter_context(enough_files(_FILES_BESIDES + _FILES_PER_SOURCE * sources, f"{sources} sources"))
        ledger_fd = Ledger.create(_warmup(plan) + plan.rings)
        closing.callback(os.close, ledger_fd)
        ledger = closing.enter_context(Ledger(ledger_fd))
        pipes = closing.enter_context(open_pipes(_active(plan)))
        plan_rings(plan, case, ledger, len(pipes))
        all_due_s = ledger.column(INTENDED)[-1] / 1e9
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
        if processors is not None:
            meter.pin(*processors)
        ticks = Ticks.now()
        (arm if stimulus is None else stimulus).begin()
        ended = arm.wait_until_done(stimulus, ledger, plan.patience_s, all_due_s)
        ticks = Ticks.now().since(ticks)
        published = ledger.words[PUBLISHED]  # now: a stimulus that nobody answers goes on for a while
        meter.stop()
        report = arm.report(gives_up=ended != OK)
        if stimulus is not None and ended == OK:
            ended = stimulus.finish()
        left = arm.leave()
        rows = np.array(ledger.words[HEADER_WORDS:], dtype=np.int64).reshape(-1, ROW_WORDS)
    counts: dict[str, int] = report.get("counts", {})
    if ended == OK:
        ended = _what_was_wrong(plan, arm, left, report)
    calls = meter.reads_and_writes()
    if calls is not None:
        counts["reads_and_writes"] = calls
    unserved = int(np.count_nonzero(rows[:published, SERVED_AT] == 0))
    # A frame that was dropped on its way woke nobody, and that is no Waker's fault; nor is there a ring in a start.
    is_hung = ended == HUNG and case.is_rung and unserved > counts.get("dropped", 0)
    lost = evidence.lost(rows[:published], counts.get("broken_in_vain", 0), is_hung=is_hung)
    warmup = _warmup(plan)
    counted = rows[warmup:][rows[warmup:, SERVED_AT] > 0]
    stamps = [(str(stage), int(time_ns)) for stage, time_ns in report.get("stamps", [])]
    sent_ns, served_ns = counted[:, SENT].tolist(), counted[:, SERVED_AT].tolist()
    stages = hops(stamps, sent_ns, served_ns, is_answered=case.is_answered) if stamps else {}
    if stimulus is not None:
        stages[DUE] = counted[:, SENT] - counted[:, INTENDED]
    if "stopped_ns" in report:
        stages[STOP] = np.array(report["stopped_ns"], dtype=np.int64)
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
        latencies_ns=counted[:, SERVED_AT] - counted[:, INTENDED],
        stages_ns=stages,
        counts={**counts, **evidence.count(case, rows[:published], warmup), "lost": len(lost), **ticks.counts()},
        lost_seqs=lost,
        usage=meter.usage(report.get("cpu_ns", {}), report.get("ended_cpu_ns", 0)),
        trace_ns_per_stamp=report.get("ns_per_stamp"),
        ended=ended,
    )


def _what_was_wrong(plan: Plan, arm: Arm, left: str, report: dict[str, Any]) -> str:
    """Return how a round ended in which all rings were served: it may have gone wrong all the same."""
    if left != OK:
        return arm.death("when all was served: ", left)
    if not report and plan.engine != yardstick.ENGINE:
        return f"{DIED}when all was served: it did not say what it counted"
    if replaced := report.get("counts", {}).get("replaced", 0):
        return f"{DIED}its Waker ({replaced} times)"
    return OK


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
