"""Enhancers that need no network: sharpening, denoising and stronger detail, by plain filters."""

import torch
import torch.nn.functional as F

from nriqa_plugin.checks import check_number
from nriqa_plugin.multigt.enhancer import Enhancer


class Unsharp(Enhancer):
    """Unsharp masking: ``image + amount * (image - blurred image)``.

    Args:
        amount (float): >= 0; at 0 the image stays as it is.
        sigma (float): of the Gaussian blur, in px, > 0.
    """

    def __init__(self, amount=1.0, sigma=1.5):
        self.amount = check_number('unsharp: amount', amount, low=0)
        self.sigma = check_number('unsharp: sigma', sigma, low=0.1)
        self.overlap = _radius(self.sigma)

    def enhance(self, images):
        return images + self.amount * (images - gaussian_blur(images, self.sigma))


class Denoise(Enhancer):
    """Edge-preserving smoothing by the guided filter (He et al., TPAMI 2013), guided by the image itself.

    Windows whose variance is far below ``strength ** 2`` become their mean, those far above stay.

    Args:
        strength (float): about the noise's standard deviation, of a range of [0, 1], > 0.
        radius (int): of the windows in px, at least 1.
    """

    def __init__(self, strength=0.04, radius=2):
        self.strength = check_number('denoise: strength', strength, low=1e-6)
        self.radius = check_number('denoise: radius', radius, low=1, integer=True)
        self.overlap = 2 * self.radius  # means of means

    def enhance(self, images):
        return guided_filter(images, self.radius, self.strength**2)


class Detail(Enhancer):
    """``base + (1 + amount) * (image - base)``, base being the guided filter's: contrast of texture without halos.

    Args:
        amount (float): >= 0; at 0 the image stays as it is.
        strength, radius: as in :class:`Denoise`.
    """

    def __init__(self, amount=0.8, strength=0.1, radius=4):
        self.amount = check_number('detail: amount', amount, low=0)
        self.strength = check_number('detail: strength', strength, low=1e-6)
        self.radius = check_number('detail: radius', radius, low=1, integer=True)
        self.overlap = 2 * self.radius

    def enhance(self, images):
        base = guided_filter(images, self.radius, self.strength**2)
        return images + self.amount * (images - base)


def gaussian_blur(images, sigma):
    """Blur ``(N, C, H, W)``; the kernel is cut at three sigma, the border is repeated."""
    radius = _radius(sigma)
    place = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    images = F.pad(images, (radius,) * 4, mode='replicate')
    images = F.conv2d(images, kernel[..., None, :], groups=images.shape[1])
    return F.conv2d(images, kernel[..., :, None], groups=images.shape[1])


def guided_filter(images, radius, epsilon):
    """The guided filter with the image as its own guide, channel by channel, ``(N, C, H, W)``.

    As ``epsilon`` goes to 0 the image stays as it is; as it goes to infinity windows become means of means.
    """
    mean = _box(images, radius)
    variance = (_box(images.square(), radius) - mean.square()).clamp(min=0)
    slope = variance / (variance + epsilon)
    return _box(slope, radius) * images + _box(mean - slope * mean, radius)


def _radius(sigma):
    return max(1, round(3 * sigma))


def _box(images, radius):
    """Mean over windows of ``2 * radius + 1`` px, over what of them lies inside the image."""
    return F.avg_pool2d(images, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
