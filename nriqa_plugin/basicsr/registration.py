"""The list of everything that we put into BasicSR's registries."""

import importlib
import logging

import basicsr
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from nriqa_plugin.archs import RBPN, RLFN, VRT, DnCNN, SimpleVSR, SRGANDiscriminator
from nriqa_plugin.basicsr.basicvsrpp import mend_basicvsrpp
from nriqa_plugin.basicsr.lora import LoRANet
from nriqa_plugin.basicsr.loss_metric import calculate_loss
from nriqa_plugin.basicsr.losses import LossPair, LossSum
from nriqa_plugin.basicsr.metrics import calculate_iqa, calculate_relative_gain
from nriqa_plugin.basicsr.models import PerceptualModel
from nriqa_plugin.basicsr.several_gts import calculate_several_gts
from nriqa_plugin.losses import ColourLoss, FRIQALoss, LRConsistencyLoss, MDFLoss, NRIQALoss, TVLoss, VGGLoss
from nriqa_plugin.multigt import AMOSampler

logger = logging.getLogger('nriqa_plugin')


DATA_SETS = (
    ('nriqa_plugin.basicsr.data', 'CheckedPairedImageDataset'),
    ('nriqa_plugin.basicsr.degraded_data', 'DegradedImageDataset'),
    ('nriqa_plugin.basicsr.multigt_data', 'MultiGTDataset'),
    ('nriqa_plugin.basicsr.lr_only_data', 'LROnlyDataset'),
    ('nriqa_plugin.basicsr.moving_digits_data', 'MovingDigitsDataset'),
    ('nriqa_plugin.basicsr.clip_data', 'ClipFolderDataset'),
    ('nriqa_plugin.basicsr.clip_test_data', 'ClipFolderTestDataset'),
)


def _data_sets():
    """Papers carry copies of basicsr from which they have cut the data sets that they do not use."""
    found = []
    for module, name in DATA_SETS:
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ImportError as error:
            if not (error.name or '').startswith('basicsr.'):
                raise
            logger.warning('the basicsr at %s has no %s: %s is not registered', basicsr.__path__[0], error.name, name)
    return tuple(found)


REGISTERED = (
    (LOSS_REGISTRY, (LossSum, LossPair, NRIQALoss, FRIQALoss, VGGLoss, MDFLoss, ColourLoss, TVLoss, LRConsistencyLoss)),
    # AMOSampler is no network, but build_network makes any module from its options.
    (ARCH_REGISTRY, (RBPN, RLFN, VRT, DnCNN, SRGANDiscriminator, SimpleVSR, LoRANet, AMOSampler)),
    (DATASET_REGISTRY, _data_sets()),
    (MODEL_REGISTRY, (PerceptualModel,)),
    (METRIC_REGISTRY, (calculate_iqa, calculate_relative_gain, calculate_loss, calculate_several_gts)),
)


def register_all():
    """Register everything once, and mend what the registered networks need; a second call does nothing.

    Raises:
        ValueError: another package has registered one of our names.
    """
    mend_basicvsrpp()
    for registry, things in REGISTERED:
        for thing in things:
            if thing.__name__ not in registry:
                registry.register(thing)
            elif (there := registry.get(thing.__name__)).__module__ != thing.__module__:
                raise ValueError(f'{thing.__name__} is already registered in BasicSR by {there.__module__}')
