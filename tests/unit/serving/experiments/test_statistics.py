"""The statistics agree with the field's libraries and keep their promise in simulation."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import tea_tasting as tt
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.experiments.statistics import ArmSums, Difference, difference, ratio, sample_ratio

SEED = 20180819


def sums_of(y: np.ndarray, x: np.ndarray) -> ArmSums:
    return ArmSums(
        units=len(y),
        y=int(y.sum()),
        x=int(x.sum()),
        yy=int((y * y).sum()),
        xx=int((x * x).sum()),
        xy=int((x * y).sum()),
    )


def arm(chance: np.random.Generator, units: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and impressions of units whose own rates differ and whose activity goes with their rate."""
    own = chance.beta(20 * rate, 20 * (1 - rate), units)
    x = 1 + chance.poisson(1 + 20 * own)
    return chance.binomial(x, own), x


def test_ratio_of_means_agrees_with_tea_tasting() -> None:
    chance = np.random.default_rng(SEED)
    (yc, xc), (yt, xt) = arm(chance, 900, 0.10), arm(chance, 1100, 0.12)
    data = pd.DataFrame(
        {
            "variant": [0] * len(yc) + [1] * len(yt),
            "clicks": np.concatenate([yc, yt]),
            "views": np.concatenate([xc, xt]),
        }
    )
    metric = tt.RatioOfMeans("clicks", "views", use_t=False, equal_var=False)
    theirs = tt.Experiment(ctr=metric).analyze(data, control=0)["ctr"]
    ours = difference(sums_of(yt, xt), sums_of(yc, xc))
    assert ours.value == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.low == pytest.approx(theirs.effect_size_ci_lower, rel=1e-9)
    assert ours.high == pytest.approx(theirs.effect_size_ci_upper, rel=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.relative == pytest.approx(theirs.rel_effect_size, rel=1e-9)
    assert ours.relative_low == pytest.approx(theirs.rel_effect_size_ci_lower, rel=1e-6)
    assert ours.relative_high == pytest.approx(theirs.rel_effect_size_ci_upper, rel=1e-6)


def test_the_delta_method_agrees_with_cluster_robust_regression() -> None:
    # Deng et al. (2018), section 3: both estimate the variance under clustering by unit.
    chance = np.random.default_rng(SEED)
    (yc, xc), (yt, xt) = arm(chance, 400, 0.10), arm(chance, 400, 0.15)
    clicks, treated, unit = [], [], []
    for n, (y, x, t) in enumerate([*zip(yc, xc, [0] * 400, strict=True), *zip(yt, xt, [1] * 400, strict=True)]):
        clicks += [1] * y + [0] * (x - y)
        treated += [t] * x
        unit += [n] * x
    fitted = sm.OLS(clicks, sm.add_constant(np.array(treated, dtype=float))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(unit), "use_correction": False}
    )
    ours = difference(sums_of(yt, xt), sums_of(yc, xc))
    assert ours.value == pytest.approx(fitted.params[1], rel=1e-9)
    # They divide by n, the delta method by n - 1.
    assert (ours.high - ours.low) / 2 / 1.959964 == pytest.approx(fitted.bse[1], rel=2e-3)


def test_the_intervals_cover_the_truth_as_often_as_they_say() -> None:
    chance = np.random.default_rng(SEED)
    # The ratio of means of this world, from a sample large enough that its error does not matter here.
    truths = [y.sum() / x.sum() for y, x in (arm(chance, 2_000_000, rate) for rate in (0.10, 0.12))]
    true_difference, true_relative = truths[1] - truths[0], truths[1] / truths[0] - 1
    runs = 2_000
    covered = covered_relative = 0
    for _ in range(runs):
        (yc, xc), (yt, xt) = arm(chance, 300, 0.10), arm(chance, 300, 0.12)
        found = difference(sums_of(yt, xt), sums_of(yc, xc))
        covered += found.low <= true_difference <= found.high
        covered_relative += found.relative_low <= true_relative <= found.relative_high
    # Binomial error of 2,000 runs at 95%: .005; four of those, and the small-sample loss of the delta method.
    assert covered / runs == pytest.approx(0.95, abs=0.02)
    assert covered_relative / runs == pytest.approx(0.95, abs=0.02)


