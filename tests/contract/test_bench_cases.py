"""Every case on every place: all rings are served, each is one row of the ledger, and what is counted adds up.

Counts, never times. A round has a few dozen rings: what is tried is that it measures at all, and tells the truth.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

import waker
from launcher.bench.measure import crew, namespace, rounds, yardstick
from launcher.bench.measure.cases import CASES, DIRECT, Value, get
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.hops import DUE
from launcher.bench.measure.ledger import INTENDED, PUBLISHED, Ledger
from launcher.bench.measure.rounds import STOP, Plan, plan_rings, run_round
from launcher.bench.measure.stimulus import UNDER_WAY
from launcher.bench.measure.usage import LAUNCHER, STIMULUS, WAKER
from launcher.bench.show.summary import summarise
from launcher.bench.store.records import HUNG, OK, SPAN, Round
from shared.errors import CannotRunError
from tests.support.sessions import ROOT, skip_unless_it_runs
from tests.support.until import until

RINGS, WARMUP = 30, 5
WAKERS = ("fork/select", "thread/epoll", "process/poll", "inline/uring")
ON_KVM = ("process/epoll",)


def measure(
    case: str,
    name: str,
    engine: str = "python",
    *,
    is_tracing: bool = False,
    breaks_before: int = 0,
    patience_s: float = 20.0,
    tree: Path = ROOT,
    rings: int = RINGS,
    **settings: Value,
) -> Round:
    """Run one small round; a busy machine may take its time."""
    parameters = get(case).defaults()
    if "warmup" in parameters:
        parameters["warmup"] = WARMUP
    if "seconds" in parameters:
        parameters["seconds"] = 0.01
    parameters |= settings
    rings = {"idle": 1, "start": 3}.get(case, rings)
    return run_round(
        Plan(
            arm=name,
            case=case,
            engine=engine,
            waker=name,
            parameters=parameters,
            rings=rings,
            seed=1,
            is_tracing=is_tracing,
            breaks_before=breaks_before,
            patience_s=patience_s,
            tree=tree,
        )
    )


def skip_unless_pinged() -> None:
    if reason := namespace.missing():
        pytest.skip(reason)


def expect_all_served(round_: Round, rings: int = RINGS) -> None:
    assert round_.ended == OK
    assert len(round_.latencies_ns) == rings
    assert (round_.latencies_ns > 0).all()
    counts = round_.counts
    assert counts["served"] == counts["sent"] == rings + counts["warmup"]
    assert (counts["lost"], counts["unserved"], round_.lost_seqs) == (0, 0, [])
    assert 0 <= counts["coalesced"] < counts["served"]


@pytest.mark.parametrize("name", WAKERS)
@pytest.mark.parametrize("case", [name for name in CASES if name != "start"])
def test_a_case_serves_every_ring(case: str, name: str) -> None:
    skip_unless_it_runs(name, "python")
    if reason := get(case).why_not(name, "python"):
        pytest.skip(reason)
    round_ = measure(case, name)
    expect_all_served(round_, 1 if case == "idle" else RINGS)
    counts = round_.counts
    assert counts["broken_in_vain"] == counts["replaced"] == 0
    assert 1 <= counts["breaks"] <= counts["taken"]
    roles = [usage.role for usage in round_.usage if usage.pss_bytes is not None]
    has_own_process = waker.parse(name).place in ("fork", "process")
    has_stimulus = get(case).is_open
    assert roles == [LAUNCHER, *([WAKER] if has_own_process else []), *([STIMULUS] if has_stimulus else [])]
    assert all(usage.cpu_ns for usage in round_.usage if usage.pss_bytes is not None)
    assert (DUE in round_.stages_ns) == has_stimulus
    if has_stimulus:  # never before it is due, and never after it was served
        assert ((round_.stages_ns[DUE] >= 0) & (round_.stages_ns[DUE] < round_.latencies_ns)).all()
    # A thread of another process can be asked by nobody.
    assert all(
        usage.cpu_ns is None for usage in round_.usage if usage.role in (f"{WAKER}:thread", f"{STIMULUS}:thread")
    )


@pytest.mark.kvm
@pytest.mark.parametrize("name", ON_KVM)
@pytest.mark.parametrize("case", [name for name in CASES if name != "start"])
def test_a_case_serves_every_ring_on_kvm(case: str, name: str) -> None:
    skip_unless_it_runs(name, "kvm")
    if reason := get(case).why_not(name, "kvm"):
        pytest.skip(reason)
    expect_all_served(measure(case, name, "kvm"), 1 if case == "idle" else RINGS)


@pytest.mark.parametrize("name", ["fork/select", "thread/epoll", "process/poll", "inline/uring"])
def test_starts_and_ends_are_a_row_each(name: str) -> None:
    skip_unless_it_runs(name, "python")
    round_ = measure("start", name)
    assert (round_.ended, len(round_.latencies_ns), len(round_.stages_ns[STOP])) == (OK, 3, 2)
    has_own_process = waker.parse(name).place in ("fork", "process")
    assert [usage.role for usage in round_.usage].count(WAKER) == has_own_process  # the last one, which stays


@pytest.mark.parametrize("name", ["thread/epoll", "process/select", "inline/uring"])
def test_a_ring_aware_waker_is_churned_without_a_change_of_its_watch_set(name: str) -> None:
    skip_unless_it_runs(name, "python")
    expect_all_served(measure("churn", f"{name}+ring-aware"))


def test_all_sources_are_rung_in_turn() -> None:
    expect_all_served(measure("fanin", "process/epoll", sources=16, active="all"))


def test_a_burst_that_comes_while_nobody_runs_shares_one_wake(meddled: type[Doomed]) -> None:
    meddled.what = staticmethod(lambda pid: os.kill(pid, signal.SIGSTOP))
    meddled.when_published = RINGS + 15
    round_ = measure("burst", "thread/epoll", burst=15, idle_us=1.0)
    expect_all_served(round_)
    assert round_.counts["warmup"] == 15  # whole bursts
    assert round_.counts["coalesced"] == RINGS + 15 - 1
    # Each burst but the last was over before any of it was served.
    assert round_.counts["late"] == 2


@pytest.mark.parametrize("size", [1, 7, 200])
def test_what_is_typed_comes_back_whole(size: int) -> None:
    expect_all_served(measure("echo", "thread/poll", payload=size))


def test_the_largest_ping_is_answered_through_the_tap() -> None:
    skip_unless_pinged()
    round_ = measure("ping", "process/epoll", payload=1472)
    expect_all_served(round_)
    # Each answer is a notification of the Guest's, each question an interrupt, but for those that went together.
    assert round_.counts["dropped"] == 0
    assert min(round_.counts["notifies"], round_.counts["interrupts"]) >= 1


def test_pings_that_come_faster_than_they_are_answered_are_held_back_and_none_is_dropped() -> None:
    skip_unless_pinged()
    count = 2 * UNDER_WAY
    round_ = measure("ping", "thread/epoll", rings=count, idle_us=1.0, lead_us=0)
    expect_all_served(round_, count)
    assert round_.counts["dropped"] == 0


def test_a_ring_aware_waker_is_pinged_too() -> None:
    skip_unless_pinged()
    expect_all_served(measure("ping", "thread/epoll+ring-aware"))


@pytest.mark.parametrize("io", ["thread", "uring"])
@pytest.mark.parametrize("depth", [1, 32])
def test_so_many_reads_are_in_flight_and_each_brings_the_next(io: str, depth: int) -> None:
    skip_unless_it_runs("inline/uring" if io == "uring" else "process/epoll", "python")
    round_ = measure("block", "process/epoll", rings=100, depth=depth, io=io, size_mib=1)
    expect_all_served(round_, 100)
    assert round_.counts["late"] == 0
    assert 1 <= round_.counts["interrupts"] <= 100 + round_.counts["warmup"]
    # At any time the reads that began and have not ended are as many as were asked for: so is what they took together.
    assert round_.latencies_ns.sum() <= depth * round_.counts[SPAN]
    (summary,) = summarise([round_])
    assert summary.rings_per_s == pytest.approx(100 * 1e9 / round_.counts[SPAN])


@pytest.mark.parametrize("size", [512, 65536])
def test_reads_have_the_size_that_was_asked_for(size: int) -> None:
    expect_all_served(measure("block", "thread/poll", bytes=size, size_mib=1, depth=3))


@pytest.mark.parametrize(("how", "is_together"), [("same", True), ("apart", False)])
@pytest.mark.parametrize("name", ["process/select", "thread/epoll"])
def test_all_can_be_pinned(name: str, how: str, is_together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, set[int]]] = []

    class Looks(rounds.Meter):
        def stop(self) -> None:
            for pid in (self._arm_pid, *(child.pid for child in psutil.Process(self._arm_pid).children())):
                tids = [thread.id for thread in psutil.Process(pid).threads()]
                seen.extend((pid, tid, os.sched_getaffinity(tid)) for tid in tids)
            super().stop()

    monkeypatch.setattr(rounds, "Meter", Looks)
    try:
        expect_all_served(measure("wake", name, pin=how))
    except CannotRunError as reason:
        pytest.skip(str(reason))
    assert all(len(cpus) == 1 for _, _, cpus in seen)
    launchers = [cpus for _, tid, cpus in seen if tid == seen[0][0]]
    others = [cpus for _, tid, cpus in seen if tid != seen[0][0]]
    assert others
    assert all((cpus == launchers[0]) == is_together for cpus in others)


@pytest.mark.parametrize(
    ("name", "case", "is_beside_the_launcher"),
    [
        ("process/select", "wake", True),
        ("inline/uring", "wake", False),
        (DIRECT, "wake", False),
        ("c:direct", "wake", False),
        ("c:process_select", "wake", True),
        ("process/select", "wake-busy", False),
    ],
)
def test_pinned_apart_the_stimulus_is_where_nobody_computes(
    name: str, case: str, is_beside_the_launcher: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {2, 5})
    plan = Plan(name, case, "python", name, {**get(case).defaults(), "pin": "apart"}, RINGS, 1)
    assert rounds.processors_of(plan) == (2, 5, 2 if is_beside_the_launcher else 5)


def test_the_harness_alone_serves_every_ring() -> None:
    expect_all_served(measure("wake", DIRECT))


@pytest.mark.parametrize("program", yardstick.PROGRAMS)
def test_the_yardstick_keeps_the_same_ledger(program: str) -> None:
    if reason := yardstick.why_not(program):
        pytest.skip(reason)
    case = "wake"
    if program.startswith("kvm_"):
        skip_unless_it_runs("thread/select", "kvm")
        case = "wake-busy"
    expect_all_served(measure(case, f"c:{program}", "c"))


@pytest.mark.parametrize("sources", [16, 300])  # which is more than one message can hand over
@pytest.mark.parametrize("program", [name for name in yardstick.PROGRAMS if not name.startswith("kvm_")])
def test_the_yardstick_serves_each_ring_of_the_source_that_was_rung(program: str, sources: int) -> None:
    if reason := yardstick.why_not(program):
        pytest.skip(reason)
    expect_all_served(measure("fanin", f"c:{program}", "c", sources=sources, active="all", patience_s=3.0))


def test_rounds_of_one_seed_are_rung_alike_and_another_is_not() -> None:
    def due(seed: int) -> list[int]:
        fd = Ledger.create(50)
        try:
            with Ledger(fd) as ledger:
                plan = Plan("a", "wake", "python", "a", get("wake").defaults(), 50, seed)
                plan_rings(plan, get("wake"), ledger, 1)
                return ledger.column(INTENDED)
        finally:
            os.close(fd)

    assert due(1) == due(1) != due(2)
    gaps = [after - before for before, after in zip(due(1), due(1)[1:], strict=False)]
    assert all(100_000 <= gap <= 300_000 for gap in gaps)


@pytest.mark.parametrize("name", ["process/select", "inline/uring"])
def test_a_traced_round_follows_each_ring_from_stage_to_stage(name: str) -> None:
    skip_unless_it_runs(name, "python")
    round_ = measure("wake", name, is_tracing=True, idle_us=2000.0)
    expect_all_served(round_)
    assert round_.trace_ns_per_stamp is not None
    until_read = ["READY→SEEN", "SEEN→BREAK", "BREAK→LEFT", "LEFT→READ"]
    assert {*until_read, "READ→INTERRUPT"} <= set(round_.stages_ns)
    assert all(len(times) <= RINGS for times in round_.stages_ns.values())  # those of the warm-up are not among them
    # What a ring's hops take is no more than what it took, which counts from when it was due.
    if all(len(round_.stages_ns[hop]) == RINGS for hop in until_read):
        assert (sum(round_.stages_ns[hop] for hop in until_read) <= round_.latencies_ns).all()


def test_the_way_of_a_ring_that_the_guest_answers_ends_with_its_answer() -> None:
    skip_unless_pinged()
    round_ = measure("ping", "process/select", is_tracing=True)
    expect_all_served(round_)
    assert {"LEFT→INTERRUPT", "RELEASED→ANSWERED"} <= set(round_.stages_ns)
    assert "READ" not in {stage for hop in round_.stages_ns for stage in hop.split("→")}


def copy_tree(to: Path) -> None:
    """Copy this tree's machine, so that something can be done to it; the harness stays this one's."""
    for floor in ("launcher", "waker", "shared"):
        shutil.copytree(ROOT / floor, to / floor, ignore=shutil.ignore_patterns("bench", "__pycache__"))


def test_the_machine_of_another_tree_is_measured_by_the_harness_of_this_one(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    expect_all_served(measure("wake", "process/select", tree=tmp_path))
    for part in ("waker/serve.py", "launcher/machine.py"):  # in the Waker's process, and in the Launcher's
        with (tmp_path / part).open("a") as file:
            file.write(f"\nraise RuntimeError('{part} is of another tree')\n")
        with pytest.raises(ArmFailed, match=f"{part} is of another tree"):
            measure("wake", "process/select", tree=tmp_path)
        shutil.copy(ROOT / part, tmp_path / part)


# ---- What goes wrong ----


@pytest.mark.parametrize("name", ["fork/poll", "thread/epoll", "process/select", "inline/uring"])
def test_a_break_that_is_dropped_is_a_ring_that_is_lost_by_its_number(name: str) -> None:
    skip_unless_it_runs(name, "python")
    # The first one: how many rings share a break depends on how busy the machine is.
    round_ = measure("wake", f"{name}+drop=1", warmup=0, patience_s=1.0)
    assert round_.ended == HUNG
    assert round_.lost_seqs == list(range(RINGS))
    assert (round_.counts["breaks"], round_.counts["taken"], round_.counts["broken_in_vain"]) == (1, 0, 1)


def test_a_dropped_break_that_a_later_ring_makes_up_for_is_lost_by_its_number() -> None:
    skip_unless_it_runs("inline/sigio", "python")
    round_ = measure("wake", "inline/sigio+drop=4", warmup=0, idle_us=3000.0)
    counts = round_.counts
    assert counts["broken_in_vain"] == counts["breaks"] // 4 == len(round_.lost_seqs) >= 1
    assert counts["unserved"] == 0 or round_.ended == HUNG  # the last ring's, which nothing makes up for
    if counts["coalesced"] + (counts["unserved"] > 0) == len(round_.lost_seqs):  # else some shared a wake by themselves
        assert round_.lost_seqs == list(range(3, RINGS, 4))


def test_a_fault_that_is_rare_is_counted_on_from_round_to_round() -> None:
    round_ = measure("churn", "thread/poll+drop=1000+ring-aware", breaks_before=999, patience_s=1.0)
    assert round_.ended == HUNG
    assert (round_.counts["breaks"], round_.counts["taken"]) == (1, 0)


@pytest.mark.parametrize("case", ["ping", "block"])
def test_a_break_that_is_dropped_is_lost_with_a_real_device_too(case: str) -> None:
    if case == "ping":
        skip_unless_pinged()
    pace: dict[str, Value] = {"idle_us": 200.0} if case == "ping" else {}
    round_ = measure(case, "process/select+drop=1", warmup=0, patience_s=0.3, **pace)
    assert round_.ended == HUNG
    assert round_.lost_seqs == (list(range(RINGS)) if case == "ping" else [0])  # there is one read in flight
    assert (round_.counts["breaks"], round_.counts["taken"], round_.counts["broken_in_vain"]) == (1, 0, 1)


def test_a_back_end_that_a_waker_cannot_watch_is_refused_when_the_arm_starts() -> None:
    skip_unless_it_runs("inline/sigio", "python")
    skip_unless_it_runs("inline/uring", "python")
    with pytest.raises(CannotRunError, match="eventfd"):
        measure("block", "inline/sigio", io="uring", size_mib=1)


def test_reads_that_do_not_fit_into_guest_memory_are_refused() -> None:
    with pytest.raises(CannotRunError, match="set memory_mib higher"):
        measure("block", "thread/poll", memory_mib=2, depth=32, bytes=65536, size_mib=1)


def test_an_arm_that_cannot_run_here_says_why() -> None:
    with pytest.raises(CannotRunError, match="FD_SETSIZE"):
        measure("fanin", "process/select", sources=1100)


def test_more_files_than_may_be_open_are_refused_when_the_arm_starts() -> None:
    script = (
        "import resource, tests.contract.test_bench_cases as bench;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300));"
        "print(bench.refusal('fanin', 'process/epoll', sources=400, active='one'));"
        "print(bench.refusal('fanin', 'process/epoll', sources=400, active='all'))"
    )
    # Who may raise the hard limit does: so this is tried by somebody who may not.
    may_not = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if os.geteuid() == 0 else []
    argv = [*may_not, sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    active_one, active_all = done.stdout.splitlines()
    remedy = "raise the hard limit (ulimit -Hn; fs.file-max), or set fewer sources"
    assert active_one == f"the system: Too many open files; {remedy}"
    assert active_all == f"400 sources: Too many open files (here 300, up to 300 when asked for); {remedy}"


def refusal(case: str, name: str, **settings: Value) -> str:
    try:
        measure(case, name, **settings)
    except CannotRunError as reason:
        return str(reason)
    return "it ran"


class Doomed(rounds.Arm):
    """An arm to which something happens when it is ready, or when all is served."""

    at, what = "ready", staticmethod(lambda pid: os.kill(pid, signal.SIGKILL))
    when_published = 0  # so many rings are, it may go on

    def wait_until_done(self, stimulus: Any, ledger: Ledger, *args: float) -> str:
        if self.when_published:
            until(lambda: ledger.words[PUBLISHED] == self.when_published, "not all was rung")
            os.kill(self.pid, signal.SIGCONT)
        return super().wait_until_done(stimulus, ledger, *args)

    def wait_until_ready(self) -> tuple[list[str], list[int]]:
        said = super().wait_until_ready()
        if self.at == "ready":
            self.what(self.pid)
        return said

    def report(self, *, gives_up: bool) -> dict[str, Any]:
        if self.at == "done":
            self.what(self.pid)
        return super().report(gives_up=gives_up)


@pytest.fixture
def meddled(monkeypatch: pytest.MonkeyPatch) -> type[Doomed]:
    class Mine(Doomed):
        pass

    monkeypatch.setattr(rounds, "Arm", Mine)
    return Mine


@pytest.fixture
def doomed(meddled: type[Doomed], monkeypatch: pytest.MonkeyPatch) -> type[Doomed]:
    """Nobody is waited for that will not come."""
    for name in ("_REPORT_S", "_END_S"):
        monkeypatch.setattr(crew, name, 0.2)
    return meddled


@pytest.mark.parametrize("case", ["wake", "start", "block", "vring"])
def test_an_arm_that_is_killed_is_a_round_that_died(case: str, doomed: type[Doomed]) -> None:
    round_ = measure(case, "process/select")
    assert round_.ended == "died: it was killed by SIGKILL"
    assert round_.lost_seqs == []
    assert round_.counts["unserved"] >= 0


def test_an_arm_that_dies_when_all_is_served_did_not_end_well(doomed: type[Doomed]) -> None:
    doomed.at = "done"
    round_ = measure("wake", "process/select")
    assert round_.ended == "died: when all was served: it was killed by SIGKILL"
    assert len(round_.latencies_ns) == RINGS


@pytest.mark.parametrize("case", ["wake", "start", "block", "vring", "ping"])
def test_an_arm_that_stands_still_is_given_up(case: str, doomed: type[Doomed]) -> None:
    if case == "ping":
        skip_unless_pinged()
    doomed.what = staticmethod(lambda pid: os.kill(pid, signal.SIGSTOP))
    round_ = measure(case, "process/select", patience_s=0.2)
    assert round_.ended == HUNG
    assert bool(round_.lost_seqs) == (case in ("wake", "vring", "ping"))  # the others had begun nothing


def test_a_waker_that_died_and_was_replaced_is_said(meddled: type[Doomed]) -> None:
    def kill_its_waker(pid: int) -> None:
        (child,) = psutil.Process(pid).children()
        child.kill()

    meddled.what = staticmethod(kill_its_waker)
    round_ = measure("wake", "process/select")
    assert round_.ended == "died: its Waker (1 times)"
    assert (round_.counts["replaced"], round_.lost_seqs) == (1, [])
    assert "broken_in_vain" not in round_.counts  # nobody knows


def test_a_ping_whose_answer_is_wrong_keeps_the_round(tmp_path: Path) -> None:
    skip_unless_pinged()
    copy_tree(tmp_path)
    guest, send = tmp_path / "launcher/guests/pong.py", "network.send(number, len(frame))"
    # The seventh answer gets another byte, and no checksum that would tell of it.
    spoil = "if frame[42] == 7:\n  frame[40:42] = b'\\0\\0'\n  frame[50] = 1\n"
    spoil = textwrap.indent(spoil + send, " " * 16).lstrip()
    guest.write_text(guest.read_text().replace(send, spoil))
    round_ = measure("ping", "thread/epoll", tree=tmp_path)
    assert round_.ended == "wrong: the stimulus: ping: what came is not what was sent as number 7"
    assert len(round_.latencies_ns) >= 1
