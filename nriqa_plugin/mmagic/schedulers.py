"""``ExponentialToLR``: exponential decay named by where it ends."""

import math

from mmengine.optim.scheduler import ExponentialLR

from nriqa_plugin.checks import check_number


class ExponentialToLR(ExponentialLR):
    """The learning rate falls by one factor an iteration and is ``eta_min`` at the last one.

    ``param_scheduler = dict(type='ExponentialToLR', by_epoch=False, eta_min=1e-4)``: the factor follows from the
    optimizer's ``lr`` and ``train_cfg.max_iters``, so that it is right for a run of any length.

    Args:
        optimizer: mmengine's.
        eta_min (float): learning rate of the last iteration (epoch with ``by_epoch``); at most ``lr``.
        end (int): mmengine fills in ``max_iters`` or ``max_epochs``.
        begin, last_step, by_epoch, verbose: as in mmengine's ``ExponentialLR``.

    Raises:
        ValueError, TypeError: ``eta_min`` that is no positive number or above ``lr``.
    """

    def __init__(self, optimizer, eta_min, end, begin=0, last_step=-1, by_epoch=True, verbose=False):
        rate = max(group.get('initial_lr', group['lr']) for group in optimizer.param_groups)
        if not 0 < check_number('ExponentialToLR: eta_min', eta_min) <= rate:
            raise ValueError(f'ExponentialToLR: eta_min must be above 0 and at most lr = {rate}, got {eta_min}')
        gamma = math.exp(math.log(eta_min / rate) / max(1, end - begin - 1))
        super().__init__(
            optimizer, gamma, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose
        )
