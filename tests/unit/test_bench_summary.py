"""What rounds come to, on rounds that are made up: quantiles, ratios, costs, the front, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher import cli
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import get
from launcher.bench.measure.hops import DUE, hops
from launcher.bench.measure.placement import Placement, placement
from launcher.bench.measure.session import ArmPlan, choose_amount
from launcher.bench.show.next import after_bench
from launcher.bench.show.summary import front, summarise
from launcher.bench.show.table import lost_remarks, remarks
from launcher.bench.store.receipts import Writer
from launcher.bench.store.records import Round, Run, Usage
from shared.errors import CannotRunError, UsageError
from tests.support.suggested import begun


def a_round(
    name: str,
    latencies_us: list[float],
    block: int = 0,
    cpu_us: float = 10,
    engine: str = "python",
    counts: dict[str, int] | None = None,
    lost: tuple[int, ...] = (),
    case: str = "wake",
    parameters: dict[str, int | float | str] | None = None,
) -> Round:
    served = len(latencies_us)
    return Round(
        arm=name,
        case=case,
        engine="c" if name.startswith("c:") else engine,
        waker=name,
        parameters=parameters or {},
        seed=100 + block,
        block=block,
        position=0,
        started="",
        duration_ns=1,
        latencies_ns=np.array([int(us * 1e3) for us in latencies_us], dtype=np.int64),
        counts={"served": served, "sent": served, "coalesced": 0, **(counts or {})},
        lost_seqs=list(lost),
        usage=[
            Usage("launcher", int(cpu_us * 1e3) * served, 2 * served, served, 1 << 20),
            Usage("launcher:thread", 5, served, 0, None),
            Usage("waker", 0, 0, 0, 2 << 20),
            Usage("stimulus", 10**9, 10**6, 0, 1 << 30),
        ],
        ended="hung" if lost else "ok",
    )


def test_arms_are_sorted_by_their_median_and_pooled_over_blocks() -> None:
    rounds = [a_round("thread/poll", [3.0] * 5, 0), a_round("process/poll", [2.0] * 5, 0)]
    rounds += [a_round("thread/poll", [1.0] * 6, 1)]
    first, second = summarise(rounds)
    assert (first.arm, first.n, first.p50_ns) == ("thread/poll", 11, 1000.0)
    assert (second.arm, second.rounds) == ("process/poll", 1)


@pytest.mark.parametrize(("n", "names"), [(4, []), (5, ["p50"]), (29, ["p50", "p90"]), (299, ["p50", "p90", "p99"])])
def test_a_quantile_is_there_only_where_the_sample_can_say(n: int, names: list[str]) -> None:
    (summary,) = summarise([a_round("thread/poll", [1.0] * n)])
    assert list(summary.quantiles_ns) == names


def test_costs_are_those_of_launcher_and_waker_for_each_wake_and_threads_count_once() -> None:
    (summary,) = summarise([a_round("process/poll", [1.0] * 10, cpu_us=7)])
    assert summary.cpu_ns == 7000
    assert summary.switches == 3
    assert summary.pss_bytes == 3 << 20


def test_rings_that_shared_a_wake_share_what_it_cost() -> None:
    (summary,) = summarise([a_round("process/poll", [1.0] * 10, cpu_us=7, counts={"coalesced": 8})])
    assert (summary.cpu_ns, summary.switches) == (35_000, 15)


def test_a_cost_that_was_not_recorded_is_not_nothing() -> None:
    (summary,) = summarise([replace(a_round("process/poll", [1.0] * 10), usage=[])])
    assert (summary.cpu_ns, summary.switches) == (None, None)


def test_the_ratio_is_of_c_with_the_same_parameters() -> None:
    rounds = []
    for idle_us, us in ((1.0, 2.0), (100.0, 8.0)):
        settings = {"idle_us": idle_us}
        rounds.append(replace(a_round("process/poll", [16.0] * 9, parameters=settings), arm=f"process/poll {idle_us}"))
        c = a_round("c:process_select", [us] * 9, parameters=settings)
        rounds.append(replace(c, arm=f"c:process_select {idle_us}"))
    found = {one.arm: (one.base, one.ratio) for one in summarise(rounds) if one.is_waker}
    assert found == {"process/poll 1.0": ("c:process_select", 8.0), "process/poll 100.0": ("c:process_select", 2.0)}


BASES = {
    ("wake", "python"): {"thread": "thread_select", "process": "process_select", "inline": "direct"},
    ("wake-busy", "kvm"): {"thread": "kvm_thread_select", "process": "kvm_thread_select", "inline": "kvm_sigio"},
    ("wake-busy", "python"): dict.fromkeys(("thread", "process", "inline")),  # whose Guest takes no exit of KVM's
    ("echo", "kvm"): dict.fromkeys(("thread", "process", "inline")),
}
BASES["wake", "kvm"] = BASES["wake", "unicorn"] = BASES["wake", "python"]
BASES["wake-busy", "unicorn"] = BASES["wake-busy", "python"]


@pytest.mark.parametrize(("case", "engine"), BASES)
def test_a_waker_is_compared_with_c_of_its_place_on_its_engine(case: str, engine: str) -> None:
    wanted = {place: name and f"c:{name}" for place, name in BASES[case, engine].items()}
    wanted["fork"] = wanted["process"]
    programs = [a_round(f"c:{name}", [1.0] * 9, case=case) for name in yardstick.PROGRAMS]
    wakers = [a_round(f"{place}/epoll", [2.0] * 9, engine=engine, case=case) for place in wanted]
    summaries = summarise(programs + wakers)
    assert {one.waker.partition("/")[0]: one.base for one in summaries if one.is_waker} == wanted
    said = [one for one in remarks(get(case), summaries) if one.startswith("x C")]
    of = ", ".join(sorted(set(filter(None, wanted.values()))))
    assert said == [f"x C: p50 against plain C of the same place (select), or the nearest to it: {of}"] * bool(of)


def test_the_ratio_is_that_to_c_block_by_block() -> None:
    rounds = []
    for block, slowness in enumerate((1, 50, 1)):  # the machine was slow for a block, for all alike
        rounds += [
            a_round("process/poll", [6.0 * slowness] * 9, block),
            a_round("thread/poll", [3.0 * slowness] * 9, block),
            a_round("c:process_select", [3.0 * slowness] * 9, block),
            a_round("c:thread_select", [2.0 * slowness] * 9, block),
        ]
    found = {summary.arm: (summary.base, summary.ratio) for summary in summarise(rounds)}
    assert found["process/poll"] == ("c:process_select", 2.0)
    assert found["thread/poll"] == ("c:thread_select", 1.5)
    assert found["c:thread_select"] == (None, None)


def test_without_the_yardstick_there_is_no_ratio() -> None:
    (summary,) = summarise([a_round("process/poll", [1.0] * 9)])
    assert (summary.base, summary.ratio) == (None, None)


def test_the_front_holds_those_that_nobody_beats_in_all_three() -> None:
    summaries = summarise(
        [
            a_round("inline/uring", [1.0] * 9, cpu_us=5),  # the fastest and cheapest
            a_round("thread/poll", [2.0] * 9, cpu_us=6),  # no better than inline in anything
            a_round("fork/poll", [4.0] * 9, cpu_us=8),  # better isolated than those, worse than process
            a_round("process/poll", [3.0] * 9, cpu_us=7),
            a_round("process/spin", [2.5] * 9, cpu_us=90),  # faster than process/poll, and dear
            a_round("process/select", [0.5] * 9, cpu_us=1, lost=(3,)),  # what loses wins nothing
            a_round("c:direct", [0.1] * 9, cpu_us=0),
            a_round("spin/direct", [0.1] * 9, cpu_us=0),
        ]
    )
    assert {summary.arm for summary in front(summaries)} == {"inline/uring", "process/poll", "process/spin"}


def test_what_ran_under_other_conditions_beats_nobody() -> None:
    kind = replace(a_round("thread/poll", [1.0] * 9, cpu_us=1, parameters={"idle_us": 1.0}), arm="kind")
    harsh = replace(a_round("inline/uring", [9.0] * 9, cpu_us=9, parameters={"idle_us": 100.0}), arm="harsh")
    other = replace(
        a_round("inline/uring", [9.0] * 9, cpu_us=9, engine="kvm", parameters={"idle_us": 1.0}), arm="other"
    )
    assert {one.arm for one in front(summarise([kind, harsh, other]))} == {"kind", "harsh", "other"}


def test_neither_what_died_nor_what_nobody_measured_is_rewarded() -> None:
    died = replace(a_round("inline/uring", [1.0] * 9), ended="died: it left with 1")
    unknown = replace(a_round("thread/poll", [3.0] * 9), usage=[])
    summaries = summarise([died, unknown, a_round("thread/select", [2.0] * 9, cpu_us=1)])
    assert [one.arm for one in front(summaries)] == ["thread/select"]
    assert after_bench(get("wake"), summaries) == "launcher check --waker inline/uring --engine python"


def test_what_is_lost_is_named_with_all_it_takes_to_replay_it() -> None:
    summaries = summarise([a_round("process/poll", [1.0] * 9, 2, lost=(9, 10))])
    (said,) = lost_remarks(summaries, 77)
    assert "process/poll: ring 9 and 1 more woke nobody (block 2, its gaps are of seed 102)" in said
    assert said.endswith("--seed 77")
    assert "replay" not in lost_remarks(summaries, None)[0]  # of a stranger's receipts, which do not say it
    assert after_bench(get("wake"), summaries).startswith("launcher check --waker process/poll")


def test_the_next_command_is_a_duel_of_the_best_two() -> None:
    summaries = summarise([a_round(name, [us] * 9) for name, us in (("thread/poll", 2.0), ("inline/uring", 1.0))])
    assert after_bench(get("wake"), summaries) == "launcher duel inline/uring thread/poll --case wake --engine python"
    assert after_bench(get("wake"), summaries[:1]) == "launcher bench --case wake-busy --engine python"


WAKE = get("wake")
FREE = "" if WAKE.pin_of_duels() == "free" else " --set pin=free"


@pytest.mark.parametrize(
    ("rounds", "sides"),
    [
        (  # the rival is the next one under the same conditions, which are said
            [("a", "thread/poll", "kvm", 1, {"idle_us": 1e4}), ("b", "thread/poll", "kvm", 2, {"idle_us": 1.0})]
            + [("c", "fork/poll", "python", 3, {"idle_us": 1e4}), ("d", "fork/poll", "kvm", 4, {"idle_us": 1e4})],
            f"thread/poll fork/poll --case wake --engine kvm --set idle_us=10000{FREE}",
        ),
        (  # else it is the same Waker under others
            [("a", "thread/poll", "kvm", 1, {"idle_us": 1.0}), ("b", "thread/poll", "kvm", 2, {"idle_us": 1e4})],
            f"thread/poll@idle_us=1 thread/poll@idle_us=10000 --case wake --engine kvm{FREE}",
        ),
        (  # and never its own control, nor itself
            [("a'", "thread/poll", "kvm", 1, {}), ("a", "thread/poll", "kvm", 2, {}), ("b", "fork/poll", "kvm", 3, {})],
            f"thread/poll fork/poll --case wake --engine kvm{FREE}",
        ),
        (  # where a duel runs anyhow goes without saying
            [(name, f"{name}/poll", "kvm", 1, {"pin": WAKE.pin_of_duels()}) for name in ("thread", "fork")],
            "thread/poll fork/poll --case wake --engine kvm",
        ),
    ],
)
def test_the_next_duel_is_one_that_can_be_fought(
    rounds: list[tuple[str, str, str, float, dict[str, Any]]], sides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        replace(a_round(name, [us] * 9, engine=engine, parameters={**WAKE.defaults(), **settings}), arm=arm)
        for arm, name, engine, us, settings in rounds
    ]
    command = after_bench(get("wake"), summarise(made))
    assert command == f"launcher duel {sides}"
    base, head = begun(f"{command} --engine python", monkeypatch)
    measured = [(round_.waker, round_.parameters) for round_ in made]
    assert (base.waker, base.parameters) in measured
    assert (head.waker, head.parameters) in measured


def test_of_identical_arms_none_is_better_and_no_duel_follows() -> None:
    rounds = [replace(a_round("thread/poll", [us] * 9), arm=arm) for us, arm in enumerate(("a''", "a", "a'"), 1)]
    summaries = summarise(rounds)
    assert [one.arm for one in front(summaries)] == ["a''", "a", "a'"]
    assert after_bench(WAKE, summaries) == "launcher bench --case wake-busy --engine python"


def test_where_nothing_was_measured_the_doctor_is_asked_and_where_all_was_lost_the_rules() -> None:
    assert after_bench(get("wake"), []) == "launcher doctor"
    assert after_bench(get("wake"), summarise([a_round("thread/poll", [])])) == "launcher doctor"
    lost = summarise([a_round("thread/poll", [], lost=(1, 2))])
    assert after_bench(get("wake"), lost) == "launcher check --waker thread/poll --engine python"


def test_what_is_wrong_is_looked_at_as_what_is_lost_is() -> None:
    wrong = replace(a_round("thread/poll", [1.0] * 9), ended="wrong: byte 7 did not come back as it was")
    summaries = summarise([wrong, a_round("inline/uring", [2.0] * 9)])
    assert after_bench(get("echo"), summaries) == "launcher check --waker thread/poll --engine python"
    assert lost_remarks(summaries, 7) == ["thread/poll is wrong: byte 7 did not come back as it was"]


@pytest.mark.parametrize("name", ["spin/direct", "c:direct"])
def test_what_wakers_are_compared_with_has_no_rules_to_be_checked(name: str) -> None:
    summaries = summarise([a_round(name, [1.0] * 9, lost=(3,)), a_round("inline/uring", [2.0] * 9)])
    assert after_bench(get("wake"), summaries) == "launcher doctor"


def test_where_no_waker_was_measured_the_case_still_is_to_be() -> None:
    summaries = summarise([a_round("c:direct", [1.0] * 9), a_round("spin/direct", [1.0] * 9)])
    assert after_bench(get("echo"), summaries) == "launcher bench --case echo"


@pytest.mark.parametrize("difference", [{"engine": "kvm"}, {"parameters": {"of": "a stranger"}}])
def test_what_no_duel_can_compare_is_not_suggested(difference: dict[str, Any]) -> None:
    one = a_round("thread/poll", [1.0] * 9)
    rounds = [one, replace(one, arm="other", **difference)]
    assert after_bench(get("wake"), summarise(rounds)).startswith("launcher bench ")


@pytest.mark.parametrize(
    ("us", "doubt"), [(0.76, "both were disturbed"), (0.78, ""), (1.29, ""), (1.31, "takes more than 1.3 x what C")]
)
def test_the_harness_alone_is_compared_with_c_that_polls_as_it_does(us: float, doubt: str) -> None:
    sleeper, poller = a_round("c:direct", [9.0] * 9), a_round("c:direct_spin", [1.0] * 9)
    said = remarks(get("wake"), summarise([a_round("spin/direct", [us] * 9), sleeper, poller]))
    assert said[0] == f"the harness alone (spin/direct): {us} x c:direct_spin, the same in plain C"
    assert len(said) == 1 + bool(doubt)
    assert not doubt or (doubt in said[1] and "measure once more when it is quiet" in said[1])


def test_of_the_harness_in_many_arms_the_worst_is_said_once() -> None:
    rounds = []
    for us, pin in ((1.1, "free"), (1.4, "same"), (1.2, "apart")):
        own: dict[str, int | float | str] = {"pin": pin}
        both = (("c:direct_spin", 1.0), ("spin/direct", us))
        rounds += [a_round(name, [p50] * 9, parameters=own) for name, p50 in both]
    arms = [replace(one, arm=f"{one.arm}@pin={one.parameters['pin']}") for one in rounds]
    first, second = remarks(get("wake"), summarise(arms))
    assert first.startswith("the harness alone (spin/direct@pin=same): 1.40 x c:direct_spin, ")
    assert first.endswith(", the worst of 3")
    assert second.startswith("the harness takes more than 1.3 x")


@pytest.mark.parametrize(("ns", "is_said"), [(2_400, False), (2_600, True)])
def test_what_is_the_stimulus_own_is_said_where_it_is_much(ns: int, is_said: bool) -> None:
    late = replace(a_round("thread/poll", [10.0] * 9), stages_ns={DUE: np.array([ns] * 9)})
    said = [text for text in remarks(get("wake"), summarise([late])) if "faster than they can be sent" in text]
    expected = "rings come faster than they can be sent: 2.6 us of the 10.0 of thread/poll are the stimulus' own"
    assert said == [expected] * is_said


def test_what_is_not_known_of_a_process_is_not_taken_for_nothing() -> None:
    round_ = a_round("process/poll", [1.0] * 10)
    unknown = replace(round_, usage=[*round_.usage, Usage("waker", None, 1, 1, None)])
    (summary,) = summarise([unknown])
    assert (summary.cpu_ns, summary.switches is not None) == (None, True)
    gone = replace(round_, usage=[*round_.usage, Usage("waker:ended", 1, 0, 0, None)])
    (summary,) = summarise([gone])
    assert summary.switches is None
    assert None not in (summary.cpu_ns, summary.pss_bytes)


# ---- How much, and where ----


def arms(count: int, case: str = "wake", **settings: float) -> list[ArmPlan]:
    return [ArmPlan(str(n), "python", "thread/poll", {**get(case).defaults(), **settings}) for n in range(count)]


def test_so_many_samples_are_so_many_blocks() -> None:
    amount = choose_amount(get("wake"), arms(2), 1200, None)
    assert amount.rings * amount.blocks >= 1200
    assert amount.blocks == 3


@pytest.mark.parametrize("count", [1, 5, 27, 81])
@pytest.mark.parametrize("idle_us", [1.0, 200.0, 10_000.0])
def test_the_time_there_is_bounds_a_block_of_all_arms(count: int, idle_us: float) -> None:
    amount = choose_amount(get("wake"), arms(count, idle_us=idle_us), None, None)
    assert amount.seconds == 45.0
    assert 5 <= amount.rings <= 1000
    warmup = int(get("wake").defaults()["warmup"])
    assert count * (0.2 + (warmup + amount.rings) * idle_us / 1e6) <= 45.0


def test_what_can_not_be_done_in_time_is_refused_and_what_it_takes_is_said() -> None:
    with pytest.raises(UsageError, match=r"27 arms of case wake take 681 s at least, and there are 45 s; say"):
        choose_amount(get("wake"), arms(27, idle_us=1e6), None, None)
    assert choose_amount(get("wake"), arms(27, idle_us=1e6), None, 681.0).rings == 5


def test_each_arm_takes_its_own_time() -> None:
    waits = [*arms(1, seconds=1.0), *arms(1, seconds=60.0)]
    assert choose_amount(get("idle"), waits, None, 130.0).blocks == 2


def test_bursts_are_whole_for_each_arm() -> None:
    case = get("burst")
    plans = [ArmPlan("a", "python", "thread/poll", {**case.defaults(), "burst": burst}) for burst in (48, 64)]
    assert choose_amount(case, plans[1:], 100, None).rings == 64
    assert choose_amount(case, plans, 100, None).rings == 192
    assert choose_amount(case, plans, None, 10.0).rings % 192 == 0
    with pytest.raises(UsageError, match="whole bursts of 4095, 4096: set multiples"):
        choose_amount(case, [replace(plans[0], parameters={"burst": burst}) for burst in (4096, 4095)], 100, None)


def test_pinned_apart_a_stimulus_is_not_where_the_guest_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {2, 5})
    assert placement("free", is_busy=False) is None
    assert placement("same", is_busy=False) == Placement(2, 2, 5)
    assert placement("apart", is_busy=False) == Placement(2, 5, 2)
    assert placement("apart", is_busy=True) == Placement(2, 5, 5)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {2, 5, 7})
    assert placement("apart", is_busy=True) == Placement(2, 5, 7)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {2})
    with pytest.raises(CannotRunError, match="needs two processors"):
        placement("apart", is_busy=False)


# ---- Hops ----


def test_a_ring_is_followed_from_stage_to_stage() -> None:
    stamps = [("SEEN", 110), ("BREAK", 120), ("LEFT", 150), ("INTERRUPT", 180), ("SERVICED", 190), ("RELEASED", 200)]
    stamps += [(stage, time_ns + 1000) for stage, time_ns in stamps]
    found = hops(stamps, [100, 1100], [160, 1160])  # the first one is sent when the lanes begin
    assert {name: times.tolist() for name, times in found.items()} == {
        "READY→SEEN": [10],
        "SEEN→BREAK": [10],
        "BREAK→LEFT": [30],
        "LEFT→READ": [10],
        "READ→INTERRUPT": [20],
        "INTERRUPT→SERVICED": [10],
        "SERVICED→RELEASED": [10],
    }


def test_a_ring_that_found_the_launcher_awake_needs_no_break() -> None:
    found = hops([("SEEN", 5), ("LEFT", 6), ("SERVICED", 300)], [10], [20])
    assert set(found) == set()  # nothing before the youngest lane's first stamp can be followed
    found = hops([("LEFT", 6), ("SERVICED", 8), ("SERVICED", 300)], [10], [20])
    assert {name: times.tolist() for name, times in found.items()} == {"READY→READ": [10], "READ→SERVICED": [280]}


def test_a_ring_that_the_guest_answers_is_followed_to_the_answer() -> None:
    stamps = [("SEEN", 110), ("BREAK", 120), ("LEFT", 150), ("INTERRUPT", 160), ("SERVICED", 165), ("RELEASED", 170)]
    stamps += [(stage, time_ns + 1000) for stage, time_ns in stamps]
    found = hops(stamps, [100, 1100], [200, 1200], is_answered=True)
    assert list(found)[-1] == "RELEASED→ANSWERED"
    assert {name: times.tolist() for name, times in found.items() if "ANSWERED" in name or "LEFT→" in name} == {
        "LEFT→INTERRUPT": [10],
        "RELEASED→ANSWERED": [30],
    }


HOSTILE: dict[str, dict[str, Any]] = {
    "markup": {"arm": "a[/b]"},
    "an odd burst": {"parameters": {"burst": "x"}},
    "a burst of nothing": {"parameters": {"burst": 3}, "latencies_ns": np.zeros(9, dtype=np.int64)},
    "an empty hop": {"stages_ns": {"SEEN→BREAK": np.empty(0, dtype=np.int64)}, "trace_ns_per_stamp": 1.0},
    "a loop without counts": {"case": "block", "counts": {"span_ns": 0}},
}


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_receipts_are_shown_whatever_is_in_them(
    name: str, is_json: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    c = a_round("c:process_select", [0.0] * 9)  # nothing can be divided by these
    with Writer.create(tmp_path / "bench.jsonl", Run("launcher bench", "bench", {})) as writer:
        writer.write(replace(a_round("process/select", [10.0] * 9), **HOSTILE[name]))
        if "case" not in HOSTILE[name]:
            writer.write(c)
    assert cli.main(["bench", "--show", str(tmp_path / "bench.jsonl"), *(["--json"] if is_json else [])]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert HOSTILE[name].get("arm", "process/select") in out
    assert "NaN" not in out


def test_what_is_lost_in_one_case_is_not_hidden_by_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Writer.create(tmp_path / "bench.jsonl", Run("launcher bench", "bench", {})) as writer:
        writer.write(a_round("process/select", [10.0] * 9, lost=(3,)))
        writer.write(a_round("process/select", [], block=1, case="echo"))  # nothing was measured: 5
    assert cli.main(["bench", "--show", str(tmp_path / "bench.jsonl")]) == 4
    assert capsys.readouterr().err.endswith("its gaps are of seed 100)\n")  # and nobody knows the run's


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ended": "hung"}, 4),
        ({"ended": "died: of old age"}, 4),
        ({"ended": "wrong: that"}, 4),
        ({"counts": {"served": 9, "broken_in_vain": 1}}, 4),
        ({"ended": "hung", "counts": {"served": 9, "dropped": 2}}, 0),  # the network's doing, and no Waker's
    ],
)
def test_what_ends_a_duel_is_broken_in_a_bench_too(
    change: dict[str, Any], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer.create(tmp_path / "bench.jsonl", Run("launcher bench", "bench", {})) as writer:
        writer.write(a_round("process/select", [10.0] * 9))
        writer.write(replace(a_round("process/select", [10.0] * 9, block=1), **change))
    assert cli.main(["bench", "--show", str(tmp_path / "bench.jsonl")]) == code
    assert ("BROKEN: process/select: block 1, " in capsys.readouterr().err) == (code == 4)


def test_a_foreign_file_is_shown_and_nothing_in_it_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    died = replace(a_round("process/select", [10.0] * 6), ended="died: \x1b[2J\nof that")
    with Writer.create(tmp_path / "bench.jsonl", Run("launcher bench", "bench", {"seed": "many"})) as writer:
        writer.write(died)
    assert cli.main(["bench", "--show", str(tmp_path / "bench.jsonl")]) == 4
    out, err = capsys.readouterr()
    assert "BROKEN: process/select: block 0, position 0, seed 100: died: \\x1b[2J\\nof that" in err
    assert "\x1b" not in out + err
    assert "died: \\x1b[2J\\nof that" in out
