"""The JND scale of conditions (methods) from votes, with intervals over observers, win shares and pairwise tests."""

import itertools
import math
from dataclasses import replace

import numpy as np

from nriqa_plugin.checks import check_choice, check_number, import_extra, unknown_name
from nriqa_plugin.evaluation.significance import holm
from nriqa_plugin.evaluation.statistics import interval
from nriqa_plugin.preference.jnd_table import Fit, JNDRow, JNDScale, PairRow
from nriqa_plugin.preference.thurstone import (
    PRIOR,
    covariance,
    has_maximum,
    parts,
    reachable,
    thurstone,
    win_probability,
)
from nriqa_plugin.preference.vote_counts import (
    by_scene,
    check_votes,
    conditions_of,
    counts_by_voter,
    resampled,
    voters,
)

FEW_OBSERVERS = 10


def jnd_scale(votes, by=None, relative_to=None, prior=PRIOR, resamples=1000, level=0.95, seed=0, conditions=None):
    """Scale the conditions of votes by :func:`~nriqa_plugin.preference.thurstone.thurstone`.

    Args:
        votes (Iterable[Vote]): of conditions (methods) ``left`` and ``right``; a tie is half a vote for either.
        by (str | None): ``scene``: a scale for each scene; without it all scenes are pooled.
        relative_to (str | None): the condition that gets 0 in its part; elsewhere, and without it, the mean does.
        prior (float): see :func:`~nriqa_plugin.preference.thurstone.thurstone`.
        resamples (int): of the bootstrap (percentile method), which draws whole observers; votes, where nobody says
            whose they are. Resamples in which a part falls apart say nothing about its conditions and are left out.
        level (float): coverage of the intervals, in (0, 1).
        seed (int): of the bootstrap.
        conditions (Sequence[str] | None): the conditions that there are; a vote for another one is refused, and one
            without votes is noted.

    Returns:
        JNDScale

    Raises:
        ValueError: votes as refused by :func:`~nriqa_plugin.preference.vote_counts.check_votes`, a scene without
            ``relative_to``, or numbers out of range.
    """
    votes = check_votes(votes, conditions)
    if by is not None:
        check_choice('by', by, ('scene',))
    if not 0 < check_number('level', level) < 1:
        raise ValueError(f'level must be in (0, 1), got {level}')
    resamples = check_number('resamples', resamples, low=2, integer=True)
    check_number('prior', prior, low=0.1)  # not infinite: hardly any resample of few observers has a maximum
    names = conditions_of(votes)
    if relative_to is not None and relative_to not in names:
        raise unknown_name('condition to be 0:', relative_to, names)
    voter, observers = voters(votes)
    number = len(observers) or len(votes)
    rows, pairs, fits, notes = [], [], [], list(_about_observers(observers))
    if unseen := [name for name in conditions or () if name not in names]:
        notes.append(f'there are no votes on {", ".join(unseen)}')
    for scene, places in by_scene(votes, by is None).items():
        own = [votes[i] for i in places]
        scale = _Scale(scene, own, [voter[i] for i in places], number, relative_to, prior, resamples, level, seed)
        rows += scale.rows()
        pairs += scale.pairs()
        fits.append(scale.fit())
        notes += scale.notes()
    return JNDScale(tuple(rows), tuple(pairs), tuple(fits), len(observers), level, tuple(notes))