def test_equal_arms_are_called_different_as_often_as_they_say() -> None:
    chance = np.random.default_rng(SEED + 1)
    ps = []
    for _ in range(1_000):
        (yc, xc), (yt, xt) = arm(chance, 300, 0.10), arm(chance, 300, 0.10)
        ps.append(difference(sums_of(yt, xt), sums_of(yc, xc)).p)
    assert stats.kstest(ps, "uniform").pvalue > 0.001


def test_a_user_with_many_impressions_widens_the_interval() -> None:
    # Ten users who each saw a page a hundred times are ten observations, not a thousand.
    chance = np.random.default_rng(SEED)
    own = chance.integers(0, 2, 40)
    x = np.full(40, 100)
    clustered = ratio(sums_of(own * 100, x)).variance
    independent = 0.5 * 0.5 / 4_000
    assert clustered > 50 * independent


counts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=40)


def of_pairs(pairs: list[tuple[int, int]]) -> ArmSums:
    array = np.array(pairs, dtype=object).reshape(-1, 2)
    return sums_of(array[:, 0], array[:, 1])


@given(counts, counts)
def test_sums_of_parts_are_the_sums_of_the_whole(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    assert of_pairs(one) + of_pairs(two) == of_pairs(one + two)
    assert of_pairs(one) + of_pairs(two) == of_pairs(two) + of_pairs(one)
    assert of_pairs(one) + ArmSums() == of_pairs(one)


@given(counts, counts, st.floats(0.01, 0.99))
def test_every_difference_is_inside_its_interval_and_mirrors(
    one: list[tuple[int, int]], two: list[tuple[int, int]], confidence: float
) -> None:
    there = difference(of_pairs(one), of_pairs(two), confidence)
    back = difference(of_pairs(two), of_pairs(one), confidence)
    if math.isnan(there.p):
        assert math.isnan(back.p)
        return
    assert there.low <= there.value <= there.high
    assert 0 <= there.p <= 1
    assert (there.value, there.p) == (-back.value, back.p)


def test_arms_without_data_say_so_instead_of_inventing_a_difference() -> None:
    some = sums_of(np.array([1, 0, 2]), np.array([5, 3, 4]))
    for empty in (ArmSums(), sums_of(np.array([1]), np.array([2])), sums_of(np.array([0, 0]), np.array([0, 0]))):
        found = difference(some, empty)
        assert math.isnan(found.p) and math.isnan(found.low) and math.isnan(found.high)
    without_clicks = sums_of(np.array([0, 0]), np.array([3, 4]))
    assert math.isnan(difference(some, without_clicks).relative)
    identical = sums_of(np.array([1, 1]), np.array([2, 2]))
    assert isinstance(same := difference(identical, identical), Difference) and same.p == 1.0


@pytest.mark.parametrize("confidence", [0, 1, 1.2, -0.1])
def test_a_confidence_must_be_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        difference(ArmSums(), ArmSums(), confidence)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.01, 10)), min_size=2, max_size=6))
def test_the_sample_ratio_check_is_pearsons_chi_square(arms: list[tuple[int, float]]) -> None:
    units = {str(n): count for n, (count, _) in enumerate(arms)}
    shares = {str(n): share for n, (_, share) in enumerate(arms)}
    total, weight = sum(units.values()), sum(shares.values())
    found = sample_ratio(units, shares)
    if not total:
        assert math.isnan(found)
        return
    expected = stats.chisquare(list(units.values()), [total * s / weight for s in shares.values()], sum_check=False)
    assert found == pytest.approx(float(expected.pvalue), rel=1e-6, abs=1e-300)


def test_a_broken_split_is_found_and_a_fair_one_is_not() -> None:
    # From Kohavi, Tang, Xu (2020), chapter 3: 821,588 against 815,482 users at 50/50.
    assert sample_ratio({"a": 821_588, "b": 815_482}, {"a": 1, "b": 1}) < 0.0005
    assert sample_ratio({"a": 5_020, "b": 4_980}, {"a": 1, "b": 1}) > 0.5
    assert sample_ratio({"a": 5_000}, {"a": 1, "b": 1}) < 0.0005
    assert sample_ratio({"a": 10, "stranger": 1}, {"a": 1, "b": 1}) == 0.0
