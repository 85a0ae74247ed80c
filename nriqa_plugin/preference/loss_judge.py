"""A training loss as a judge, so that losses can be scored, stored and resumed like any judge."""

import math

import torch

from nriqa_plugin.checks import tensors_hash
from nriqa_plugin.iqa import Scorer


class LossJudge(Scorer):
    """A loss of one image: **lower is better**.

    Args:
        name (str): how tables call it.
        loss (Callable): ``loss(pred, target)`` gives a 0-d tensor, for images ``(1, 3, H, W)`` in [0, 1].
        identity (str): what tells it from other losses of this name: its options and the hashes of its weights files.
        needs_reference (bool): whether it wants a target.

    A loss that leaves out images for which its judge is undefined (attribute ``undefined``, also of the terms of a
    sum) gives NaN for them, which is refused as with any judge.
    """

    higher_better = False
    score_range = (-math.inf, math.inf)

    def __init__(self, name, loss, identity, needs_reference=True):
        super().__init__()
        self.name, self.needs_reference, self.identity = name, needs_reference, identity
        object.__setattr__(self, '_loss', loss)  # its counters and schedules are no weights of a judge
        if hasattr(loss, 'nonfinite'):
            loss.nonfinite = 'propagate'  # a term that is not finite is an error here

    def score(self, pred, ref=None):
        """``(N, 3, H, W)`` to ``(N,)``."""
        found = []
        for i in range(len(pred)):
            before = self._left_out()
            value = self._loss(pred[i : i + 1], None if ref is None else ref[i : i + 1])
            found.append(value if self._left_out() == before else torch.full_like(value, math.nan))
        return torch.stack(found)

    def weights_hash(self):
        """12 hex digits that stand for the loss."""
        return tensors_hash((), repr(('LossJudge', self.name, self.identity, self.crop_border)))

    def _left_out(self):
        parts = [term.loss for term in self._loss.terms] if hasattr(self._loss, 'terms') else [self._loss]
        return sum(int(part.undefined) for part in parts if hasattr(part, 'undefined'))

    def _apply(self, fn, recurse=True):
        if isinstance(self._loss, torch.nn.Module):
            self._loss._apply(fn)
        return super()._apply(fn, recurse)
