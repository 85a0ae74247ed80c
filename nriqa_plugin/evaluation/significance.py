"""Is one method better than another? Tests between two samples of scores, and their correction for many tests.

Pure functions; they need scipy (extra ``report``).
"""

import math
from typing import NamedTuple, NewType

import numpy as np

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.statistics import finite_sample

PValue = NewType('PValue', float)  # the type of such columns in tables, however small
FLIPS = 13  # differences up to which scipy's test is exact also with ties


class TestResult(NamedTuple):
    """A test statistic and its p value."""

    __test__ = False  # pytest takes the name for a test

    statistic: float
    p: float


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
    better, worse = (
        _paired(better, worse) if paired else (finite_sample('better', better), finite_sample('worse', worse))
    )
    if min(len(better), len(worse)) < 2:
        return TestResult(math.nan, math.nan)
    sign = 1 if higher_better else -1
    spread = np.ptp(better - worse) if paired else np.ptp(better) + np.ptp(worse)
    if spread == 0:
        difference = sign * (better[0] - worse[0])
        return TestResult(math.copysign(math.inf, difference) if difference else 0.0, 0.5 - 0.5 * np.sign(difference))
    stats = import_extra('scipy.stats', 'report', 'the tests')
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
    test = import_extra('scipy.stats', 'report', 'the tests').wilcoxon(differences, alternative='greater')
    return TestResult(float(test.statistic), float(test.pvalue))


def _flip_signs(differences):
    """Wilcoxon's test of few differences with ties, exact: all choices of signs are counted.

    scipy counts the same in a loop of Python, which takes seconds for a dozen images.
    """
    ranks = import_extra('scipy.stats', 'report', 'the tests').rankdata(np.abs(differences))
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
    better, worse = finite_sample('better', better), finite_sample('worse', worse)
    if len(better) != len(worse):
        raise ValueError(f'a paired test needs the same images, got {len(better)} and {len(worse)} values')
    return better, worse
