"""Virtual duels: windows of one recording, judged as real duels are."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from launcher.bench.judging.calibration import Rates, record, smallest_found, virtual_duels
from launcher.bench.judging.verdict import Outcome
from launcher.bench.store.receipts import NothingMeasured
from tests.support.noise import duel, round_at

ARMS = {"A": 0.0, "A'": 0.0, "A''": 0.0, "A+5%": 0.05, "A+10%": 0.10}
RECORDING = record(duel(ARMS, blocks=160, spread=0.02, seed=8))


def test_identical_arms_and_slower_ones_are_told_apart() -> None:
    same = virtual_duels(RECORDING, "A", "A'", "A''", blocks=40, duels=60)
    assert same.share(Outcome.REGRESSED) == 0
    assert same.share(Outcome.NOT_REGRESSED) > 0.9
    for head in ("A+5%", "A+10%"):
        found = virtual_duels(RECORDING, "A", head, "A'", blocks=40, duels=60)
        assert found.share(Outcome.REGRESSED) > 0.9
    assert found.mean_blocks < 40  # looks end a clear one early


def test_the_rates_say_how_many_windows_they_stand_on() -> None:
    rates = virtual_duels(RECORDING, "A", "A+10%", blocks=40, duels=1000)
    assert (rates.duels, rates.windows, rates.independent) == (1000, 121, 4)
    assert sum(rates.outcomes.values()) == 1000
    # Four independent duels prove little, and the bounds say so.
    assert rates.bounds(Outcome.REGRESSED).low < 0.7
    value = json.loads(json.dumps(rates.to_json()))
    assert value["outcomes"]["regressed"]["count"] == rates.outcomes[Outcome.REGRESSED]


def test_the_bounds_are_those_of_independent_duels() -> None:
    rates = Rates("A", "B", Counter({Outcome.REGRESSED: 10}), 1000, 900, 100, 40.0)
    assert rates.bounds(Outcome.REGRESSED).high == pytest.approx(0.0545, abs=0.0005)  # 1 of 100


def test_the_smallest_slowdown_that_is_found_is_found_and_less_is_not() -> None:
    smallest = smallest_found(RECORDING, "A", "A'", blocks=40, duels=40)
    assert smallest is not None
    assert 0.03 < smallest < 0.06  # it cannot be below the floor

    def share(slowdown: float) -> float:
        rates = virtual_duels(RECORDING, "A", "A'", blocks=40, duels=40, slowdown=slowdown)
        return rates.share(Outcome.REGRESSED)

    assert share(smallest) >= 0.95
    assert share(smallest - 0.005) < 0.95


def test_a_machine_on_which_nothing_is_found_says_none() -> None:
    wild = record(duel({"A": 0, "A'": 0}, blocks=20, spread=4.0))
    assert smallest_found(wild, "A", "A'", blocks=10, duels=8) is None


def test_blocks_that_are_not_complete_are_left_out() -> None:
    rounds = [round_at(arm, block) for block in range(10) for arm in "AB"]
    rounds.append(round_at("A", 10))  # cut off
    rounds += [round_at("A", 11), round_at("B", 11, ended="hung")]
    rounds += [round_at("A", 12), round_at("B", 12, ended="hung"), round_at("B", 12, position=1)]  # tried again
    recording = record(rounds)
    assert (recording.blocks, recording.left_out) == (10, 3)
    assert recording.logs["A"][0.5].shape == (10, 1)


def test_turns_of_a_block_stay_together() -> None:
    order = "ABBA"
    rounds = [round_at(arm, block, at / 10, position=at) for block in range(4) for at, arm in enumerate(order)]
    logs = record(rounds).logs
    assert np.diff(logs["A"][0.5], axis=1).round(3).tolist() == [[0.3]] * 4
    assert np.diff(logs["B"][0.5], axis=1).round(3).tolist() == [[0.1]] * 4


def test_the_time_a_block_takes_is_that_of_the_clock() -> None:
    rounds = [round_at("A", block, started=f"2026-01-01T00:00:{2 * block:02}+00:00") for block in range(10)]
    assert record(rounds).seconds_per_block == pytest.approx(1.9)
    assert math.isnan(record([round_at("A", 1, started="yesterday")]).seconds_per_block)


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(NothingMeasured, match="no round to calibrate with"):
        record([])
    with pytest.raises(NothingMeasured, match="has no arm 'B'"):
        virtual_duels(RECORDING, "A", "B", blocks=40)
    with pytest.raises(NothingMeasured, match="has 160 whole blocks, and one duel takes 301"):
        virtual_duels(RECORDING, "A", "A'", blocks=301)
    with pytest.raises(NothingMeasured, match="has 0 whole blocks"):
        virtual_duels(record([round_at("A", 1, ended="hung")]), "A", "A", blocks=1)
