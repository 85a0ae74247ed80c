"""Colour consistency: the coarse colours of a prediction against those of the ground truth."""

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.checks import check_images, check_number


class ColourLoss(nn.Module):
    """``mean |down(pred) - down(target)|`` with area downscaling: L1 on low frequencies only; lower is better.

    Judges hardly punish a drift of colours over an area; this does, while texture finer than ``factor`` px is free.
    With ``factor`` 1 it is L1, with a factor of the image's size it compares mean colours.

    Args:
        factor (int): px a side of the areas that are averaged. Areas at the right and bottom border are smaller where
            it does not divide the size, and count as much as the others.
        loss_weight (float): factor >= 0; inside ``LossSum`` use the term's ``weight`` instead.
    """

    unit_rgb = True  # LossSum hands over RGB in [0, 1]

    def __init__(self, factor=8, loss_weight=1.0):
        super().__init__()
        self.factor = check_number('factor', factor, low=1, integer=True)
        self.loss_weight = check_number('loss_weight', loss_weight, low=0)

    def forward(self, pred, target):
        """``pred`` and ``target`` of one shape, ``(N, 3, H, W)`` or ``(N, T, 3, H, W)``, give a 0-d tensor.

        Raises:
            ValueError: another or no common shape.
        """
        for name, images in (('pred', pred), ('target', target)):
            check_images(name, images, dims=(4, 5), needed_by='ColourLoss')
        if pred.shape != target.shape:
            raise ValueError(f'ColourLoss: pred is {tuple(pred.shape)} but target is {tuple(target.shape)}')
        return (self._coarse(pred) - self._coarse(target)).abs().mean() * self.loss_weight

    def _coarse(self, images):
        images = images.flatten(0, -4)
        images = images.to(torch.promote_types(images.dtype, torch.float32))  # averages need more digits than bfloat16
        # The border's areas are divided by what they hold, since nothing is padded.
        return F.avg_pool2d(images, self.factor, ceil_mode=True)
