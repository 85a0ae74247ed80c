"""The sum of terms, with BasicSR's own registered losses as further term types."""

from basicsr.utils.registry import LOSS_REGISTRY

from nriqa_plugin import losses
from nriqa_plugin.checks import unknown_name
from nriqa_plugin.losses.loss_sum import OWN_LOSSES


class FindsHostLosses:
    """Looks a term's type up among our losses, then in BasicSR's registry."""

    def find_loss(self, type_name):
        if type_name in OWN_LOSSES or ':' in type_name:
            return super().find_loss(type_name)
        for name in (type_name, f'{type_name}_basicsr'):
            if name in LOSS_REGISTRY:
                return LOSS_REGISTRY.get(name)
        raise unknown_name('loss type', type_name, {*OWN_LOSSES, *LOSS_REGISTRY.keys()})


class LossSum(FindsHostLosses, losses.LossSum):
    """:class:`nriqa_plugin.losses.LossSum` for ``train.pixel_opt``."""


class LossPair(FindsHostLosses, losses.LossPair):
    """:class:`nriqa_plugin.losses.LossPair` for ``train.perceptual_opt``."""
