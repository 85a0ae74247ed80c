"""Statistics of per-image scores against scipy, against formulas by hand and on simulated data."""

import math

import numpy as np
import pytest

from nriqa_plugin.evaluation import statistics
from nriqa_plugin.evaluation.statistics import mean_with_ci, one_tailed_t_test, percentile_with_ci, stars

stats = pytest.importorskip('scipy.stats', reason='the extra report is not installed')


def sample(n=30, mean=25.0, deviation=2.0, seed=0):
    return np.random.default_rng(seed).normal(mean, deviation, n)


def test_the_interval_of_the_mean_is_scipys():
    values = sample()
    got = mean_with_ci(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert got.value == pytest.approx(values.mean(), rel=1e-14)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_interval_of_the_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        low, high = mean_with_ci(rng.normal(3.0, 1.0, 8), 0.8)[1:]
        inside += low <= 3.0 <= high
    assert 0.76 < inside / 1000 < 0.84  # 3 standard errors


def test_the_bootstrap_interval_is_that_of_scipys_percentile_method():
    values = sample(60)
    got = percentile_with_ci(values, 20, np.random.default_rng(2), resamples=4000)
    result = stats.bootstrap(
        (values,),
        lambda x, axis: np.percentile(x, 20, axis=axis),
        n_resamples=4000,
        method='percentile',
        random_state=np.random.default_rng(3),
    )
    expected = result.confidence_interval
    assert got.value == np.percentile(values, 20)
    width = expected.high - expected.low
    assert got.low == pytest.approx(expected.low, abs=0.05 * width)
    assert got.high == pytest.approx(expected.high, abs=0.05 * width)


def test_the_bootstrap_interval_of_a_percentile_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth = stats.norm.ppf(0.25)
    inside = 0
    for _ in range(300):
        estimate = percentile_with_ci(rng.normal(size=80), 25, rng, 0.9, 300)
        inside += estimate.low <= truth <= estimate.high
    assert 0.83 < inside / 300 < 0.96


def test_the_bootstrap_of_a_large_sample_goes_in_parts_and_misses_none(monkeypatch):
    values, drawn = sample(50), []
    generator = np.random.default_rng(2)
    monkeypatch.setattr(statistics, 'CHUNK', 175)  # three resamples at once, the last part has one
    percentile = np.percentile
    monkeypatch.setattr(
        np, 'percentile', lambda x, *args, **more: drawn.append(np.shape(x)) or percentile(x, *args, **more)
    )
    percentile_with_ci(values, 5, generator, resamples=10)
    assert drawn == [(50,), (3, 50), (3, 50), (3, 50), (1, 50)]


def test_the_bootstrap_is_a_function_of_its_generator():
    values = sample()
    one, two, other = (percentile_with_ci(values, 5, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one == two
    assert one.value == other.value
    assert one[1:] != other[1:]


def test_the_paired_test_is_scipys_and_knows_the_direction():
    worse = sample(20)
    better = worse + sample(20, 0.3, 0.5, seed=5)
    expected = stats.ttest_rel(better, worse, alternative='greater')
    assert one_tailed_t_test(better, worse) == pytest.approx((expected.statistic, expected.pvalue))
    lower = one_tailed_t_test(-better, -worse, higher_better=False)
    assert lower == pytest.approx((expected.statistic, expected.pvalue))
    assert one_tailed_t_test(worse, better).p == pytest.approx(1 - expected.pvalue)


def test_the_unpaired_test_is_welchs():
    better, worse = sample(20, 26), sample(30, 25, 4, seed=6)
    expected = stats.ttest_ind(better, worse, equal_var=False, alternative='greater')
    assert one_tailed_t_test(better, worse, paired=False) == pytest.approx((expected.statistic, expected.pvalue))


def test_equal_methods_get_a_star_as_often_as_the_level_says():
    rng = np.random.default_rng(7)
    starred = sum(stars(one_tailed_t_test(rng.normal(size=12), rng.normal(size=12)).p) == '*' for _ in range(2000))
    assert 0.035 < starred / 2000 < 0.065  # 3 standard errors


def test_pairing_finds_what_the_spread_over_images_hides():
    worse = sample(15, deviation=5)
    better = worse + np.linspace(0.05, 0.15, 15)
    assert one_tailed_t_test(better, worse).p < 1e-6
    assert one_tailed_t_test(better, worse, paired=False).p > 0.4


def test_without_variance_the_test_says_what_it_sees():
    assert one_tailed_t_test([1, 2, 3], [1, 2, 3]) == (0, 0.5)
    assert one_tailed_t_test([2, 3, 4], [1, 2, 3]) == (math.inf, 0)
    assert one_tailed_t_test([2, 3, 4], [1, 2, 3], higher_better=False) == (-math.inf, 1)
    assert one_tailed_t_test([2, 2], [1, 1], paired=False) == (math.inf, 0)


def test_a_single_value_has_no_interval_and_no_test():
    assert mean_with_ci([2.0]).value == 2
    assert math.isnan(mean_with_ci([2.0]).low)
    assert math.isnan(percentile_with_ci([2.0], 5, np.random.default_rng(0)).high)
    p = one_tailed_t_test([2.0], [1.0]).p
    assert math.isnan(p)
    assert stars(p) == ''


def test_stars_count_the_levels_that_are_passed():
    assert [stars(p) for p in (0.049, 0.05, 0.9)] == ['*', '', '']
    assert [stars(p, (0.05, 0.01, 0.001)) for p in (0.02, 0.002, 0.0002)] == ['*', '**', '***']


@pytest.mark.parametrize('bad', [[], [1.0, math.nan], [1.0, math.inf]])
def test_samples_that_are_empty_or_not_finite_are_refused(bad):
    for call in (mean_with_ci, lambda v: percentile_with_ci(v, 5, np.random.default_rng(0))):
        with pytest.raises(ValueError, match='values must be'):
            call(bad)
    with pytest.raises(ValueError, match='worse must be'):
        one_tailed_t_test([1.0, 2.0], bad)


def test_numbers_out_of_range_are_refused_by_name():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match='level must be in'):
        mean_with_ci([1, 2], 1.0)
    with pytest.raises(ValueError, match='percent must be finite and in'):
        percentile_with_ci([1, 2], 101, generator)
    with pytest.raises(ValueError, match='resamples must be'):
        percentile_with_ci([1, 2], 5, generator, resamples=1)
    with pytest.raises(ValueError, match='same images, got 3 and 2'):
        one_tailed_t_test([1, 2, 3], [1, 2])
