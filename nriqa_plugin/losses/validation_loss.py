"""The value of a training's loss on images for validation: every term at its full weight, no trace in the loss."""

import contextlib

import torch

from nriqa_plugin.losses.term import Term

# What a call changes in LossSum, in our losses, and what the schedules of its terms are.
CHANGED = ('iteration', 'counts_itself', 'reported', 'range_checked', 'nonfinite', 'values', 'grad_norms', 'weights',
           'balance')  # fmt: skip
SCHEDULE = {'start_iter': 0, 'stop_iter': None, 'warmup_iter': 0, 'every': 1}


@torch.no_grad()
def validation_loss(loss, pred, target):
    """What ``loss`` makes of a pair of images when all its terms act, at whatever iteration the training is.

    Terms that are not there yet, warm up, pause (``every``) or have ended count with their full weight, and learnt
    weights (``balance``) are those of the start, so that the values of all validations can be compared. Random crops
    and changes of the judges' views are those of iteration 1, the same at every call. A term that is not finite makes
    the value so. Counters, iteration and logged values of the loss stay as they were.

    Args:
        loss (nn.Module): a ``LossSum``, one of our losses alone, or a framework's loss.
        pred, target (Tensor): ``(N, C, H, W)`` or ``(N, T, C, H, W)`` as in the training.

    Returns:
        float: lower is better.
    """
    with _at_full_weights(loss):
        value = loss(pred, target)
    if isinstance(value, (tuple, list)):  # the frameworks' (perceptual, style) pairs
        value = sum(part for part in value if part is not None)
    return float(value)


@contextlib.contextmanager
def _at_full_weights(loss):
    keys = (*CHANGED, *SCHEDULE)
    kept = [(part, {key: vars(part)[key] for key in keys if key in vars(part)}) for part in loss.modules()]
    counters = [(counter, counter.clone()) for counter in loss.buffers() if not counter.is_floating_point()]
    try:
        for part, before in kept:
            if isinstance(part, Term):
                vars(part).update(SCHEDULE)
            given = {'iteration': 1, 'counts_itself': False, 'nonfinite': 'propagate', 'balance': None}
            vars(part).update({key: value for key, value in given.items() if key in before})
        yield
    finally:
        for part, before in kept:
            vars(part).update(before)
        for counter, value in counters:
            counter.copy_(value)
