"""The resamples of a JND scale's bootstrap: what each says, and which conditions it still connects."""

import math

import numpy as np

from nriqa_plugin.evaluation.statistics import UNDEFINED
from nriqa_plugin.preference.thurstone import reachable, thurstone
from nriqa_plugin.preference.vote_counts import resampled


class Resamples:
    """Scales of resampled votes; in some of them conditions that few people saw have lost their comparisons.

    Args:
        table (scipy.sparse.csr_array), resamples (int), seed (int): see
            :func:`~nriqa_plugin.preference.vote_counts.resampled`.
        prior (float): see :func:`~nriqa_plugin.preference.thurstone.thurstone`.

    Attributes:
        scores (ndarray): ``(R, k)``, in JND; they compare only within a group.
        group (ndarray): ``(R, k)``, the first condition that is connected with each.
        shares (ndarray): ``(R, k)``, of its comparisons that each has won; NaN without any.
    """

    def __init__(self, table, prior, resamples, seed):
        scores, group, shares = [], [], []
        for counts in resampled(table, resamples, seed):
            both = counts + counts.swapaxes(1, 2)
            votes = both.sum(axis=2)
            scores.append(thurstone(counts, prior))
            group.append(reachable(both).argmax(axis=2))
            shares.append(np.divide(counts.sum(axis=2), votes, out=np.full(votes.shape, math.nan), where=votes > 0))
        self.scores, self.group, self.shares = (np.concatenate(found) for found in (scores, group, shares))

    def __len__(self):
        return len(self.scores)

    def connected(self, members):
        """``(R,)`` of bool: whether a resample connects all of these conditions."""
        group = self.group[:, members]
        return (group == group[:, :1]).all(axis=1)

    def above(self, i, zero):
        """``(R,)``: the score of ``i`` less the mean of the conditions ``zero``; NaN where they are not connected."""
        return np.where(self.connected([i, *zero]), self.scores[:, i] - self.scores[:, zero].mean(axis=1), math.nan)

    def core(self, members, votes):
        """The conditions of a part that enough resamples for an interval connect all with each other.

        Args:
            members (Sequence[int]): the conditions of the part.
            votes (Sequence[float]): by condition; of sets of equal size that with more votes is taken.

        Returns:
            list[int]: all members where no two stay connected.
        """
        if self.connected(members).mean() >= 1 - UNDEFINED:
            return list(members)
        found = []
        for one in members:
            same = self.group[:, members] == self.group[:, [one]]
            order = np.argsort(-same.mean(axis=0), kind='stable')
            together = np.logical_and.accumulate(same[:, order], axis=1).mean(axis=0)
            found.append(sorted(members[i] for i in order[together >= 1 - UNDEFINED]))
        best = max(found, key=lambda core: (len(core), sum(votes[i] for i in core)))
        return best if len(best) > 1 else list(members)
