"""Consistency with the low-resolution input: the prediction, downscaled, against what the network was given."""

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.checks import check_choice, check_images, check_number, checks_options

DOWNSCALING = ('bicubic', 'area')


@checks_options
class LRConsistencyLoss(nn.Module):
    """``mean |down(pred) - lq|``; lower is better. It needs no ground truth, so it holds where there is none.

    The network's input reaches it through :meth:`set_lq`, which ``LossSum`` passes on: BasicSR's ``PerceptualModel``
    and mmagic's ``PerceptualHook`` call it at every step. What the downscaling cannot see stays free: it ties colours
    and coarse structure, not texture. Of a crop, the outer two px lack their neighbours in ``bicubic``: the right
    prediction differs there by 0.002 to 0.004 (8-bit Kodak images, x4), inside by 0.001, which is rounding.

    Args:
        downscaling (str): ``bicubic`` (with anti-aliasing, as Pillow; as MATLAB but for the two px at each side, where
            that mirrors the image) or ``area`` (means of blocks; where sizes do not divide, of adaptive ones). Take
            that by which the LR images were made; for photographs, whose lens and sensor average, ``area`` is nearer.
        loss_weight (float): factor >= 0; inside ``LossSum`` use the term's ``weight`` instead.
    """

    unit_rgb = True  # LossSum hands over RGB in [0, 1]

    def __init__(self, downscaling='bicubic', loss_weight=1.0):
        super().__init__()
        self.downscaling = check_choice('downscaling', downscaling, DOWNSCALING)
        self.loss_weight = check_number('loss_weight', loss_weight, low=0)
        self.lq = None

    def set_lq(self, lq):
        """Tell the network's input of the next call, ``(N, 3, h, w)`` or ``(N, T, 3, h, w)``, RGB in [0, 1]."""
        self.lq = lq.detach()

    def forward(self, pred, target=None):
        """``pred``, ``(N, 3, H, W)`` or ``(N, T, 3, H, W)``, gives a 0-d tensor; ``target`` is not used.

        Raises:
            ValueError: nobody has told the input since the last call, or it is no smaller version of ``pred``.
        """
        if self.lq is None:
            raise ValueError('LRConsistencyLoss: nobody told it the LR image: use it as a term of LossSum with '
                             'model_type: PerceptualModel (BasicSR) or PerceptualHook (mmagic), or call set_lq(lq) '
                             'before every call')  # fmt: skip
        lq, self.lq = self.lq, None  # an input of an earlier step is never taken
        for name, images in (('pred', pred), ('lq', lq)):
            check_images(name, images, dims=(4, 5), needed_by='LRConsistencyLoss')
        if pred.shape[:-2] != lq.shape[:-2] or any(a < b for a, b in zip(pred.shape[-2:], lq.shape[-2:], strict=True)):
            raise ValueError(
                f'LRConsistencyLoss: lq {tuple(lq.shape)} is no smaller version of pred {tuple(pred.shape)}'
            )
        pred, lq = (images.to(torch.promote_types(images.dtype, torch.float32)) for images in (pred, lq))
        small = downscale(pred.flatten(0, -4), lq.shape[-2:], self.downscaling)
        return (small - lq.flatten(0, -4)).abs().mean() * self.loss_weight


def downscale(images, size, how):
    """``(N, C, H, W)`` to ``(N, C, *size)``; differentiable, equal sizes give the images themselves."""
    if how == 'area':
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=tuple(size), mode='bicubic', align_corners=False, antialias=True)
