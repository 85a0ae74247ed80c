"""``train.scheduler``: PyTorch's learning-rate schedulers by name, beside the two that BasicSR knows."""

import inspect
import math

from torch.optim import lr_scheduler

from nriqa_plugin.checks import check_keys, check_number, in_place, unknown_name

HOST = ('MultiStepLR', 'MultiStepRestartLR', 'CosineAnnealingRestartLR')
# These want functions, other schedulers or a validation's result, which an option file cannot give.
NOT_BY_NAME = ('LambdaLR', 'MultiplicativeLR', 'SequentialLR', 'ChainedScheduler', 'ReduceLROnPlateau', 'LRScheduler')
NOT_OPTIONS = ('optimizer', 'last_epoch', 'verbose', 'scale_fn')
TEXTS = ('mode', 'anneal_strategy', 'scale_mode')  # options whose values are words


def torch_schedulers():
    """``{name: class}`` of PyTorch's schedulers that can be described in an option file."""
    found = {name: thing for name, thing in vars(lr_scheduler).items() if inspect.isclass(thing) and name[0] != '_'}
    return {
        name: thing
        for name, thing in found.items()
        if issubclass(thing, lr_scheduler.LRScheduler) and name not in (*NOT_BY_NAME, *HOST)
    }


def create_scheduler(optimizer, option, total_iter):
    """One of PyTorch's schedulers, stepped once an iteration: what PyTorch calls an epoch is an iteration here.

    Args:
        optimizer (Optimizer): its learning rates are those of the first iteration.
        option (dict): ``{type: ExponentialLR, gamma: 0.9999}``, ``{type: PolynomialLR, total_iters: 50000}`` ... with
            PyTorch's own option names. ``ExponentialLR`` takes ``eta_min`` instead of ``gamma``: the learning rate of
            the last iteration, so that ``{lr: 0.1}`` with ``eta_min: 1.0e-4`` falls from 0.1 to 1e-4 over the run.
        total_iter (int): iterations of the training.

    Raises:
        ValueError, TypeError: an unknown scheduler or option, a value that cannot be; naming it.
    """
    options = dict(option)
    name, known = options.pop('type'), torch_schedulers()
    if name not in known:
        raise unknown_name('train.scheduler.type', name, (*known, *HOST))
    with in_place(f'train.scheduler ({name})'):
        accepted = [key for key in inspect.signature(known[name]).parameters if key not in NOT_OPTIONS]
        check_keys(name, options, [*accepted, *(['eta_min'] if name == 'ExponentialLR' else [])])
        for key, value in options.items():
            if isinstance(value, str) and key not in TEXTS:
                check_number(key, value)
        if name == 'ExponentialLR':
            options = {'gamma': _gamma(optimizer, total_iter, **options)}
        return known[name](optimizer, **options)


def undo_warmup(schedulers):
    """Put back what every scheduler last set: the host's warm-up writes over it, and most go on from there."""
    for scheduler in schedulers:
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group['lr'] = rate


def _gamma(optimizer, total_iter, gamma=None, eta_min=None):
    """The factor of an iteration, given itself or by the last iteration's learning rate."""
    if (gamma is None) == (eta_min is None):
        raise ValueError('give either gamma (the factor of an iteration) or eta_min (the last learning rate)')
    if gamma is not None:
        if not 0 < check_number('gamma', gamma) <= 1:
            raise ValueError(f'gamma must be above 0 and at most 1, got {gamma}')
        return gamma
    rates = {group['lr'] for group in optimizer.param_groups}
    if len(rates) > 1:
        raise ValueError(f'eta_min: the parameter groups start from different learning rates {sorted(rates)}: '
                         'give gamma instead')  # fmt: skip
    (rate,) = rates
    if not 0 < check_number('eta_min', eta_min) <= rate:
        raise ValueError(f'eta_min must be above 0 and at most lr = {rate}, got {eta_min}')
    steps = check_number('train.total_iter', total_iter, low=1) - 1
    return math.exp(math.log(eta_min / rate) / steps) if steps else 1.0
