"""Schedules for a shorter training: the same curves, squeezed."""

from itertools import accumulate, pairwise

LENGTHS = (
    'milestones', 'restarts', 'T_max', 'begin', 'end', 'step_size', 'step_size_up', 'step_size_down', 'total_iters',
    'total_steps', 'T_0', 'warmup_iter', 'start_iter', 'stop_iter',
)  # fmt: skip


def shorter(scheduler, ratio):
    """A scheduler's options with every length in iterations times ``ratio`` (at least 1, but 0 stays 0).

    ``periods``, which follow each other, end where they would have ended. ``gamma`` of ExponentialLR, which acts at
    every iteration, becomes ``gamma ** (1 / ratio)``, so that the rate ends where it would have ended. Lists of
    schedulers (mmengine) are done one by one.
    """
    if isinstance(scheduler, (list, tuple)):
        return [shorter(one, ratio) for one in scheduler]
    if not isinstance(scheduler, dict):
        return scheduler
    made = {key: scaled(value, ratio) if key in LENGTHS else value for key, value in scheduler.items()}
    if made.get('periods'):
        ends = [0, *(scaled(end, ratio) for end in accumulate(made['periods']))]
        made['periods'] = [max(1, end - start) for start, end in pairwise(ends)]
    if made.get('type') == 'ExponentialLR' and made.get('gamma') is not None:
        made['gamma'] = float(made['gamma']) ** (1 / ratio)
    return made


def shorter_terms(terms, ratio):
    """Terms of LossSum whose ``start_iter``, ``stop_iter`` and ``warmup_iter`` are squeezed like the learning rate."""
    return {name: shorter(term, ratio) for name, term in terms.items()}


def scaled(value, ratio):
    """A length or a list of them times ``ratio``; 0, negative numbers (off) and what is no number stay."""
    if isinstance(value, (list, tuple)):
        return [scaled(one, ratio) for one in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return value
    return max(1, round(value * ratio))
