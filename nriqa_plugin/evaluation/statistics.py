"""Statistics of per-image scores with their confidence intervals: means, percentiles and others.

Pure functions of one-dimensional samples; randomness is an argument. They need scipy (extra ``report``). Tests between
two methods are in :mod:`nriqa_plugin.evaluation.significance`.
"""

import math
from typing import NamedTuple

import numpy as np

from nriqa_plugin.checks import check_number, import_extra

CHUNK = 1_000_000  # numbers
UNDEFINED = 0.1  # share of the resamples on which a statistic may be undefined


class Estimate(NamedTuple):
    """A number and its confidence interval; the ends are NaN when the sample is too small for one."""

    value: float
    low: float
    high: float


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
    values, level = finite_sample('values', values), _level(level)
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
    values, level = finite_sample('values', values), _level(level)
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
    values, level = finite_sample('values', values, dims=(1, 2)), _level(level)
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


def finite_sample(name, values, dims=(1,)):
    """``values`` as an array of float64.

    Raises:
        ValueError: it is empty, of other dimensions than ``dims``, or holds numbers that are not finite; the message
            says ``name``.
    """
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
