"""Training losses: judges with their direction handled, and a sum of terms that fits any pixel-loss slot."""

from nriqa_plugin.losses.iqa_loss import FRIQALoss, NRIQALoss
from nriqa_plugin.losses.loss_sum import LossPair, LossSum, check_slot
from nriqa_plugin.losses.pixel_loss import CharbonnierLoss

__all__ = ['CharbonnierLoss', 'FRIQALoss', 'LossPair', 'LossSum', 'NRIQALoss', 'check_slot']
