"""SpyNet: optical flow from coarse to fine, small enough to sit inside a video network."""

import itertools
import re

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.checks import check_choice, check_number, checks_options, fill_weights, load_weights

LEVELS = 6
WIDTHS = (8, 32, 64, 32, 16, 2)  # in: both frames and the flow so far; out: what to add to it, x then y
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MMAGIC_KEY = re.compile(r'(basic_module\.\d+\.basic_module\.)(\d+)\.conv\.(weight|bias)')


@checks_options
class SpyNet(nn.Module):
    """Spatial pyramid network (Ranjan and Black, CVPR 2017), with the keys of BasicSR's and VRT's files.

    Every level warps the second frame by twice the flow of the level below and adds what one small network sees
    missing. A file of mmagic's (``basic_module.0.basic_module.0.conv.weight``) is renamed while it is loaded; the
    normalisation's ``mean`` and ``std`` may be missing from a file.

    Args:
        levels (int): pyramid levels; 6 in all published weights.

    Raises:
        ValueError, TypeError: ``levels`` is no whole number above 0.
    """

    def __init__(self, levels=LEVELS):
        super().__init__()
        self.levels = check_number('levels', levels, low=1, integer=True)
        self.basic_module = nn.ModuleList(FlowLevel() for _ in range(self.levels))
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self._register_load_state_dict_pre_hook(_rename_mmagic_keys, with_module=True)

    @property
    def min_side(self):
        """The side in px below which the coarsest level has less than one pixel: 32 for six levels."""
        return 2 ** (self.levels - 1)

    def forward(self, ref, supp, return_levels=None):
        """The flow from ``ref`` to ``supp``: ``ref[y, x]`` shows what ``supp[y + flow[1], x + flow[0]]`` shows.

        Args:
            ref, supp (Tensor): ``(N, 3, H, W)`` RGB in [0, 1]. Sides that are no multiple of ``min_side`` are resized
                up to one for the computation and the flow is resized and rescaled back, as in both hosts.
            return_levels (sequence of int, optional): pyramid levels, 0 the coarsest; default the finest only.

        Returns:
            Tensor or list: ``(N, 2, H, W)``, x then y, in pixels. For more than one level a list, the finest first
            whatever the order asked for; level ``levels - 1 - i`` has the size ``(H // 2**i, W // 2**i)`` and its
            flow is in pixels of that size.

        Raises:
            ValueError: frames of different or wrong shapes, a side below ``min_side``, or an unknown level.
        """
        wanted = self._check(ref, supp, return_levels)
        height, width = ref.shape[-2:]
        step = self.min_side
        even = (-(-height // step) * step, -(-width // step) * step)
        pyramids = [self._pyramid(_resize(frames, even)) for frames in (ref, supp)]

        flow = ref.new_zeros(ref.shape[0], 2, even[0] // step, even[1] // step)
        flows = []
        for level, (refs, supps) in enumerate(zip(*pyramids, strict=True)):
            if level:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode='bilinear', align_corners=True)
            warped = flow_warp(supps, flow.permute(0, 2, 3, 1), padding='border')
            flow = flow + self.basic_module[level](torch.cat([refs, warped, flow], 1))
            if level in wanted:
                shrink = 2 ** (self.levels - 1 - level)
                flows.insert(0, resize_flow(flow, (height // shrink, width // shrink)))
        return flows[0] if len(flows) == 1 else flows

    def _check(self, ref, supp, return_levels):
        if ref.dim() != 4 or ref.shape[1] != 3 or ref.shape != supp.shape:
            raise ValueError(f'SpyNet wants two frames (N, 3, H, W) of one size, got {tuple(ref.shape)} and '
                             f'{tuple(supp.shape)}')  # fmt: skip
        if min(ref.shape[-2:]) < self.min_side:
            raise ValueError(f'SpyNet needs at least {self.min_side} px a side for its {self.levels} levels, got '
                             f'{tuple(ref.shape)}')  # fmt: skip
        wanted = {self.levels - 1} if return_levels is None else set(return_levels)
        if not wanted:
            raise ValueError('return_levels must name at least one level')
        return {check_choice('return_levels', level, range(self.levels)) for level in wanted}

    def _pyramid(self, frames):
        """Normalised frames, the coarsest first."""
        steps = [(frames - self.mean) / self.std]
        for _ in range(self.levels - 1):
            steps.append(F.avg_pool2d(steps[-1], 2))
        return steps[::-1]


class FlowLevel(nn.Module):
    """One level's network: ``(N, 8, H, W)`` of reference, warped frame and flow to a correction ``(N, 2, H, W)``."""

    def __init__(self):
        super().__init__()
        layers = []
        for inside, outside in itertools.pairwise(WIDTHS):
            layers += [nn.Conv2d(inside, outside, 7, padding=3), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.basic_module(x)


def flow_warp(x, flow, mode='bilinear', padding='zeros'):
    """Look ``x`` up at displaced positions: ``out[y, x] = x[y + flow[1], x + flow[0]]``.

    Args:
        x (Tensor): ``(N, C, H, W)``.
        flow (Tensor): ``(N, H, W, 2)``, x then y, in pixels.
        mode (str): ``bilinear`` or ``nearest``.
        padding (str): what lies outside: ``zeros``, ``border`` or ``reflection``.

    Returns:
        Tensor: ``(N, C, H, W)`` of the type of ``x``. Positions are float32 at least: in float16 they are half a pixel
        apart from 1024 on, and bfloat16 counts to 256 only.

    Raises:
        ValueError: the sizes differ, or an unknown mode or padding.
    """
    if flow.shape != (x.shape[0], *x.shape[-2:], 2):
        raise ValueError(f'flow_warp wants a flow (N, H, W, 2) of the size of x {tuple(x.shape)}, '
                         f'got {tuple(flow.shape)}')  # fmt: skip
    check_choice('mode', mode, ('bilinear', 'nearest'))
    check_choice('padding', padding, ('zeros', 'border', 'reflection'))
    height, width = x.shape[-2:]
    dtype = torch.promote_types(torch.promote_types(x.dtype, flow.dtype), torch.float32)
    rows = torch.arange(height, device=flow.device, dtype=dtype)
    columns = torch.arange(width, device=flow.device, dtype=dtype)
    where = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), -1) + flow
    # grid_sample counts from -1 to 1, here between the centres of the outermost pixels.
    where = 2 * where / where.new_tensor([max(width - 1, 1), max(height - 1, 1)]) - 1
    return F.grid_sample(x.to(dtype), where, mode=mode, padding_mode=padding, align_corners=True).to(x.dtype)


def resize_flow(flow, size):
    """A flow ``(N, 2, H, W)`` at another ``size`` ``(H, W)``, its vectors in pixels of the new size."""
    factors = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
    return _resize(flow, size) * factors.view(1, 2, 1, 1)


def load_spynet(module, path):
    """Fill a ``SpyNet`` from a local file of BasicSR's (``params``), mmagic's (``state_dict``) or a bare state dict.

    Returns:
        SpyNet: ``module``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of such a network.
    """
    state = load_weights('spynet_path', path)
    for holder in ('params', 'state_dict'):
        if isinstance(state, dict) and isinstance(state.get(holder), dict):
            state = state[holder]
    if isinstance(state, dict):
        state = dict(state)
        _rename_mmagic_keys(module, state, '')
    fill_weights('spynet_path', path, module, state)
    return module


def _rename_mmagic_keys(module, state, prefix, *_):
    """In place: mmagic counts the convolutions only (0..4), the other files the activations too (0, 2, .. 8)."""
    for key in [key for key in state if key.startswith(prefix)]:
        match = MMAGIC_KEY.fullmatch(key[len(prefix) :])
        if match:
            stem, index, kind = match.groups()
            state[f'{prefix}{stem}{2 * int(index)}.{kind}'] = state.pop(key)
    for name in ('mean', 'std'):
        state.setdefault(f'{prefix}{name}', getattr(module, name))


def _resize(images, size):
    return F.interpolate(images, size=size, mode='bilinear', align_corners=False)
