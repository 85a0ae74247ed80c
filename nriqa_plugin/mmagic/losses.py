"""Our losses for mmagic's registry: they follow the runner's iteration, and terms may be mmagic's own losses."""

import inspect

import torch
from mmagic.registry import MODELS
from mmengine.logging import MessageHub

from nriqa_plugin import losses
from nriqa_plugin.checks import check_keys, unknown_name
from nriqa_plugin.losses.loss_sum import OWN_LOSSES


class InRunner:
    """Laid over a loss of the core: tells it the runner's iteration and explains what configs get wrong."""

    def __init__(self, *args, **options):
        core = next(cls for cls in type(self).__mro__ if cls.__module__.startswith('nriqa_plugin.losses.'))
        try:
            check_keys(type(self).__name__, options, inspect.signature(core).parameters)
        except ValueError as error:
            raise ValueError(
                f'{error}; if this key comes from the config in _base_, replace its loss instead of merging with it: '
                f"dict(_delete_=True, type='{type(self).__name__}', ...)"
            ) from error
        super().__init__(*args, **options)

    def forward(self, pred, target=None):
        """As in the core; refuses what mmagic's models hand over that is no batch of images."""
        if pred.dim() not in (4, 5):
            raise ValueError(
                f'{type(self).__name__} wants images (N, C, H, W) or clips (N, T, C, H, W), got {tuple(pred.shape)}: '
                'point samples as in LIIF are no image, no judge can score them'
            )
        runtime = MessageHub.get_current_instance().runtime_info
        if runtime.get('loop_stage') == 'train' and torch.is_grad_enabled():
            self.set_iteration(runtime['iter'] + 1)
        return super().forward(pred, target)


class FindsHostLosses:
    """Looks a term's type up among our losses, then in mmagic's registry."""

    def find_loss(self, type_name):
        if type_name in OWN_LOSSES or ':' in type_name:
            return super().find_loss(type_name)
        found = MODELS.get(type_name)
        if found is None:
            host = {name for name in MODELS.module_dict if name.endswith('Loss')}
            raise unknown_name('loss type', type_name, {*OWN_LOSSES, *host})
        return found


class LossSum(InRunner, FindsHostLosses, losses.LossSum):
    """:class:`nriqa_plugin.losses.LossSum` for ``model.pixel_loss``."""


class LossPair(InRunner, FindsHostLosses, losses.LossPair):
    """:class:`nriqa_plugin.losses.LossPair` for ``model.perceptual_loss``."""


class NRIQALoss(InRunner, losses.NRIQALoss):
    """:class:`nriqa_plugin.losses.NRIQALoss` alone in a slot; inside a ``LossSum`` it is a term."""


class FRIQALoss(InRunner, losses.FRIQALoss):
    """:class:`nriqa_plugin.losses.FRIQALoss` alone in a slot; inside a ``LossSum`` it is a term."""


class VGGLoss(InRunner, losses.VGGLoss):
    """:class:`nriqa_plugin.losses.VGGLoss` alone in a slot; inside a ``LossSum`` it is a term."""


class MDFLoss(InRunner, losses.MDFLoss):
    """:class:`nriqa_plugin.losses.MDFLoss` alone in a slot; inside a ``LossSum`` it is a term."""
