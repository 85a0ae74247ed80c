"""The JND scale of conditions (methods) from votes, with intervals over observers, win shares and pairwise tests."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np

from nriqa_plugin.checks import check_choice, check_number, import_extra, unknown_name
from nriqa_plugin.evaluation.significance import holm
from nriqa_plugin.evaluation.statistics import interval
from nriqa_plugin.preference.jnd_resamples import Resamples
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
    voters,
)

FEW_OBSERVERS = 10
FEW_VOTES = 5  # on a condition: fewer may be a slip
FEW_OF_MEDIAN = 0.1  # of the conditions: where all have few votes it is a small experiment


def jnd_scale(votes, by=None, relative_to=None, prior=PRIOR, resamples=1000, level=0.95, seed=0, conditions=None):
    """Scale the conditions of votes by :func:`~nriqa_plugin.preference.thurstone.thurstone`.

    Args:
        votes (Iterable[Vote]): of conditions (methods) ``left`` and ``right``; a tie is half a vote for either.
        by (str | None): ``scene``: a scale for each scene; without it all scenes are pooled.
        relative_to (str | None): the condition that gets 0 in its part. Elsewhere, and without it, the mean of the
            part's conditions that nine of ten resamples connect with each other does: a stray vote on another
            condition moves no scale.
        prior (float): see :func:`~nriqa_plugin.preference.thurstone.thurstone`.
        resamples (int): of the bootstrap (percentile method), which draws whole observers; votes, where nobody says
            whose they are. An interval is over the resamples that connect a condition with the 0 of its part, that
            of a pair over those that connect the two; where more than a tenth do not, there is none.
        level (float): coverage of the intervals, in (0, 1).
        seed (int): of the bootstrap.
        conditions (Sequence[str] | None): the conditions that there are; a vote for another one is refused, and one
            without votes is noted. Without them those on which there are suspiciously few votes are noted.

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
    rows, pairs, fits, zero, notes = [], [], [], {}, list(_about_observers(observers))
    if unseen := [name for name in conditions or () if name not in names]:
        notes.append(f'there are no votes on {", ".join(unseen)}')
    if not conditions:
        notes += _about_stray_names(votes, names)
    for scene, places in by_scene(votes, by is None).items():
        own = [votes[i] for i in places]
        scale = _Scale(scene, own, [voter[i] for i in places], number, relative_to, prior, resamples, level, seed)
        rows += scale.rows
        pairs += scale.pairs
        fits.append(scale.fit())
        zero[scene] = tuple(tuple(scale.names[i] for i in part) for part in scale.zero)
        notes += scale.notes()
    return JNDScale(tuple(rows), tuple(pairs), tuple(fits), len(observers), level, zero, tuple(notes))


