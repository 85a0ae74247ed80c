"""Statistics of per-image scores: means, percentiles and others with intervals, and tests between two methods.

Pure functions of one-dimensional samples; randomness is an argument. They need scipy (extra ``report``).
"""

import math
from typing import NamedTuple

import numpy as np

from nriqa_plugin.checks import check_number, import_extra

CHUNK = 1_000_000  # numbers
FLIPS = 13  # differences up to which scipy's test is exact also with ties
UNDEFINED = 0.1  # share of the resamples on which a statistic may be undefined


class Estimate(NamedTuple):
    """A number and its confidence interval; the ends are NaN when the sample is too small for one."""

    value: float
    low: float
    high: float


class TestResult(NamedTuple):
    """A test statistic and its p value."""

    __test__ = False  # pytest takes the name for a test

    statistic: float
    p: float


def mean_with_ci(values, level=0.95):
    """Mean and its two-sided confidence interval from Student's t, ``mean +- t * s / sqrt(n)``.

    Args:
        values (Sequence[float]): the sample; a single value has no interval.
        level (float): coverage, in (0, 1).

    Returns:
        Estimate

    Raises:
        ValueError: an empty sample, values that are not finite, or a level out of range.
    """
    values, level = _sample('values', values), _level(level)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    quantile = _scipy_stats().t.ppf((1 + level) / 2, len(values) - 1)
    half = float(quantile * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def percentile_with_ci(values, percent, generator, level=0.95, resamples=2000):
    """A percentile (linear interpolation) and its bootstrap confidence interval by the percentile method.

    Args:
        values (Sequence[float]): the sample; a single value has no interval.
        percent (float): in [0, 100], for example 5 for the bad tail of a score of which more is better.
        generator (numpy.random.Generator): draws the resamples; one in the same state gives the same interval.
        level (float): coverage, in (0, 1).
        resamples (int): how many samples of the same size are drawn with replacement.

    Returns:
        Estimate: extreme percentiles of few values are biased inwards, and so are their intervals.

    Raises:
        ValueError, TypeError: as :func:`mean_with_ci`, or ``percent`` or ``resamples`` out of range.
    """
    values, level = _sample('values', values), _level(level)
    percent = check_number('percent', percent, low=0, high=100)
    resamples = check_number('resamples', resamples, low=2, integer=True)
    value = float(np.percentile(values, percent))
    if len(values) < 2:
        return Estimate(value, math.nan, math.nan)
    drawn, at_once = [], max(1, CHUNK // len(values))  # all of them would hold resamples * n numbers
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), len(values))
        drawn.append(np.percentile(values[generator.integers(len(values), size=size)], percent, axis=1))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def bootstrap_ci(values, statistic, generator, level=0.95, resamples=2000, groups=None):
    """A statistic of a sample and its bootstrap confidence interval by the percentile method.

    Args:
        values (Sequence): the sample, shape (n,), or (n, k) for observations of k numbers each.
        statistic (callable): takes such an array, of another n when ``groups`` differ in size, and returns a number.
        generator (numpy.random.Generator): draws the resamples; one in the same state gives the same interval.
        level (float): coverage, in (0, 1).
        resamples (int): how many samples are drawn with replacement.
        groups (Sequence | None): a label for each observation, for example who gave it or which image it is of: whole
            groups are drawn, since observations of one group are not independent.

    Returns:
        Estimate: no interval for a single observation or group. Resamples on which the statistic is NaN (a
        correlation of equal numbers) are left out; when more than a tenth of them are, there is no interval.

    Raises:
        ValueError, TypeError: an empty sample, values that are not finite, groups of another length, or ``level`` or
            ``resamples`` out of range.
    """
    values, level = _sample('values', values, dims=(1, 2)), _level(level)
    resamples = check_number('resamples', resamples, low=2, integer=True)
    value = float(statistic(values))
    members = _members(groups, len(values))
    if len(members) < 2:
        return Estimate(value, math.nan, math.nan)
    drawn = np.empty(resamples)
    for number in range(resamples):
        chosen = generator.integers(len(members), size=len(members))
        places = chosen if groups is None else np.concatenate([members[group] for group in chosen])
        drawn[number] = statistic(values[places])
    return Estimate(value, *interval(drawn, level))


