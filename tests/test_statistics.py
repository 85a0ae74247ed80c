"""Statistics of per-image scores against scipy, against formulas by hand and on simulated data."""

import itertools
import math

import numpy as np
import pytest

from nriqa_plugin.evaluation import statistics
from nriqa_plugin.evaluation.significance import holm, one_tailed_t_test, stars, wilcoxon_one_tailed
from nriqa_plugin.evaluation.statistics import bootstrap_ci, mean_with_ci, percentile_with_ci

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


def test_the_bootstrap_of_any_statistic_is_scipys_percentile_method():
    values = np.random.default_rng(8).normal(size=(40, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])

    def correlation(pairs):
        return stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic

    got = bootstrap_ci(values, correlation, np.random.default_rng(9), 0.9, 1500)
    expected = stats.bootstrap(
        (values[:, 0], values[:, 1]), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, vectorized=False,
        n_resamples=1500, confidence_level=0.9, method='percentile', random_state=np.random.default_rng(10),
    ).confidence_interval  # fmt: skip
    assert got.value == correlation(values)
    width = expected.high - expected.low
    assert got[1:] == pytest.approx((expected.low, expected.high), abs=0.08 * width)


def test_the_bootstrap_over_groups_is_as_wide_as_their_means_spread():
    """Equal numbers within a group: the interval is that of one number a group, not of ten."""
    means = np.random.default_rng(11).normal(size=20)
    values, groups = np.repeat(means, 10), np.repeat(np.arange(20), 10)
    whole = bootstrap_ci(values, np.mean, np.random.default_rng(12), groups=groups)
    one_each = bootstrap_ci(means, np.mean, np.random.default_rng(12))
    assert whole == pytest.approx(one_each)
    blind = bootstrap_ci(values, np.mean, np.random.default_rng(12))
    assert blind.high - blind.low < 0.5 * (whole.high - whole.low)


def test_the_bootstrap_over_groups_takes_them_whole():
    seen = []
    values, groups = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0], ['a', 'b', 'b', 'c', 'c', 'c']
    bootstrap_ci(values, lambda v: seen.append(sorted(v)) or 0.0, np.random.default_rng(0), resamples=50, groups=groups)
    for drawn in seen[1:]:
        assert drawn.count(2.0) % 2 == 0
        assert drawn.count(3.0) % 3 == 0
        assert drawn.count(1.0) + drawn.count(2.0) / 2 + drawn.count(3.0) / 3 == 3


def test_a_statistic_that_is_undefined_on_some_resamples_keeps_its_interval_and_on_many_loses_it():
    def rare(values):  # all three alike: 1 resample in 9
        return math.nan if np.ptp(values) == 0 else values.mean()

    few = bootstrap_ci([1.0, 2.0, 3.0, 4.0], rare, np.random.default_rng(0))
    assert 1 <= few.low < few.value < few.high <= 4
    many = bootstrap_ci([1.0, 2.0, 3.0], rare, np.random.default_rng(0))
    assert many.value == 2
    assert math.isnan(many.low)
    assert math.isnan(many.high)
    one_group = bootstrap_ci([1.0, 2.0, 3.0], np.mean, np.random.default_rng(0), groups='aaa')
    assert one_group.value == 2
    assert math.isnan(one_group.low)


def test_labels_that_do_not_fit_the_sample_are_refused():
    with pytest.raises(ValueError, match='a label for each of the 3 observations, got 2'):
        bootstrap_ci([1, 2, 3], np.mean, np.random.default_rng(0), groups='ab')
    with pytest.raises(ValueError, match='must be finite'):
        bootstrap_ci([1, math.nan], np.mean, np.random.default_rng(0))


def signed_ranks(differences):
    """p of the signed-rank test by counting all 2 ** n signs."""
    ranks = stats.rankdata(np.abs(differences))
    observed = ranks[differences > 0].sum()
    sums = [np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))]
    return observed, np.mean([total >= observed - 1e-9 for total in sums])


def test_the_signed_rank_test_counts_all_signs():
    worse = sample(9)
    better = worse + sample(9, 0.4, 0.8, seed=5)
    assert wilcoxon_one_tailed(better, worse) == pytest.approx(signed_ranks(better - worse))
    assert wilcoxon_one_tailed(-better, -worse, higher_better=False) == pytest.approx(signed_ranks(better - worse))
    reverse = wilcoxon_one_tailed(worse, better)
    assert reverse == pytest.approx(signed_ranks(worse - better))
    assert reverse.p > 0.5


@pytest.mark.parametrize('differences', [(1, 1, 2, -1, 3), (0, 2, -1, 4, 0, 3), (1, 1, 1, 1), (-2, 2, 0), (5, 0)])
def test_ties_and_zeros_give_scipys_exact_numbers(differences):
    expected = stats.wilcoxon(np.array(differences, dtype=float), alternative='greater')
    found = wilcoxon_one_tailed(differences, [0] * len(differences))
    assert found == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)


def test_one_wild_image_sways_the_t_test_and_not_the_signed_rank_test():
    worse = np.zeros(20)
    better = np.append(np.linspace(0.1, 1, 19), -30.0)
    assert one_tailed_t_test(better, worse).p > 0.5
    assert wilcoxon_one_tailed(better, worse).p < 0.01


def test_the_signed_rank_test_at_its_limits():
    assert wilcoxon_one_tailed([1, 2, 3], [1, 2, 3]) == (0, 1)
    assert wilcoxon_one_tailed([2, 3, 4, 7], [1, 2, 3, 7]).statistic == 6  # equal scores are left out
    assert math.isnan(wilcoxon_one_tailed([2], [1]).p)
    with pytest.raises(ValueError, match='same images, got 3 and 2'):
        wilcoxon_one_tailed([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match='worse must be finite'):
        wilcoxon_one_tailed([1, 2], [1, math.nan])


def closed_testing(p):
    """Holm's correction by its other definition: the worst Bonferroni p of all sets that hold the hypothesis."""
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]


@pytest.mark.parametrize('seed', range(5))
def test_holms_correction_is_the_closed_bonferroni_test(seed):
    p = (np.random.default_rng(seed).random(7) ** 3).round(2).tolist()  # with ties
    assert holm(p) == pytest.approx(closed_testing(p))


def test_holms_correction_leaves_nan_alone_and_does_not_count_it():
    corrected = holm([0.01, math.nan, 0.04, math.nan])
    assert corrected[0] == pytest.approx(0.02)
    assert corrected[2] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
    assert math.isnan(corrected[3])
    assert holm([]) == []
    assert all(math.isnan(p) for p in holm([math.nan, math.nan]))
    with pytest.raises(ValueError, match=r'in \[0, 1\], got \[1.5\]'):
        holm([0.1, 1.5])


def test_among_twenty_equal_methods_holm_stars_one_as_often_as_the_level_says():
    rng = np.random.default_rng(13)
    families = stats.ttest_1samp(rng.normal(size=(400, 20, 8)), 0, axis=-1, alternative='greater').pvalue
    plain = np.mean([min(p) < 0.05 for p in families])
    corrected = np.mean([min(holm(p)) < 0.05 for p in families])
    assert plain > 0.5
    assert corrected < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