class _Scale:
    """The scale of one scene and its resamples."""

    def __init__(self, scene, votes, voter, number, relative_to, prior, resamples, level, seed):
        self.scene, self.names, self.prior, self.level = scene, conditions_of(votes), prior, level
        if relative_to is not None and relative_to not in self.names:
            raise ValueError(f'scene {scene}: nobody has seen {relative_to}, which was to be 0')
        k, table = len(self.names), counts_by_voter(votes, voter, number, self.names)
        self.counts = np.asarray(table.sum(axis=0)).reshape(k, k)
        self.part = parts(self.counts)
        self.together = self.part[:, None] == self.part
        self.zero = None if relative_to is None else self.names.index(relative_to)
        self.scores = self._placed(thurstone(self.counts, prior)[None])[0]
        self.order = sorted(range(k), key=lambda i: (self.part[i], -self.scores[i]))
        scores, shares = zip(*(self._resample(counts) for counts in resampled(table, resamples, seed)), strict=True)
        self.drawn, self.shares = np.concatenate(scores), np.concatenate(shares)
        if number < 2:
            self.drawn[:], self.shares[:] = math.nan, math.nan

    def rows(self):
        wins, votes = self.counts.sum(axis=1), (self.counts + self.counts.T).sum(axis=1)
        found = []
        for i in self.order:
            scale = (float(self.scores[i]), *self._interval(self.drawn[:, i]))
            share = (float(wins[i] / votes[i]), *self._interval(self.shares[:, i]))
            numbers = (*scale, *share, float(wins[i]), float(votes[i]))
            found.append(JNDRow(self.scene, self.names[i], int(self.part[i]), *numbers))
        return found

    def pairs(self):
        found = []
        spread = covariance(self.counts, self.scores, self.prior)
        for i, j in itertools.combinations(self.order, 2):
            if not self.together[i, j]:
                continue
            difference, drawn = float(self.scores[i] - self.scores[j]), self.drawn[:, i] - self.drawn[:, j]
            errors = [math.sqrt(max(0.0, spread[i, i] + spread[j, j] - 2 * spread[i, j]))]
            low, high = self._interval(drawn)
            if not math.isnan(low):
                errors.append(float(np.nanstd(drawn)))
            p = math.erfc(difference / max(errors) / math.sqrt(2))
            votes = self.counts[i, j] + self.counts[j, i]
            share = float(self.counts[i, j] / votes) if votes else math.nan
            fitted = float(win_probability(difference))
            found.append(PairRow(self.scene, self.names[i], self.names[j], float(votes), share, fitted, difference, low,
                                 high, p, math.nan))  # fmt: skip
        corrected = holm(pair.p for pair in found)
        return [replace(pair, p_holm=p) for pair, p in zip(found, corrected, strict=True)]

    def fit(self):
        votes = self.counts + self.counts.T
        expected = votes * win_probability(self.scores[:, None] - self.scores)
        seen = self.counts > 0
        deviance = float(2 * (self.counts[seen] * np.log(self.counts[seen] / expected[seen])).sum())
        df = int((votes > 0).sum() // 2 - (len(self.names) - len(set(self.part.tolist()))))
        p = float(import_extra('scipy.stats', 'report', 'the JND scale').chi2.sf(deviance, df)) if df else math.nan
        return Fit(self.scene, max(0.0, deviance), df, p)

    def notes(self):
        where = f'scene {self.scene}: '
        members = [[name for name, part in zip(self.names, self.part, strict=True) if part == number]
                   for number in sorted(set(self.part.tolist()))]  # fmt: skip
        if len(members) > 1:
            groups = '; '.join(', '.join(group) for group in members)
            yield (f'{where}nobody compared these groups with each other, so each has a scale of its own and their '
                   f'scores do not compare: {groups}')  # fmt: skip
        if not has_maximum(self.counts):
            yield (f'{where}some conditions won all comparisons with some others: how far they are ahead is set by the '
                   f'prior of {self.prior:g} JND, and their intervals mean little')  # fmt: skip
        without = [self.names[i] for i in range(len(self.names)) if math.isnan(self._interval(self.drawn[:, i])[0])]
        if without:
            yield f'{where}too few observers for an interval of {", ".join(without)}'

    def _resample(self, counts):
        """Scores and shares of resampled counts; NaN where a part has fallen apart."""
        scores = self._placed(thurstone(counts, self.prior))
        both = counts + counts.swapaxes(1, 2)
        whole = (reachable(both) == self.together).all(axis=2)
        votes = both.sum(axis=2)
        shares = np.divide(counts.sum(axis=2), votes, out=np.full(votes.shape, math.nan), where=votes > 0)
        return np.where(whole, scores, math.nan), shares

    def _placed(self, scores):
        """Scores with the condition at 0 that is to be there, in its part."""
        if self.zero is None:
            return scores
        return scores - np.where(self.together[self.zero], scores[:, self.zero, None], 0.0)

    def _interval(self, drawn):
        return interval(drawn, self.level)


def _about_observers(observers):
    if not observers:
        yield ('the votes do not say whose they are: the intervals take each for an independent one, and are too '
               'narrow if people voted more than once')  # fmt: skip
    elif len(observers) == 1:
        yield 'one observer: there are no intervals, since nobody knows what others would have chosen'
    elif len(observers) < FEW_OBSERVERS:
        yield f'{len(observers)} observers: the intervals of so few are too narrow'
