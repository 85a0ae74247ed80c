"""RLFN: a small, fast super-resolution network."""

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.checks import check_number, checks_options

BLOCKS = 6
ESA_CHANNELS = 16
# Below this the pooling inside the attention has nothing left: ((15 - 3) // 2 + 1) = 7, its window.
MIN_SIDE = 15


@checks_options
class RLFN(nn.Module):
    """Residual local feature network (Kong et al., CVPR workshops 2022), with the keys of the official RLFN-S weights.

    Args:
        in_channels (int): channels of the input.
        out_channels (int): channels of the output.
        feature_channels (int): width; 48 in RLFN-S.
        upscale (int): scale factor.
        img_range (float): the official weights work in 0..255 while both hosts feed [0, 1]: the input is multiplied
            and the output divided by this. 1 for a network trained in [0, 1] from scratch.

    Shapes: ``(N, in_channels, H, W)`` RGB in [0, 1] to ``(N, out_channels, upscale * H, upscale * W)``, not clipped.

    Raises:
        ValueError: an option out of range, or an input with a side below 15 px.
        TypeError: an option that is not a number.
    """

    def __init__(self, in_channels=3, out_channels=3, feature_channels=48, upscale=4, img_range=255.0):
        super().__init__()
        sizes = {'in_channels': in_channels, 'out_channels': out_channels}
        sizes |= {'feature_channels': feature_channels, 'upscale': upscale}
        for option, value in sizes.items():
            check_number(option, value, low=1, integer=True)
        if check_number('img_range', img_range, low=0) == 0:
            raise ValueError('img_range must be above 0, got 0')
        self.img_range = img_range
        self.conv_1 = _conv(in_channels, feature_channels, 3)
        for i in range(1, BLOCKS + 1):
            self.add_module(f'block_{i}', LocalFeatureBlock(feature_channels))
        self.conv_2 = _conv(feature_channels, feature_channels, 3)
        self.upsampler = nn.Sequential(
            _conv(feature_channels, out_channels * upscale**2, 3),
            nn.PixelShuffle(upscale),
        )

    def forward(self, x):
        if min(x.shape[-2:]) < MIN_SIDE:
            raise ValueError(f'RLFN needs at least {MIN_SIDE} px a side, got {tuple(x.shape)}')
        shallow = self.conv_1(x * self.img_range)
        deep = shallow
        for i in range(1, BLOCKS + 1):
            deep = getattr(self, f'block_{i}')(deep)
        return self.upsampler(self.conv_2(deep) + shallow) / self.img_range


class LocalFeatureBlock(nn.Module):
    """Three activated convolutions with a skip, a 1 x 1 convolution, then spatial attention: ``(N, C, H, W)`` kept."""

    def __init__(self, channels):
        super().__init__()
        self.c1_r = _conv(channels, channels, 3)
        self.c2_r = _conv(channels, channels, 3)
        self.c3_r = _conv(channels, channels, 3)
        self.c5 = _conv(channels, channels, 1)
        self.esa = SpatialAttention(channels)

    def forward(self, x):
        out = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            out = F.leaky_relu(conv(out), 0.05)
        return self.esa(self.c5(out + x))


class SpatialAttention(nn.Module):
    """Enhanced spatial attention, ESA (Liu et al., CVPR 2020), with one convolution at the coarse resolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = _conv(channels, ESA_CHANNELS, 1)
        self.conv_f = _conv(ESA_CHANNELS, ESA_CHANNELS, 1)
        self.conv2 = nn.Conv2d(ESA_CHANNELS, ESA_CHANNELS, 3, stride=2)
        self.conv3 = _conv(ESA_CHANNELS, ESA_CHANNELS, 3)
        self.conv4 = _conv(ESA_CHANNELS, channels, 1)

    def forward(self, x):
        narrow = self.conv1(x)
        coarse = self.conv3(F.max_pool2d(self.conv2(narrow), kernel_size=7, stride=3))
        coarse = F.interpolate(coarse, size=x.shape[-2:], mode='bilinear', align_corners=False)
        return x * torch.sigmoid(self.conv4(coarse + self.conv_f(narrow)))


def _conv(in_channels, out_channels, kernel):
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
