"""A session of real rounds: a fault that is rare is counted through all of them, and a seed brings them all back."""

from __future__ import annotations

from launcher.bench.measure.cases import get
from launcher.bench.measure.session import Amount, ArmPlan, Session
from launcher.bench.store.records import OK, Round


def run(seed: int, names: tuple[str, ...], rings: int, blocks: int) -> list[Round]:
    case = get("wake")
    arms = [ArmPlan(name, "python", name, {**case.defaults(), "warmup": 0, "idle_us": 2000.0}) for name in names]
    return list(Session(case, arms, Amount(rings, blocks, None), seed, patience_s=1.0).run())


def test_a_break_that_is_dropped_once_in_so_many_is_found_where_it_is() -> None:
    faulty = "thread/epoll+drop=20"
    rounds = run(1, (faulty, "thread/poll"), 20, 3)
    assert all(round_.ended == OK for round_ in rounds if round_.arm != faulty)
    of_faulty = [round_ for round_ in rounds if round_.arm == faulty]
    breaks = 0
    for round_ in of_faulty:
        before, breaks = breaks, breaks + round_.counts["breaks"]
        assert (round_.ended == "hung") == (breaks % 20 == 0) == bool(round_.lost_seqs), (before, breaks)
    assert sum(bool(round_.lost_seqs) for round_ in of_faulty) == breaks // 20 >= 1


def test_the_seed_brings_back_the_order_of_all_arms_and_how_each_was_rung() -> None:
    def plan(seed: int) -> list[tuple[int, int, str, int]]:
        rounds = run(seed, ("thread/epoll", "thread/poll", "inline/sigio"), 1, 3)
        return [(round_.block, round_.position, round_.arm, round_.seed) for round_ in rounds]

    assert plan(1) == plan(1) != plan(2)
