"""Every case on every place: all rings are served, each is one row of the ledger, and what is counted adds up.

Counts, never times. A round has a few dozen rings: what is tried is that it measures at all, and tells the truth.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import waker
from launcher.bench.measure import namespace, rounds, yardstick
from launcher.bench.measure.cases import CASES, DIRECT, Value, get
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.measure.ledger import INTENDED, Ledger
from launcher.bench.measure.rounds import STOP, Plan, plan_rings, run_round
from launcher.bench.measure.stimulus import UNDER_WAY
from launcher.bench.measure.usage import LAUNCHER, STIMULUS, WAKER
from launcher.bench.show.summary import summarise
from launcher.bench.store.records import OK, SPAN, Round
from shared.errors import CannotRunError
from tests.support.sessions import ROOT, skip_unless_it_runs

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
    assert all(usage.cpu_ns > 0 for usage in round_.usage if usage.pss_bytes is not None)


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


def test_a_burst_shares_wakes() -> None:
    round_ = measure("burst", "process/epoll", burst=15)
    expect_all_served(round_)
    assert round_.counts["warmup"] == 15  # whole bursts


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


@pytest.mark.parametrize("how", ["same", "apart"])
def test_all_can_be_pinned(how: str) -> None:
    try:
        expect_all_served(measure("wake", "process/select", pin=how))
    except CannotRunError as reason:
        pytest.skip(str(reason))


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
    assert {"SEEN→BREAK", "BREAK→LEFT", "LEFT→READ", "READ→INTERRUPT"} <= set(round_.stages_ns)
    assert all((times >= 0).all() for times in round_.stages_ns.values())


def test_the_way_of_a_ring_that_the_guest_answers_ends_with_its_answer() -> None:
    skip_unless_pinged()
    round_ = measure("ping", "process/select", is_tracing=True)
    expect_all_served(round_)
    assert {"LEFT→INTERRUPT", "RELEASED→ANSWERED"} <= set(round_.stages_ns)
    assert "READ" not in {stage for hop in round_.stages_ns for stage in hop.split("→")}


def test_the_machine_of_another_tree_is_measured_by_the_harness_of_this_one(tmp_path: Path) -> None:
    for floor in ("launcher", "waker", "shared"):
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("bench", "__pycache__"))
    expect_all_served(measure("wake", "process/select", tree=tmp_path))
    with (tmp_path / "launcher/machine.py").open("a") as machine:
        machine.write("\nraise RuntimeError('this tree is another one')\n")
    with pytest.raises(ArmFailed, match="this tree is another one"):
        measure("wake", "process/select", tree=tmp_path)


# ---- What goes wrong ----


@pytest.mark.parametrize("name", ["fork/poll", "thread/epoll", "process/select", "inline/uring"])
def test_a_break_that_is_dropped_is_a_ring_that_is_lost_by_its_number(name: str) -> None:
    skip_unless_it_runs(name, "python")
    # The first one: how many rings share a break depends on how busy the machine is.
    round_ = measure("wake", f"{name}+drop=1", warmup=0, patience_s=1.0)
    assert round_.ended == "hung"
    assert round_.lost_seqs == list(range(RINGS))
    assert (round_.counts["breaks"], round_.counts["taken"], round_.counts["broken_in_vain"]) == (1, 0, 1)


def test_a_dropped_break_that_a_later_ring_makes_up_for_is_lost_all_the_same() -> None:
    skip_unless_it_runs("inline/sigio", "python")
    round_ = measure("wake", "inline/sigio+drop=4", warmup=0, idle_us=1000.0)
    counts = round_.counts
    assert counts["broken_in_vain"] == counts["breaks"] // 4
    if round_.ended == OK:  # else it was the last ring's, which nothing makes up for
        assert (counts["unserved"], len(round_.lost_seqs)) == (0, counts["broken_in_vain"])


def test_a_fault_that_is_rare_is_counted_on_from_round_to_round() -> None:
    round_ = measure("churn", "thread/poll+drop=1000+ring-aware", breaks_before=999, patience_s=1.0)
    assert round_.ended == "hung"
    assert (round_.counts["breaks"], round_.counts["taken"]) == (1, 0)


@pytest.mark.parametrize("case", ["ping", "block"])
def test_a_break_that_is_dropped_is_lost_with_a_real_device_too(case: str) -> None:
    if case == "ping":
        skip_unless_pinged()
    pace: dict[str, Value] = {"idle_us": 200.0} if case == "ping" else {}
    round_ = measure(case, "process/select+drop=1", warmup=0, patience_s=0.3, **pace)
    assert round_.ended == "hung"
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


def test_an_arm_that_is_killed_is_a_round_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doomed(rounds.Arm):
        def wait_until_ready(self) -> tuple[list[str], list[int]]:
            said = super().wait_until_ready()
            os.kill(self.pid, signal.SIGKILL)
            return said

    monkeypatch.setattr(rounds, "Arm", Doomed)
    round_ = measure("wake", "process/select")
    assert round_.ended == "died: it left with -9"
    assert round_.lost_seqs == []
    assert round_.counts["unserved"] >= 0
