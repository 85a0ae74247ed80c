"""Training losses: judges with their direction handled, and a sum of terms that fits any pixel-loss slot."""

from nriqa_plugin.losses.colour_loss import ColourLoss
from nriqa_plugin.losses.iqa_loss import FRIQALoss, NRIQALoss
from nriqa_plugin.losses.loss_sum import LossSum
from nriqa_plugin.losses.lr_consistency import LRConsistencyLoss
from nriqa_plugin.losses.mdf_loss import MDFLoss
from nriqa_plugin.losses.pixel_loss import CharbonnierLoss
from nriqa_plugin.losses.slots import LossPair, check_slot
from nriqa_plugin.losses.smoothness import TVLoss
from nriqa_plugin.losses.vgg_loss import VGGLoss

__all__ = [
    'CharbonnierLoss',
    'ColourLoss',
    'FRIQALoss',
    'LRConsistencyLoss',
    'LossPair',
    'LossSum',
    'MDFLoss',
    'NRIQALoss',
    'TVLoss',
    'VGGLoss',
    'check_slot',
]
