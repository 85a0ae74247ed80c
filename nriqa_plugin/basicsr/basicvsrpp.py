"""BasicSR's BasicVSR++ on a CPU: three faults of its class, mended from outside, and its alignment made faster."""

import functools
import importlib
import math
from types import SimpleNamespace
from unittest import mock

import torch
import torchvision

from nriqa_plugin.archs.deformable import deform_conv2d


def mend_basicvsrpp():
    """Give ``BasicVSRPlusPlus`` its alignment and long clips without CUDA, and let it forget a mirrored clip; once.

    The host adds ``deform_align`` only where CUDA is found, though torchvision's deformable convolution runs on a
    CPU: there the network would be another one, with another state dict. And having seen one clip that is its own
    mirror image in time (``flip_seq``, a still clip of even length) it takes every later clip for such a one. And
    of a clip longer than ``cpu_cache_length`` it moves features between CPU and GPU, also where there is none. What
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
        self.register_forward_pre_hook(functools.partial(_before_a_clip, cache_length=self.cpu_cache_length))

    return init


def _before_a_clip(network, _, cache_length):
    network.is_mirror_extended = False
    on_cpu = next(network.parameters()).device.type == 'cpu'
    network.cpu_cache_length = math.inf if on_cpu else cache_length
