"""What was chosen lately: how often each candidate, and the mean scores of chosen and original."""

from collections import deque

import torch


class ChoiceStatistics:
    """Over the last ``window`` batches.

    Args:
        window (int): batches.
    """

    def __init__(self, window=100):
        self.batches = deque(maxlen=window)

    def add(self, index, scores, count):
        """Note one batch.

        Args:
            index (Tensor): ``(N,)``.
            scores (Tensor | None): ``(N, K)``, higher is better, NaN where nothing was scored.
            count (int): K.
        """
        histogram = torch.bincount(index, minlength=count).tolist()
        chosen, original, pairs = 0.0, 0.0, 0
        if scores is not None:
            both = torch.stack((scores.gather(1, index[:, None]).squeeze(1), scores[:, 0]))
            both = both[:, torch.isfinite(both).all(0)].double()
            (chosen, original), pairs = both.sum(1).tolist(), both.shape[1]
        self.batches.append([histogram, chosen, original, pairs])

    def values(self, sign=1):
        """What to log.

        Args:
            sign (int): -1 to give the scores of a judge for which lower is better in its own direction.

        Returns:
            dict[str, float]: ``gt_0``, ``gt_1``, ...: the share of each candidate, which is the histogram of the chosen
            index (``gt_0`` is the share of the original); ``gt_score`` and ``gt_score_original``: mean scores of
            the chosen ones and of their originals, where both are known.
        """
        if not self.batches:
            return {}
        count = max(len(batch[0]) for batch in self.batches)
        histogram = [sum(batch[0][k] for batch in self.batches if k < len(batch[0])) for k in range(count)]
        shares = {f'gt_{k}': number / sum(histogram) for k, number in enumerate(histogram)}
        pairs = sum(batch[3] for batch in self.batches)
        if not pairs:
            return shares
        means = [sign * sum(batch[i] for batch in self.batches) / pairs for i in (1, 2)]
        return {**shares, 'gt_score': means[0], 'gt_score_original': means[1]}

    def state(self):
        """Lists and numbers only, for a checkpoint."""
        return [list(batch) for batch in self.batches]

    def load(self, state):
        """Go on from a :meth:`state`."""
        self.batches.clear()
        self.batches.extend(state)
