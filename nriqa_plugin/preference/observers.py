"""Which observers voted unlike all the others."""

import math
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.preference.thurstone import PRIOR, reachable, thurstone, win_probability
from nriqa_plugin.preference.vote_counts import by_scene, check_votes, conditions_of, counts_by_voter, voters

MIN_VOTES = 5  # fewer say nothing about a person
MIN_OBSERVERS = 4  # fewer have no quartiles
FENCE = 1.5  # interquartile ranges
DOUBT = -2.0  # standard deviations


@dataclass(frozen=True)
class Observer:
    """One observer against the scale of all others.

    Attributes:
        observer (str): the name.
        votes (int): all votes.
        judged (int): those for one side (no ties, no fractions) that the others' scale speaks of.
        agreement (float): the share of the judged ones for the condition that is better to the others; NaN without any.
        score (float): how likely the votes are on the others' scale, in standard deviations from what a person of
            that scale would give: 0 is as expected, negative is unlike them. NaN without votes to judge by.
        outlier (bool): flagged by :func:`judge_observers`.
        note (str): why there is no verdict.
    """

    observer: str
    votes: int
    judged: int
    agreement: float
    score: float
    outlier: bool
    note: str = ''


def judge_observers(votes, by=None, prior=PRIOR):
    """Leave each observer out, scale the others' votes, and see how likely his own are on that scale.

    That is the likelihood check of Perez-Ortiz and Mantiuk (arXiv 1712.03686), with one change: their log-likelihood is
    brought to its expectation and standard deviation, so that observers with different pairs compare. An observer is
    flagged when his score is below -2 and more than 1.5 interquartile ranges under the first quartile of all. Nobody
    is removed. Votes are judged only by scales that differ: where the others see no difference, everybody is alike.

    Args:
        votes (Iterable[Vote]), by (str | None), prior (float): as in :func:`~nriqa_plugin.preference.jnd.jnd_scale`.

    Returns:
        list[Observer]: the most unusual first, those without a verdict last; empty when votes have no observers.
    """
    votes = check_votes(votes)
    voter, names = voters(votes)
    if not names:
        return []
    found = np.zeros((len(names), 5))  # log-likelihood, its expectation and variance, judged, those with the others
    for places in by_scene(votes, by is None).values() if len(names) > 1 else ():
        found += _likelihoods([votes[i] for i in places], [voter[i] for i in places], len(names), prior)
    enough = (found[:, 3] >= MIN_VOTES) & (found[:, 2] > 0)
    scores = np.full(len(names), math.nan)
    judged = found[:, 2] > 0
    scores[judged] = (found[judged, 0] - found[judged, 1]) / np.sqrt(found[judged, 2])
    limit = -math.inf
    if enough.sum() >= MIN_OBSERVERS:
        low, high = np.quantile(scores[enough], [0.25, 0.75])
        limit = min(DOUBT, low - FENCE * (high - low))
    own = [[] for _ in names]
    for who, vote in zip(voter, votes, strict=True):
        own[who].append(vote)
    rows = []
    for who, (score, (*_, count, agreeing), known) in enumerate(
        zip(scores.tolist(), found.tolist(), enough, strict=True)
    ):
        agreement = agreeing / count if count else math.nan
        rows.append(Observer(names[who], len(own[who]), int(count), agreement, score, bool(known and score < limit),
                             _why(len(names), own[who], int(count), known, enough.sum())))  # fmt: skip
    return sorted(rows, key=lambda row: (bool(row.note), math.isnan(row.score), row.score))


def _likelihoods(votes, voter, number, prior):
    """The sums of one scene for each observer, ``(number, 5)``."""
    names, found = conditions_of(votes), np.zeros((number, 5))
    k, present = len(names), sorted(set(voter))
    dense = counts_by_voter(votes, voter, number, names)
    others = np.asarray(dense.sum(axis=0)).reshape(k, k) - dense[present].toarray().reshape(-1, k, k)
    decided = [i for i, vote in enumerate(votes) if vote.chosen in (0, 1)]
    own = counts_by_voter([votes[i] for i in decided], [voter[i] for i in decided], number, names)
    own = own[present].toarray().reshape(-1, k, k) * reachable(others + others.swapaxes(1, 2))
    scores = thurstone(others, prior)
    for place, who in enumerate(present):
        q = scores[place]
        p = win_probability(q[:, None] - q)
        log_p, n = np.log(p), own[place] + own[place].T
        upper = np.triu(np.ones((k, k)), 1)
        expected = upper * n * (p * log_p + p.T * log_p.T)
        variance = upper * n * p * p.T * (log_p - log_p.T) ** 2
        agreeing = (own[place] * ((p > 0.5) + 0.5 * (p == 0.5))).sum()
        found[who] = ((own[place] * log_p).sum(), expected.sum(), variance.sum(), own[place].sum(), agreeing)
    return found


def _why(observers, votes, judged, known, comparable):
    if observers == 1:
        return 'no other observer'
    if judged < MIN_VOTES:
        text = f'{_number(len(votes), "vote")}, too few to judge'
        ties = sum(vote.chosen == 0.5 for vote in votes)
        fractions = sum(vote.chosen not in (0, 0.5, 1) for vote in votes)
        left_out = [_number(ties, 'tie')] * bool(ties) + [_number(fractions, 'fraction')] * bool(fractions)
        if alone := len(votes) - judged - ties - fractions:
            left_out.append(f'{alone} on what the others did not compare')
        return f'{text} by: left out are {", ".join(left_out)}' if left_out else text
    if not known:
        return 'the others see no difference'
    return '' if comparable >= MIN_OBSERVERS else f'too few observers to compare with (at least {MIN_OBSERVERS})'


def _number(count, what):
    return f'{count} {what}{"" if count == 1 else "s"}'
