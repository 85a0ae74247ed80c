"""mmagic's BasicVSR++: options that the host takes and fails on later are refused by their names."""

import functools
import math

from mmagic.models.editors.basicvsr.basicvsr_net import SPyNet
from mmagic.models.editors.basicvsr_plusplus_net.basicvsr_plusplus_net import BasicVSRPlusPlusNet

from nriqa_plugin.checks import load_weights

MIN_SIDE = 64  # of the frames in which the host looks for flow, in px
CROPS = ('gt_patch_size', 'gt_size')  # what the host's PairedRandomCrop and our ClipCrop call the side of a crop


def name_bad_flow_files():
    """Let a bad ``spynet_pretrained`` of BasicVSR, IconVSR, RealBasicVSR or BasicVSR++ be named by its option; once.

    Addresses (``https://``, ``open-mmlab://``, ...) are the host's affair.
    """
    if not hasattr(SPyNet.__init__, '__wrapped__'):
        SPyNet.__init__ = _with_checked_file(SPyNet.__init__)


def _with_checked_file(stock):
    @functools.wraps(stock)
    def init(self, pretrained):
        if isinstance(pretrained, str) and '://' not in pretrained:
            load_weights('spynet_pretrained', pretrained)
        stock(self, pretrained)

    return init


def check_lq_size(generator, data_loader, data_batch):
    """Check that a batch of training clips suffices for BasicVSR++, also within LoRA; others are let through.

    Raises:
        ValueError: the host would refuse its LQ frames; the message names the crop of the pipeline.
    """
    network = getattr(generator, 'base', generator)
    if not isinstance(network, BasicVSRPlusPlusNet):
        return
    wanted = MIN_SIDE if network.is_low_res_input else 4 * MIN_SIDE  # it shrinks the others by 4
    side = min(min(clip.shape[-2:]) for clip in data_batch['inputs'])
    if side < wanted:
        cause = _cause(data_loader.dataset, wanted / side)
        raise ValueError(f'train_dataloader.dataset: BasicVSRPlusPlusNet needs LQ frames of at least {wanted} px a '
                         f'side, the first batch has {side}{cause}')  # fmt: skip


def _cause(data_set, factor):
    """Which option of the pipeline cuts the frames, and what it must be at least; '' where nothing cuts them."""
    for transform in getattr(getattr(data_set, 'pipeline', None), 'transforms', ()):
        for option in CROPS:
            if given := getattr(transform, option, None):
                name = type(transform).__name__
                return f': {option} of {name} in its pipeline is {given}, write at least {math.ceil(given * factor)}'
    return ''
