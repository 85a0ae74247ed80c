"""BasicSR's BasicVSR++ on a CPU: two faults of its class, mended from outside, and its alignment made faster."""

import functools
import importlib
from types import SimpleNamespace
from unittest import mock

import torch
import torchvision

from nriqa_plugin.archs.deformable import deform_conv2d


def mend_basicvsrpp():
    """Give ``BasicVSRPlusPlus`` its alignment without CUDA, too, and let it forget a mirrored clip; once.

    The host adds ``deform_align`` only where CUDA is found, though torchvision's deformable convolution runs on a
    CPU: there the network would be another one, with another state dict. And having seen one clip that is its own
    mirror image in time (``flip_seq``, a still clip of even length) it takes every later clip for such a one. What
    its file calls ``torchvision.ops.deform_conv2d`` becomes :func:`nriqa_plugin.archs.deformable.deform_conv2d`.
    """
    try:
        module = importlib.import_module('basicsr.archs.basicvsrpp_arch')
    except ModuleNotFoundError:  # a copy of basicsr from which it was cut
        return
    network = module.BasicVSRPlusPlus
    if not hasattr(network.__init__, '__wrapped__'):
        network.__init__ = _with_alignment(network.__init__)
        ops = SimpleNamespace(**{**vars(torchvision.ops), 'deform_conv2d': deform_conv2d})
        module.torchvision = SimpleNamespace(**{**vars(torchvision), 'ops': ops})


def _with_alignment(stock):
    @functools.wraps(stock)
    def init(self, *args, **options):
        with mock.patch.object(torch.cuda, 'is_available', return_value=True):  # nothing goes to CUDA while building
            stock(self, *args, **options)
        self.register_forward_pre_hook(_forget_mirrored)

    return init


def _forget_mirrored(network, _):
    network.is_mirror_extended = False
