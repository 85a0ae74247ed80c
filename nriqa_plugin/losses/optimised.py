"""Which judges a training optimises, told from its losses."""

from nriqa_plugin.iqa.ensemble import Ensemble
from nriqa_plugin.losses.iqa_loss import IQALoss
from nriqa_plugin.losses.loss_sum import LossSum


def is_optimised(judge, losses):
    """Whether a judge, or one of those in an ensemble, acts in a training, in our build of it or in pyiqa's.

    Args:
        judge (Scorer): the judge asked for.
        losses (iterable[nn.Module]): of the training, also others than ours. What has the weight 0 does not act.
    """
    return any(_names(judge) & _names(scorer) for loss in losses for scorer in _scorers(loss))


def _scorers(loss):
    if isinstance(loss, IQALoss):
        if loss.loss_weight:
            yield loss.scorer
        return
    parts = [term.loss for term in loss.terms if term.weight] if isinstance(loss, LossSum) else loss.children()
    for part in parts:
        if hasattr(part, 'children'):  # a term's loss may be a plain function
            yield from _scorers(part)


def _names(judge):
    if isinstance(judge, Ensemble):
        return set().union(*map(_names, judge.judges))
    return {judge.name.removeprefix('pyiqa:')}
