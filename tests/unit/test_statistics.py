"""The statistics agree with scipy, with published tables, and with what can be counted by hand."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.bench.judging.plan import pairs_needed
from launcher.bench.judging.verdict import Outcome, Settings, judge_ratios
from launcher.bench.stats import looks, quantiles, rank_sum, signed_rank, statistics
from launcher.bench.stats.bootstrap import bca_interval, pseudo_medians
from launcher.bench.stats.signed_rank import EVERYTHING, Interval

SAMPLES = [(seed, n) for seed in range(3) for n in (6, 17, 40, 119)]


def sample(seed: int, n: int, shift: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, n) + shift


@pytest.mark.parametrize(("seed", "n"), SAMPLES)
def test_the_signed_rank_test_is_exact_as_scipys(seed: int, n: int) -> None:
    values = sample(seed, n)
    assert signed_rank.p_value(values) == pytest.approx(scipy.stats.wilcoxon(values, method="exact").pvalue, rel=1e-9)


def test_the_signed_rank_test_of_many_is_the_normal_one() -> None:
    values = sample(1, 300, 0.1)
    theirs = scipy.stats.wilcoxon(values, method="asymptotic", correction=True).pvalue
    assert signed_rank.p_value(values) == pytest.approx(theirs, rel=1e-9)
    rounded = np.round(values * 4)  # with ties and zeros
    theirs = scipy.stats.wilcoxon(rounded, method="asymptotic", correction=True, zero_method="wilcox").pvalue
    assert signed_rank.p_value(rounded) == pytest.approx(theirs, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_with_ties_the_p_is_the_share_of_all_signs(values: list[int]) -> None:
    moved = np.array([value for value in values if value], float)
    if not len(moved):
        assert signed_rank.p_value(np.array(values, float)) == 1
        return
    ranks = scipy.stats.rankdata(np.abs(moved))
    middle = ranks.sum() / 2
    seen = abs(ranks[moved > 0].sum() - middle)
    sums = [
        sum(r for r, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    share = np.mean([abs(total - middle) >= seen - 1e-9 for total in sums])
    assert signed_rank.p_value(np.array(values, float)) == pytest.approx(min(1.0, share))


@pytest.mark.parametrize(("seed", "n"), SAMPLES)
@pytest.mark.parametrize("level", [0.1, 0.05, 0.01])
def test_the_interval_is_what_the_test_does_not_reject(seed: int, n: int, level: float) -> None:
    values = sample(seed, n)
    found = signed_rank.interval(values, level)
    if n < signed_rank.fewest_pairs(level):
        assert found == EVERYTHING
        return
    assert found.low <= signed_rank.hodges_lehmann(values) <= found.high
    step = 1e-6
    for inside in (found.low + step, found.high - step):
        assert scipy.stats.wilcoxon(values - inside, method="exact").pvalue > level
    for outside in (found.low - step, found.high + step):
        assert scipy.stats.wilcoxon(values - outside, method="exact").pvalue <= level


def test_the_exact_interval_and_the_normal_one_meet() -> None:
    at = signed_rank.EXACT_UP_TO
    exact, normal = signed_rank._critical(at, 0.01), signed_rank._critical(at + 1, 0.01)
    assert 0 < normal - exact < at


def test_nothing_and_one_difference_say_nothing() -> None:
    assert math.isnan(signed_rank.hodges_lehmann(np.array([])))
    assert signed_rank.p_value(np.array([])) == 1
    assert signed_rank.interval(np.array([]), 0.05) == EVERYTHING
    assert signed_rank.interval(np.array([1.0]), 0.05) == EVERYTHING
    assert signed_rank.interval(sample(1, 200), 0.0) == EVERYTHING
    assert signed_rank.fewest_pairs(0.05) == 6


@pytest.mark.parametrize("sizes", [(3, 4), (8, 8), (12, 31), (40, 40)])
def test_the_rank_sum_test_is_exact_as_scipys(sizes: tuple[int, int]) -> None:
    for seed in range(5):
        base, head = sample(seed, sizes[0]), sample(seed + 100, sizes[1], 0.6)
        theirs = scipy.stats.mannwhitneyu(base, head, method="exact").pvalue
        assert rank_sum.p_value(base, head) == pytest.approx(theirs, rel=1e-9)


def test_the_rank_sum_test_of_many_or_of_ties_is_the_normal_one() -> None:
    for base, head in ((sample(1, 90), sample(2, 70)), (np.round(sample(3, 20)), np.round(sample(4, 25)))):
        theirs = scipy.stats.mannwhitneyu(base, head, method="asymptotic").pvalue
        assert rank_sum.p_value(base, head) == pytest.approx(theirs, rel=1e-9)
    assert rank_sum.p_value(np.ones(5), np.ones(5)) == 1
    assert rank_sum.p_value(np.ones(0), np.ones(5)) == 1


@pytest.mark.parametrize("sizes", [(8, 9), (20, 35), (60, 50)])
def test_the_shift_interval_is_what_the_rank_sum_test_does_not_reject(sizes: tuple[int, int]) -> None:
    base, head, level, step = sample(5, sizes[0]), sample(6, sizes[1], 0.5), 0.05, 1e-6
    found = rank_sum.interval(base, head, level)
    method = "exact" if max(sizes) <= rank_sum.EXACT_UP_TO else "asymptotic"
    assert found.low <= rank_sum.shift(base, head) <= found.high
    for at, is_inside in ((found.low + step, True), (found.low - step, False), (found.high + step, False)):
        p = scipy.stats.mannwhitneyu(base, head - at, method=method).pvalue
        assert (p > level) == is_inside


def test_the_rank_sum_of_too_few_says_nothing() -> None:
    assert rank_sum.interval(np.ones(2), np.ones(2), 0.05) == EVERYTHING
    assert rank_sum.interval(np.ones(0), np.ones(2), 0.05) == EVERYTHING
    assert math.isnan(rank_sum.shift(np.ones(0), np.ones(2)))


@pytest.mark.parametrize("seed", range(5))
def test_the_bca_interval_is_scipys(seed: int) -> None:
    values = np.random.default_rng(seed).exponential(1, 25)
    ours = bca_interval(values, 0.05, seed=seed, statistic=lambda rows: rows.mean(axis=-1), resamples=5000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, confidence_level=0.95, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_the_bca_interval_of_the_estimate_is_near_the_exact_one_and_repeats() -> None:
    values = sample(3, 60)
    found = bca_interval(values, 0.05, seed=7, resamples=999)
    assert found == bca_interval(values, 0.05, seed=7, resamples=999)
    exact = signed_rank.interval(values, 0.05)
    assert found.half_width == pytest.approx(exact.half_width, rel=0.25)
    assert float(pseudo_medians(values[None, :])[0]) == pytest.approx(signed_rank.hodges_lehmann(values))


def test_a_bootstrap_of_nothing_to_draw_says_so() -> None:
    assert bca_interval(np.array([2.0]), 0.05, seed=1) == EVERYTHING
    assert bca_interval(np.array([2.0, 2.0, 2.0]), 0.05, seed=1) == Interval(2.0, 2.0)


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.9, 29), (0.99, 299), (0.999, 2995)])
def test_a_quantile_takes_so_many_values(p: float, n: int) -> None:
    assert quantiles.samples_needed(p) == n
    assert quantiles.supported(n, [p]) == (p,)
    assert quantiles.supported(n - 1, [p]) == ()
    assert 1 - p**n >= 0.95 > 1 - p ** (n - 1)


def test_quantiles_are_scipys_and_only_those_that_are_supported() -> None:
    values = np.random.default_rng(1).integers(1, 10**6, 400)
    found = quantiles.read(values, quantiles.PRINTED)
    assert list(found) == [0.5, 0.9, 0.99]
    theirs = scipy.stats.mstats.mquantiles(values, list(found), alphap=1, betap=1)  # type 7
    assert list(found.values()) == pytest.approx(list(theirs))
    assert quantiles.read(values[:4], quantiles.PRINTED) == {}
    assert [quantiles.name(p) for p in quantiles.PRINTED] == ["p50", "p90", "p99", "p99.9"]


def holm_by_hand(p_values: list[float], alpha: float) -> list[bool]:
    rejected = [False] * len(p_values)
    for step, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        if p_values[at] > alpha / (len(p_values) - step):
            break
        rejected[at] = True
    return rejected


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.1), max_size=6))
def test_holm_rejects_what_he_would_by_hand(p_values: list[float]) -> None:
    levels = statistics.holm_levels(p_values, [0.05 / divisor for divisor in range(1, len(p_values) + 1)])
    assert [p <= level for p, level in zip(p_values, levels, strict=True)] == holm_by_hand(p_values, 0.05)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60))
def test_the_bounds_of_a_share_are_clopper_and_pearsons(hits: int, misses: int) -> None:
    tries = hits + misses
    found = statistics.share_bounds(hits, tries)
    if tries == 0:
        assert (found.low, found.high) == (0, 1)
        return
    theirs = scipy.stats.binomtest(hits, tries).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_bounds_of_a_thousand_are_found_too() -> None:
    theirs = scipy.stats.binomtest(4, 1000).proportion_ci(0.95, "exact")
    found = statistics.share_bounds(4, 1000)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    ("alpha", "fractions", "bounds"),
    [
        # The tables of Lan and DeMets' O'Brien-Fleming boundaries, two-sided.
        (0.05, (0.25, 0.5, 0.75, 1.0), (4.3326, 2.9631, 2.3590, 2.0141)),
        (0.05, (0.5, 1.0), (2.9626, 1.9686)),
        (0.05, (0.2, 0.4, 0.6, 0.8, 1.0), (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)),
    ],
)
def test_the_looks_spend_as_in_the_published_tables(
    alpha: float, fractions: tuple[float, ...], bounds: tuple[float, ...]
) -> None:
    found = [-NormalDist().inv_cdf(level / 2) for level in looks.levels(alpha, fractions)]
    assert found == pytest.approx(bounds, abs=2e-3)


def test_a_look_that_has_not_come_changes_nothing() -> None:
    assert looks.levels(0.01, (0.25, 0.5)) == looks.levels(0.01, (0.25, 0.5, 1.0))[:2]
    assert looks.levels(0.01, (1.0,)) == (pytest.approx(0.01, rel=1e-3),)
    assert looks.levels(0.01, (0.001, 1.0))[0] == 0  # too early to spend anything


def test_looks_are_planned_evenly() -> None:
    assert looks.planned(60) == (15, 30, 45, 60)
    assert looks.planned(3) == (1, 2, 3)


def walks(duels: int, blocks: int, seed: int) -> np.ndarray:
    """Return differences without an effect, heavy-tailed and lopsided within a pair, with signs by lot."""
    rng = np.random.default_rng(seed)
    sizes = np.abs(rng.standard_t(2, (duels, blocks))) + (rng.random((duels, blocks)) < 0.1) * 10
    return sizes * rng.choice([-1.0, 1.0], (duels, blocks))


def test_peeking_with_spent_levels_keeps_the_error_and_without_does_not() -> None:
    alpha, ends = 0.05, looks.planned(40, 4)
    levels = looks.levels(alpha, tuple(end / 40 for end in ends))
    ours = naive = 0
    duels = 1000
    for differences in walks(duels, 40, seed=11):
        p_values = [signed_rank.p_value(differences[:end]) for end in ends]
        ours += any(p <= level for p, level in zip(p_values, levels, strict=True))
        naive += any(p <= alpha for p in p_values)
    # More than 7.2 % of 1,000 at 5 % would happen with one seed in a thousand, and this seed is fixed.
    assert ours / duels < 0.072
    assert naive / duels > 0.09


def test_what_is_called_findable_is_found_so_often() -> None:
    rng = np.random.default_rng(5)
    spread, n, level, power = 0.05, 40, 0.01, 0.9
    quiet = [rng.normal(0, spread, n) for _ in range(200)]
    reach = float(np.median([signed_rank.interval(values, level).half_width for values in quiet]))
    error = float(np.median([statistics.standard_error(signed_rank.interval(values, 0.1), 0.1) for values in quiet]))
    change = statistics.smallest_found(reach, error, power, floor=0.0)
    found = [signed_rank.interval(rng.normal(change, spread, n), level).low > 0 for _ in range(600)]
    assert np.mean(found) == pytest.approx(power, abs=0.04)
    floor = 2 * change
    found = [
        signed_rank.hodges_lehmann(rng.normal(statistics.smallest_found(reach, error, power, floor), spread, n)) > floor
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(power, abs=0.06)


@pytest.mark.parametrize(("change", "delta"), [(0.05, 0.03), (0.10, 0.03), (0.05, 0.02)])
def test_so_many_pairs_as_are_planned_find_the_change_and_clear_no_change(change: float, delta: float) -> None:
    rng = np.random.default_rng(9)
    asked = Settings(delta=delta, power=0.9)
    needed = pairs_needed(rng.normal(0, 0.05, 400), change, asked)
    assert needed is not None
    outcomes = {Outcome.REGRESSED: 0, Outcome.NOT_REGRESSED: 0}
    for outcome, shift in ((Outcome.REGRESSED, change), (Outcome.NOT_REGRESSED, 0.0)):
        for _ in range(100):
            ratios = dict.fromkeys(asked.quantiles, rng.normal(math.log1p(shift), 0.05, needed))
            outcomes[outcome] += judge_ratios(ratios, None, asked)[0].outcome is outcome
    assert min(outcomes.values()) >= 80  # 90 on average, in either of them or in both


def test_a_change_below_the_floor_is_not_planned_for() -> None:
    quiet = np.linspace(-0.01, 0.01, 20)
    assert pairs_needed(quiet, 0.03, Settings()) is None
    assert pairs_needed(quiet[:2], 0.10, Settings()) is None
    # However quiet: with fewer the test cannot say anything.
    level = looks.levels(0.01 / 3, (0.25, 0.5, 0.75, 1.0))[-1]
    assert pairs_needed(quiet / 1e6, 0.10, Settings()) == signed_rank.fewest_pairs(level)
