"""The list of everything that we put into mmagic's registries."""

from mmagic.registry import HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS

from nriqa_plugin.archs import RLFN, DnCNN
from nriqa_plugin.losses import ColourLoss, TVLoss
from nriqa_plugin.mmagic.alarm import ArtifactAlarmHook
from nriqa_plugin.mmagic.gain import RelativeGain, RelativeGainHook
from nriqa_plugin.mmagic.hooks import PerceptualHook
from nriqa_plugin.mmagic.loss_metric import LossMetric
from nriqa_plugin.mmagic.losses import FRIQALoss, LossPair, LossSum, MDFLoss, NRIQALoss, VGGLoss
from nriqa_plugin.mmagic.metrics import IQAMetric
from nriqa_plugin.mmagic.schedulers import ExponentialToLR
from nriqa_plugin.mmagic.transforms import Degrade

REGISTERED = (
    (MODELS, (LossSum, LossPair, NRIQALoss, FRIQALoss, VGGLoss, MDFLoss, ColourLoss, TVLoss, RLFN, DnCNN)),
    (METRICS, (IQAMetric, RelativeGain, LossMetric)),
    (TRANSFORMS, (Degrade,)),
    (PARAM_SCHEDULERS, (ExponentialToLR,)),
    (HOOKS, (PerceptualHook, RelativeGainHook, ArtifactAlarmHook)),
)


def register_all():
    """Register everything once; a second call does nothing.

    Raises:
        ValueError: another package has registered one of our names.
    """
    for registry, things in REGISTERED:
        for thing in things:
            there = registry.module_dict.get(thing.__name__)
            if there is None:
                registry.register_module(module=thing)
            elif there.__module__ != thing.__module__:
                raise ValueError(f'{thing.__name__} is already registered in mmagic by {there.__module__}')
