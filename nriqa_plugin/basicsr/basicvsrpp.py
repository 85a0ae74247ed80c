"""BasicSR's BasicVSR++: faults of its class mended from outside, its alignment on a CPU, bad options named."""

import functools
import importlib
import inspect
import math
from types import SimpleNamespace
from unittest import mock

import torch
import torchvision

from nriqa_plugin.archs.deformable import deform_conv2d
from nriqa_plugin.archs.spynet import load_spynet

MIN_SIDE = 64  # of the frames in which the host looks for flow, in px


def mend_basicvsrpp():
    """Give ``BasicVSRPlusPlus`` its alignment and long clips without CUDA, and let it forget a mirrored clip; once.

    The host adds ``deform_align`` only where CUDA is found, though torchvision's deformable convolution runs on a
    CPU: there the network would be another one, with another state dict. And having seen one clip that is its own
    mirror image in time (``flip_seq``, a still clip of even length) it takes every later clip for such a one. And
    of a clip longer than ``cpu_cache_length`` it moves features between CPU and GPU, also where there is none. What
    its file calls ``torchvision.ops.deform_conv2d`` becomes :func:`nriqa_plugin.archs.deformable.deform_conv2d`.
    ``spynet_path`` is read by :func:`nriqa_plugin.archs.spynet.load_spynet`, whose errors name the file.
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


def check_gt_size(network, opt):
    """Check that the crops of a training suffice for BasicVSR++, also within LoRA; others are let through.

    Raises:
        ValueError: ``datasets.train.gt_size`` gives LQ frames that the host would refuse in the first step.
    """
    data = (opt.get('datasets') or {}).get('train') or {}
    side, scale = data.get('gt_size'), opt.get('scale', 1)
    wanted = getattr(network, 'min_lq_side', 0)
    if side is not None and side // scale < wanted:
        raise ValueError(
            f'datasets.train.gt_size must be at least {wanted * scale}: BasicVSRPlusPlus needs LQ frames of at least '
            f'{wanted} px a side, gt_size {side} at scale {scale} gives {side // scale}'
        )


def _with_alignment(stock):
    @functools.wraps(stock)
    def init(self, *args, **options):
        given = inspect.signature(stock).bind(self, *args, **options)
        spynet_path = given.arguments.pop('spynet_path', None)
        with mock.patch.object(torch.cuda, 'is_available', return_value=True):  # nothing goes to CUDA while building
            stock(*given.args, **given.kwargs)
        if spynet_path:
            load_spynet(self.spynet, spynet_path)
        self.min_lq_side = MIN_SIDE if self.is_low_res_input else 4 * MIN_SIDE  # it shrinks the others by 4
        self.register_forward_pre_hook(functools.partial(_before_a_clip, cache_length=self.cpu_cache_length))

    return init


def _before_a_clip(network, _, cache_length):
    network.is_mirror_extended = False
    on_cpu = next(network.parameters()).device.type == 'cpu'
    network.cpu_cache_length = math.inf if on_cpu else cache_length