class _Scale:
    """The scale of one scene and its resamples."""

    def __init__(self, scene, votes, voter, number, relative_to, prior, resamples, level, seed):
        self.scene, self.names, self.prior, self.level = scene, conditions_of(votes), prior, level
        if relative_to is not None and relative_to not in self.names:
            raise ValueError(f'scene {scene}: nobody has seen {relative_to}, which was to be 0')
        k, table = len(self.names), counts_by_voter(votes, voter, number, self.names)
        self.counts = np.asarray(table.sum(axis=0)).reshape(k, k)
        self.votes, self.people = (self.counts + self.counts.T).sum(axis=1), _people(votes)
        self.part, self.several = parts(self.counts), number > 1
        self.resamples = Resamples(table, prior, resamples, seed)
        self.zero = [self._zero(np.flatnonzero(self.part == part).tolist(), relative_to)
                     for part in range(self.part.max() + 1)]  # fmt: skip
        scores = thurstone(self.counts, prior)
        self.scores = scores - [scores[self.zero[part]].mean() for part in self.part]
        self.order = sorted(range(k), key=lambda i: (self.part[i], -self.scores[i]))
        self.rows, self.pairs = self._rows(), self._pairs()

    def _zero(self, members, relative_to):
        """The conditions of a part whose mean is 0."""
        named = [i for i in members if self.names[i] == relative_to]
        return named or self.resamples.core(members, self.votes)

    def _rows(self):
        wins = self.counts.sum(axis=1)
        found = []
        for i in self.order:
            scale = (float(self.scores[i]), *self._interval(self.resamples.above(i, self.zero[self.part[i]])))
            share = (float(wins[i] / self.votes[i]), *self._interval(self.resamples.shares[:, i]))
            numbers = (*scale, *share, float(wins[i]), float(self.votes[i]))
            found.append(JNDRow(self.scene, self.names[i], int(self.part[i]), *numbers))
        return found

    def _pairs(self):
        found = []
        spread = covariance(self.counts, self.scores, self.prior)
        for i, j in itertools.combinations(self.order, 2):
            if self.part[i] != self.part[j]:
                continue
            difference, drawn = float(self.scores[i] - self.scores[j]), self.resamples.above(i, [j])
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
                   f'prior of {self.prior:g} JND, and intervals between these groups mean little: '
                   f'{"; ".join(", ".join(group) for group in self._contested())}')  # fmt: skip
        if self.several and (without := [row.condition for row in self.rows if math.isnan(row.low)]):
            yield f'{where}no interval for {"; ".join(map(self._why_none, without))}'
        for zero in self.zero:
            if 1 < len(zero) < (self.part == self.part[zero[0]]).sum():
                yield f'{where}0 is the mean of {", ".join(self.names[i] for i in zero)} alone'
        if alone := sum(math.isnan(pair.low) for pair in self.pairs):
            yield (f'{where}pairs without an interval: {alone} of {len(self.pairs)}; their p takes the votes for '
                   'independent ones, and is too small if people voted more than once')  # fmt: skip

    def _contested(self):
        """The conditions of parts with several groups; within one wins and losses lead, maybe over others, from each
        to each.
        """
        forward = reachable(self.counts)
        both = forward & forward.T
        first = [i for i in range(len(both)) if both[i].argmax() == i]
        groups = Counter(self.part[first].tolist())
        return [[self.names[j] for j in np.flatnonzero(both[i])] for i in first if groups[self.part[i]] > 1]

    def _why_none(self, name):
        i = self.names.index(name)
        zero = self.zero[self.part[i]]
        kept = int(self.resamples.connected([i, *zero]).sum())
        rest = 'the others' if len(zero) > 1 else self.names[zero[0]]
        return (f'{name} (on {_how_many(self.votes[i], self.people[name])}: {kept} of {len(self.resamples)} resamples '
                f'keep it connected with {rest})')  # fmt: skip

    def _interval(self, drawn):
        return interval(drawn, self.level) if self.several else (math.nan, math.nan)


def _people(votes):
    """By condition who voted on it; nobody where the votes do not say."""
    found = {}
    for vote in votes:
        for side in (vote.left, vote.right):
            found.setdefault(side, set()).update({vote.observer} - {''})
    return found


def _how_many(votes, people):
    text = f'{votes:g} {"vote" if votes == 1 else "votes"}'
    return f'{text} of {len(people)} {"observer" if len(people) == 1 else "observers"}' if people else text


def _about_stray_names(votes, names):
    """Conditions with hardly a vote, where others have more: a slip is likelier than an experiment."""
    number, people = Counter(side for vote in votes for side in (vote.left, vote.right)), _people(votes)
    several = len(set().union(*people.values())) > 1
    most = FEW_OF_MEDIAN * np.median([number[name] for name in names])
    for name in names:
        if number[name] <= most and (number[name] < FEW_VOTES or (several and len(people[name]) == 1)):
            yield f'{name} has {_how_many(number[name], people[name])}: a misspelt name?'


def _about_observers(observers):
    if not observers:
        yield ('the votes do not say whose they are: the intervals take each for an independent one, and are too '
               'narrow if people voted more than once')  # fmt: skip
    elif len(observers) == 1:
        yield 'one observer: there are no intervals, since nobody knows what others would have chosen'
    elif len(observers) < FEW_OBSERVERS:
        yield f'{len(observers)} observers: the intervals of so few are too narrow'
