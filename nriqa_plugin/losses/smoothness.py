"""Total variation: how much neighbouring pixels of a prediction differ."""

import torch
from torch import nn

from nriqa_plugin.checks import check_flag, check_number


class TVLoss(nn.Module):
    """Anisotropic total variation (after Rudin, Osher and Fatemi, Physica D 1992); lower is better.

    The mean absolute difference of vertical neighbours plus that of horizontal ones. A flat image gives 0, and so
    nothing is sharp if the weight is large: a small one beside other terms takes away dots and ringing.

    Args:
        loss_weight (float): factor >= 0; inside ``LossSum`` use the term's ``weight`` instead.
        squared (bool): squared instead of absolute differences, as in the PyTorch versions of SRGAN and iSeeBetter,
            whose loss is twice this one.
    """

    unit_rgb = True  # LossSum hands over RGB in [0, 1]

    def __init__(self, loss_weight=1.0, squared=False):
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight, low=0)
        self.squared = check_flag('squared', squared)

    def forward(self, pred, target=None):
        """``pred`` of the shape ``(N, C, H, W)`` or ``(N, T, C, H, W)`` gives a 0-d tensor; no target is needed.

        Raises:
            ValueError: another shape, or a side of a single px.
        """
        if pred.dim() not in (4, 5) or min(pred.shape[-2:]) < 2:
            raise ValueError('TVLoss wants (N, C, H, W) or (N, T, C, H, W) with sides of at least 2 px, '
                             f'got {tuple(pred.shape)}')  # fmt: skip
        vertical = pred[..., 1:, :] - pred[..., :-1, :]
        horizontal = pred[..., :, 1:] - pred[..., :, :-1]
        distance = torch.square if self.squared else torch.abs
        return (distance(vertical).mean() + distance(horizontal).mean()) * self.loss_weight
