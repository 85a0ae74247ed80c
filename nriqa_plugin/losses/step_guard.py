"""Drop an optimizer step whose gradients are not finite, and clip the others."""

import logging
import math

import torch

from nriqa_plugin.checks import check_number

LIMIT_IN_A_ROW = 10

logger = logging.getLogger('nriqa_plugin')


class StepGuard:
    """Runs before an optimizer's step, when gradients are already reduced: every rank decides alike.

    Args:
        clip_grad_norm (float | None): clip the total gradient norm to this.
        blame (Callable[[], str]): says which terms were not finite, for log and error.

    Attributes:
        skipped (int): steps dropped so far. A dropped step leaves weights and optimizer state untouched.
    """

    def __init__(self, clip_grad_norm=None, blame=lambda: ''):
        if clip_grad_norm is not None:
            check_number('clip_grad_norm', clip_grad_norm, low=1e-12)
        self.clip = clip_grad_norm
        self.blame = blame
        self.skipped = 0
        self.in_a_row = 0

    def attach(self, optimizer):
        """Guard this optimizer from now on."""
        optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)
        if torch.isfinite(norm):
            self.in_a_row = 0
            return
        for parameter in parameters:
            parameter.grad = None  # an optimizer leaves parameters without a gradient alone
        self.skipped += 1
        self.in_a_row += 1
        message = f'step dropped, its gradients are not finite ({self.in_a_row} in a row){self.blame()}'
        if self.in_a_row >= LIMIT_IN_A_ROW:
            raise FloatingPointError(f'{message}; lower the weight or the learning rate, or set clip_grad_norm')
        logger.warning(message)
