"""Stored runs against each other: what can be compared, what is refused, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.bench.judging.compare import WEAKER, compare
from launcher.bench.judging.verdict import Outcome
from launcher.bench.store import hosts
from launcher.bench.store.receipts import NothingMeasured, Receipts, ReceiptsError, Round, Run
from tests.support.noise import round_at

HOST: dict[str, Any] = {
    "architecture": "x86_64",
    "cpu": "a cpu",
    "cpus": 2,
    "virtualisation": "none",
    "nested": "no",
    "kernel": "6.1",
    "quota": 2.0,
    "versions": {"numpy": "2.0"},
    "load": 0.2,
    "steal_percent": 0.0,
}


def rounds_of(arm: str, shift: float, *, seed: int, n: int = 30, drift: float = 0.0, **changes: Any) -> list[Round]:
    noise = np.random.default_rng(seed).normal(0, 0.01, n)
    return [round_at(arm, block, noise[block] + math.log1p(shift) + drift * block, **changes) for block in range(n)]


def stored(name: str, rounds: Sequence[Round], **host: Any) -> Receipts:
    known = {key: value for key, value in (HOST | host).items() if value is not None}
    return Receipts(Path(name), Run("launcher bench", "bench", known), list(rounds), [])


@pytest.mark.parametrize(
    ("shift", "outcome", "code"),
    [(0.1, Outcome.REGRESSED, 2), (0.0, Outcome.NOT_REGRESSED, 0), (-0.1, Outcome.IMPROVED, 0)],
)
def test_two_files_are_judged_and_called_weaker_evidence(shift: float, outcome: Outcome, code: int) -> None:
    found = compare(stored("base", rounds_of("A", 0, seed=1)), stored("head", rounds_of("A", shift, seed=2)))
    assert (found.worst.outcome, found.exit_code) == (outcome, code)
    assert WEAKER in found.warnings
    value = found.to_json()
    assert value["paired"] is False
    assert value["exit_code"] == code


def test_a_machine_that_was_slower_that_day_drops_out_where_there_is_a_yardstick() -> None:
    yardstick = {"engine": "c", "waker": "c:direct"}
    base = [*rounds_of("A", 0, seed=1), *rounds_of("c", -0.5, seed=2, **yardstick)]
    head = [
        *rounds_of("A", 0.3, seed=3, drift=0.01),
        *rounds_of("c", 0.3 * 0.5 - 0.5 + 0.0, seed=4, drift=0.01, **yardstick),
    ]
    found = compare(stored("base", base), stored("head", head))
    assert found.worst.outcome == Outcome.NOT_REGRESSED
    without = compare(stored("base", base), stored("head", rounds_of("A", 0.3, seed=3, drift=0.01)))
    assert without.worst.outcome == Outcome.REGRESSED
    assert any("no yardstick in both" in warning for warning in without.warnings)


def test_the_yardstick_is_the_same_one_in_both_and_of_the_same_parameters() -> None:
    # A bench shuffles its arms, so that any of them may come first in a file.
    def yardsticks(seed: int) -> list[list[Round]]:
        return [
            rounds_of(name, shift, seed=seed + at, engine="c", waker=name, parameters=parameters)
            for at, (name, shift, parameters) in enumerate(
                [
                    ("c:direct", -0.5, {"idle_us": 9}),
                    ("c:direct 5", -0.7, {"idle_us": 5}),
                    ("c:thread", 0.4, {"idle_us": 9}),
                ]
            )
        ]

    one, other = yardsticks(10), yardsticks(20)
    of_base, of_head = (rounds_of("A", 0, seed=seed, parameters={"idle_us": 9}) for seed in (1, 2))
    base = stored("base", [*one[0], *one[1], *one[2], *of_base])
    found = compare(base, stored("head", [*other[2], *other[1], *other[0], *of_head]))
    assert found.worst.outcome == Outcome.NOT_REGRESSED
    assert not any("absolute" in warning for warning in found.warnings)
    apart = compare(stored("base", [*one[0], *one[2], *of_base]), stored("head", [*other[1], *of_head]))
    assert apart.worst.outcome == Outcome.NOT_REGRESSED
    assert any("no yardstick in both: absolute" in warning for warning in apart.warnings)


def test_the_worst_of_many_decides_and_what_is_in_one_file_only_is_named() -> None:
    base = [*rounds_of("A", 0, seed=1), *rounds_of("B", 0, seed=2), *rounds_of("C", 0, seed=3)]
    head = [
        *rounds_of("A", 0, seed=4),
        *rounds_of("B", 0.2, seed=5),
        *rounds_of("C", 0, seed=3, parameters={"pin": "same"}),
    ]
    found = compare(stored("base", base), stored("head", head))
    assert [v.outcome for v in found.verdicts] == [Outcome.NOT_REGRESSED, Outcome.REGRESSED]
    assert found.exit_code == 2
    assert any("left out: C (wake, python, process/select), C" in warning for warning in found.warnings)
    assert all(v.settings.alpha == pytest.approx(0.005) for v in found.verdicts)


def test_a_duels_control_and_the_harness_alone_are_not_judged_and_share_no_alpha() -> None:
    plan = {"base": "A", "control": "A'"}
    files = []
    for name, seed in (("base", 1), ("head", 11)):
        harness = rounds_of("spin/direct", 0.3 * seed, seed=seed, waker="spin/direct")
        rounds = [r for at, arm in enumerate(("A", "B", "A'")) for r in rounds_of(arm, 0, seed=seed + at)]
        held = stored(name, [*rounds, *harness], duel=plan)
        files.append(replace(held, run=replace(held.run, kind="duel")))
    found = compare(*files)
    assert [verdict.head for verdict in found.verdicts] == ["A", "B"]
    assert found.worst.settings.alpha == pytest.approx(0.005)
    assert not any("left out" in warning for warning in found.warnings)
    files[0].rounds.append(round_at("A'", 77, counts={"lost": 1}))
    files[1].rounds.append(round_at("spin/direct", 77, waker="spin/direct", ended="hung"))
    found = compare(*files)
    assert (found.worst.base, found.exit_code) == ("A", 4)
    assert "spin/direct: block 77, position 0, seed 1077: hung: what is no Waker is not judged" in found.warnings
    bench = [replace(held, run=replace(held.run, kind="bench")) for held in files]
    assert "A'" in [verdict.head for verdict in compare(*bench).verdicts]  # whatever its head says
    alone = [stored(name, rounds_of("spin/direct", 0, seed=1, waker="spin/direct")) for name in ("one", "other")]
    assert compare(*alone).exit_code == 0  # there is nothing else


def test_the_yardstick_is_the_one_of_the_place_unless_it_has_no_turns() -> None:
    def in_c(name: str, seed: int, **changes: Any) -> list[Round]:
        return rounds_of(name, 0, seed=seed, engine="c", waker=name, **changes)

    def moved(by: float, seed: int) -> list[Round]:
        return rounds_of("c:process_select", by, seed=seed, engine="c", waker="c:process_select")

    base = [*rounds_of("A", 0, seed=1), *in_c("c:direct", 2), *moved(0, 3)]
    head = [*rounds_of("A", 0.3, seed=4), *in_c("c:direct", 5), *moved(0.3, 6)]
    assert compare(stored("base", base), stored("head", head)).exit_code == 0  # c:process_select is as slow that day
    hung = [*rounds_of("A", 0.3, seed=4), *in_c("c:direct", 5), *in_c("c:process_select", 6, ended="hung")]
    found = compare(stored("base", base), stored("head", hung))
    assert found.exit_code == 2
    (broken,) = (warning for warning in found.warnings if warning.startswith("c:process_select: block"))
    assert broken.endswith("hung (and 29 more): what is no Waker is not judged")
    none = [*rounds_of("A", 0.3, seed=4), *in_c("c:process_select", 6, ended="hung")]
    found = compare(stored("base", base), stored("head", none))
    assert found.exit_code == 2
    assert any("no yardstick in both: absolute" in warning for warning in found.warnings)


def test_a_lost_wake_up_in_a_file_is_broken() -> None:
    head = rounds_of("A", 0, seed=2)
    head.append(round_at("A", 77, counts={"lost": 1}, lost_seqs=[5]))
    assert compare(stored("base", rounds_of("A", 0, seed=1)), stored("head", head)).exit_code == 4


@pytest.mark.parametrize("key", hosts.DECISIVE)
def test_different_machines_are_refused_unless_forced(key: str) -> None:
    base, head = stored("b", rounds_of("A", 0, seed=1)), stored("h", rounds_of("A", 0, seed=2), **{key: "another"})
    with pytest.raises(ReceiptsError, match=f"different machines \\({key}: .* and another\\): measure both on one"):
        compare(base, head)
    found = compare(base, head, is_forced=True)
    assert any("compared because of --force" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("host", "warning"),
    [
        ({"kernel": "6.2"}, "kernel: 6.1 and 6.2"),
        ({"quota": 0.5}, "quota: 2.0 and 0.5"),
        ({"versions": {"numpy": "2.1"}}, "versions of numpy: 2.0 and 2.1"),
        ({"cpus": None}, "only one of them says its cpus"),
        ({"steal_percent": 7.5}, "head had 7.5 % of its time stolen"),
        ({"load": [3.0, 2.0, 1.0]}, "the load was 0.2 and 3.0"),
        ({"kernel": "\x1b[2J"}, r"kernel: 6.1 and '\x1b[2J'"),
    ],
)
def test_a_doubt_is_a_warning(host: dict[str, Any], warning: str) -> None:
    base, head = stored("b", rounds_of("A", 0, seed=1)), stored("h", rounds_of("A", 0, seed=2), **host)
    assert warning in compare(base, head).warnings


def test_odd_provenance_is_survived() -> None:
    odd = {"load": "much", "steal_percent": [], "cpus": {"a": 1}, "versions": 7, "kernel": ["a"]}
    assert hosts.decisive_differences(HOST, odd)
    assert hosts.doubts(HOST, odd)
    assert hosts.doubts({}, {})


def test_arms_that_differ_in_their_parameters_are_not_the_same_and_which_is_said() -> None:
    base = rounds_of("A", 0, seed=1, n=2, parameters={"idle_us": 200, "pin": "free"})
    head = rounds_of("A", 0, seed=1, n=2, parameters={"idle_us": 50, "pin": "free", "payload": 8})
    with pytest.raises(NothingMeasured, match=r"in common: idle_us is 200 and 50; payload is None and 8$"):
        compare(stored("base", base), stored("head", head))


@pytest.mark.parametrize("head", [[], rounds_of("B", 0, seed=1, n=2), rounds_of("A", 0, seed=1, n=2, case="echo")])
def test_nothing_in_common_is_nothing_measured(head: list[Round]) -> None:
    with pytest.raises(NothingMeasured, match="have no rounds in common: A") as caught:
        compare(stored("base", rounds_of("A", 0, seed=1, n=2)), stored("head", head))
    assert caught.value.exit_code == 5
