"""Which judge to trust: how often judges agree with people about pairs of images.

Two-alternative forced choice (2AFC) accuracy, as in the screening of arXiv 2504.18524: the share of answers with which
a judge agrees, ties left out. Pure functions of :class:`~nriqa_plugin.preference.pairs.Pairs` and of margins
``(P,)``, see :func:`~nriqa_plugin.preference.pairs.margins`. Intervals are by bootstrap over scenes.
"""

import math
from typing import NamedTuple

import numpy as np

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.statistics import Estimate, interval

CHUNK = 4_000_000  # numbers


class Agreement(NamedTuple):
    """A share of agreement in [0, 1] with its interval, and the number of answers that it is of."""

    share: Estimate
    n: int


def agreement(margin, answer):
    """How far a judge agrees with an answer, element by element.

    Args:
        margin (ndarray): above 0 where the judge prefers the right image.
        answer (ndarray): the fraction of people who chose right.

    Returns:
        ndarray: the fraction of people whom the judge agrees with; one half where it cannot tell, as in BAPPS.
    """
    return np.where(margin > 0, answer, np.where(margin < 0, 1 - answer, 0.5))


def vote_accuracy(pairs, margin, **bootstrap):
    """The share of votes that a judge agrees with; a row that holds a fraction counts by it (BAPPS's score)."""
    return _share(agreement(margin[pairs.pair], pairs.chose_right), pairs.scene[pairs.pair], **bootstrap)


def pair_accuracy(pairs, margin, **bootstrap):
    """The share of pairs where a judge agrees with most of the votes; even pairs are left out."""
    decided = np.flatnonzero(~np.isnan(pairs.majority))
    return _share(agreement(margin[decided], pairs.majority[decided]), pairs.scene[decided], **bootstrap)


def rescue(pairs, core, margin, **bootstrap):
    """Complementarity: a judge's accuracy on those pairs of :func:`pair_accuracy` where the judge ``core`` is wrong."""
    wrong = np.flatnonzero(agreement(core, pairs.majority) < 0.5)  # NaN, where the votes are even, is not
    return _share(agreement(margin[wrong], pairs.majority[wrong]), pairs.scene[wrong], **bootstrap)


def majority_ceiling(pairs, **bootstrap):
    """The largest :func:`vote_accuracy` that any judge can have here: always siding with the majority."""
    return _share(agreement(pairs.share[pairs.pair] - 0.5, pairs.chose_right), pairs.scene[pairs.pair], **bootstrap)


def observer_ceiling(pairs, **bootstrap):
    """How well one observer predicts the majority of the others on the same pair, over all votes of known observers.

    Votes for which the others are even, or without others, are left out; ``n`` tells how many are not.
    """
    known = np.array([bool(name) for name in pairs.observer])
    numbers = {name: number for number, name in enumerate(dict.fromkeys(pairs.observer))}
    who = np.array([numbers[name] for name in pairs.observer])
    # A person's further answers to the same pair are not the others'.
    own = pairs.pair * len(numbers) + who
    _, group = np.unique(own, return_inverse=True)
    count = np.bincount(pairs.pair)[pairs.pair] - np.bincount(group)[group]
    right = np.bincount(pairs.pair, pairs.chose_right)[pairs.pair] - np.bincount(group, pairs.chose_right)[group]
    usable = np.flatnonzero(known & (count > 0) & ~np.isclose(right, count / 2, rtol=0, atol=1e-9))
    return _share(
        agreement(right[usable] - count[usable] / 2, pairs.chose_right[usable]),
        pairs.scene[pairs.pair[usable]],
        **bootstrap,
    )


def rank_matrix(scores):
    """Spearman's rank correlation between judges.

    Args:
        scores (ndarray): ``(J, n)``, of n images by J judges, each with higher better.

    Returns:
        ndarray: ``(J, J)``; NaN for a judge whose scores are all equal.
    """
    ranks = np.stack([_ranks(row) for row in np.asarray(scores, dtype=float)])
    ranks -= ranks.mean(1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(1))
    with np.errstate(invalid='ignore', divide='ignore'):
        return (ranks @ ranks.T) / np.outer(norms, norms)


def share_ci(values, groups, level=0.95, resamples=2000, seed=0):
    """A mean and its bootstrap interval when whole groups are drawn.

    Every call with the same seed and number of groups draws the same groups, so that intervals of judges compare.

    Args:
        values (ndarray): ``(n,)``.
        groups (ndarray): ``(n,)`` integers.

    Returns:
        Estimate: NaN for no value; without an interval for a single group.
    """
    resamples = check_number('resamples', resamples, low=2, integer=True)
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    value = float(values.sum() / len(values))
    if len(counts) < 2:
        return Estimate(value, math.nan, math.nan)
    generator, drawn, at_once = np.random.default_rng(seed), [], max(1, CHUNK // len(counts))
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), len(counts))
        places = generator.integers(len(counts), size=size)
        drawn.append(sums[places].sum(1) / counts[places].sum(1))
    return Estimate(value, *interval(np.concatenate(drawn), level))


def _share(values, scenes, **bootstrap):
    return Agreement(share_ci(values, scenes, **bootstrap), len(values))


def _ranks(values):
    """Ranks from 0, equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]