def interval(drawn, level=0.95):
    """The two ends between which a share of ``level`` of the resampled statistics lies; NaN as in :func:`bootstrap_ci`.

    Args:
        drawn (Sequence[float]): the statistic on every resample.
        level (float): in (0, 1).

    Returns:
        tuple[float, float]
    """
    drawn = np.asarray(drawn, dtype=np.float64)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < 2 or len(defined) < (1 - UNDEFINED) * len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def one_tailed_t_test(better, worse, higher_better=True, paired=True):
    """Student's t-test of the hypothesis that ``better`` has the better mean.

    Args:
        better, worse (Sequence[float]): the samples; paired ones belong to the same images in the same order.
        higher_better (bool): direction of the score.
        paired (bool): test the differences image by image; otherwise Welch's test, without assuming equal variances.

    Returns:
        TestResult: the statistic is positive when ``better`` is better; p is the one-tailed probability of one at
        least as large under equal means. NaN for fewer than two values. Without any variance: p = 0.5 for equal
        means, else 0 or 1.

    Raises:
        ValueError: an empty sample, values that are not finite, or paired samples of different length.
    """
    better, worse = _paired(better, worse) if paired else (_sample('better', better), _sample('worse', worse))
    if min(len(better), len(worse)) < 2:
        return TestResult(math.nan, math.nan)
    sign = 1 if higher_better else -1
    spread = np.ptp(better - worse) if paired else np.ptp(better) + np.ptp(worse)
    if spread == 0:
        difference = sign * (better[0] - worse[0])
        return TestResult(math.copysign(math.inf, difference) if difference else 0.0, 0.5 - 0.5 * np.sign(difference))
    stats = _scipy_stats()
    samples = (sign * better, sign * worse)
    test = stats.ttest_rel(*samples, alternative='greater') if paired else stats.ttest_ind(
        *samples, equal_var=False, alternative='greater'
    )  # fmt: skip
    return TestResult(float(test.statistic), float(test.pvalue))


def wilcoxon_one_tailed(better, worse, higher_better=True):
    """Wilcoxon's signed-rank test of the hypothesis that ``better`` is better, image by image.

    It takes the order of the differences and no normal distribution, so that a few extreme images decide nothing.

    Args:
        better, worse (Sequence[float]): scores of the same images in the same order.
        higher_better (bool): direction of the score.

    Returns:
        TestResult: the sum of the ranks of the differences in favour of ``better`` (equal scores are left out), and
        the one-tailed probability of one at least as large without any difference; scipy takes the exact distribution
        up to 50 images without ties. NaN for fewer than two values; p = 1 when all scores are equal.

    Raises:
        ValueError: an empty sample, values that are not finite, or samples of different length.
    """
    better, worse = _paired(better, worse)
    if len(better) < 2:
        return TestResult(math.nan, math.nan)
    differences = (better - worse) if higher_better else (worse - better)
    if not differences.any():
        return TestResult(0.0, 1.0)
    moved = differences[differences != 0]
    if len(differences) <= FLIPS and len(np.unique(np.abs(moved))) < len(differences):
        return _flip_signs(moved)
    test = _scipy_stats().wilcoxon(differences, alternative='greater')
    return TestResult(float(test.statistic), float(test.pvalue))


def _flip_signs(differences):
    """Wilcoxon's test of few differences with ties, exact: all choices of signs are counted.

    scipy counts the same in a loop of Python, which takes seconds for a dozen images.
    """
    ranks = _scipy_stats().rankdata(np.abs(differences))
    statistic, sums = float(ranks[differences > 0].sum()), np.zeros(1)
    for rank in ranks:
        sums = np.concatenate([sums, sums + rank])
    return TestResult(statistic, float((sums >= statistic - 1e-9).mean()))


def holm(p_values):
    """p values corrected for their number by Holm's step-down rule (Scand. J. Statistics 6, 1979).

    The chance of even one false finding among all of them stays below the level, whatever their dependence.

    Args:
        p_values (Iterable[float]): in [0, 1]; NaN is no test: it stays NaN and is not counted.

    Returns:
        list[float]: in the order given, each at least what it was and at most 1.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    p = np.asarray(list(p_values), dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f'p values must lie in [0, 1], got {p[(p < 0) | (p > 1)].tolist()[:3]}')
    order = np.argsort(p, kind='stable')[: int((~np.isnan(p)).sum())]  # NaN sorts last
    raised = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return corrected.tolist()


def stars(p, levels=(0.05,)):
    """One star for every level that ``p`` is below; none for NaN."""
    return '*' * sum(p < level for level in levels)


def _paired(better, worse):
    better, worse = _sample('better', better), _sample('worse', worse)
    if len(better) != len(worse):
        raise ValueError(f'a paired test needs the same images, got {len(better)} and {len(worse)} values')
    return better, worse


def _members(groups, n):
    """The places of every group's observations; of the observations themselves without groups."""
    if groups is None:
        return range(n)
    groups, members = list(groups), {}
    if len(groups) != n:
        raise ValueError(f'groups must hold a label for each of the {n} observations, got {len(groups)}')
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    return [np.array(places) for places in members.values()]


def _sample(name, values, dims=(1,)):
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.ndim not in dims or not sample.size:
        raise ValueError(f'{name} must be a non-empty sequence of numbers, got shape {sample.shape}')
    if not np.isfinite(sample).all():
        raise ValueError(f'{name} must be finite, got {int((~np.isfinite(sample)).sum())} values that are not')
    return sample


def _level(level):
    if not 0 < check_number('level', level) < 1:
        raise ValueError(f'level must be in (0, 1), got {level}')
    return level


def _scipy_stats():
    return import_extra('scipy.stats', 'report', 'the statistics')
