"""The list of everything that we put into mmagic's registries."""

from mmagic.registry import DATASETS, HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS

from nriqa_plugin.archs import RBPN, RLFN, VRT, DnCNN, SimpleVSR, SRGANDiscriminator
from nriqa_plugin.losses import ColourLoss, LRConsistencyLoss, TVLoss
from nriqa_plugin.mmagic.alarm import ArtifactAlarmHook
from nriqa_plugin.mmagic.clip_data import ClipCrop, ClipFolderDataset, ClipWindow
from nriqa_plugin.mmagic.gain import RelativeGain, RelativeGainHook
from nriqa_plugin.mmagic.gt_free import AnchorHook
from nriqa_plugin.mmagic.hooks import PerceptualHook
from nriqa_plugin.mmagic.lora import LoRANet
from nriqa_plugin.mmagic.loss_metric import LossMetric
from nriqa_plugin.mmagic.losses import FRIQALoss, LossPair, LossSum, MDFLoss, NRIQALoss, VGGLoss
from nriqa_plugin.mmagic.metrics import IQAMetric
from nriqa_plugin.mmagic.moving_digits_data import MovingDigitsDataset
from nriqa_plugin.mmagic.multigt import MultiGTPreprocessor
from nriqa_plugin.mmagic.multigt_data import (
    LoadGroundTruths,
    MultiGTCrop,
    MultiGTDataset,
    OriginalToLQ,
    PackGroundTruths,
)
from nriqa_plugin.mmagic.schedulers import ExponentialToLR
from nriqa_plugin.mmagic.several_gts import SeveralGTsMetric
from nriqa_plugin.mmagic.transforms import Degrade
from nriqa_plugin.multigt import AMOSampler

LOSSES = (LossSum, LossPair, NRIQALoss, FRIQALoss, VGGLoss, MDFLoss, ColourLoss, TVLoss, LRConsistencyLoss)
REGISTERED = (
    (MODELS, (*LOSSES, RBPN, RLFN, VRT, DnCNN, SimpleVSR, SRGANDiscriminator)),
    (MODELS, (LoRANet, AMOSampler, MultiGTPreprocessor)),
    (METRICS, (IQAMetric, RelativeGain, LossMetric, SeveralGTsMetric)),
    (DATASETS, (MultiGTDataset, ClipFolderDataset, MovingDigitsDataset)),
    (TRANSFORMS, (Degrade, ClipWindow, ClipCrop, LoadGroundTruths, MultiGTCrop, OriginalToLQ, PackGroundTruths)),
    (PARAM_SCHEDULERS, (ExponentialToLR,)),
    (HOOKS, (PerceptualHook, RelativeGainHook, ArtifactAlarmHook, AnchorHook)),
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
