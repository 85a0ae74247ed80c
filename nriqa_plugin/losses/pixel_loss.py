"""Pixel loss for use without a framework; the frameworks bring their own."""

import torch
from torch import nn

from nriqa_plugin.checks import check_number


class CharbonnierLoss(nn.Module):
    """``mean(sqrt((pred - target)^2 + eps))``, a smooth L1 (Lai et al., LapSRN, CVPR 2017); lower is better.

    Args:
        eps (float): added under the root; as ``eps -> 0`` the loss becomes L1. Must be positive, else the
            gradient of equal pixels is NaN.
    """

    def __init__(self, eps=1e-12):
        super().__init__()
        self.eps = check_number('eps', eps, low=1e-30)

    def forward(self, pred, target):
        """``pred`` and ``target`` of one shape give a 0-d tensor."""
        return torch.sqrt((pred - target).square() + self.eps).mean()
