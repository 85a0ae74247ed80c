"""MATLAB's antialiased bicubic downscaling by a whole number, as both hosts' ``imresize`` does it, on any device."""

import torch
from torch.nn import functional

from nriqa_plugin.checks import check_number


def bicubic_down(images, scale):
    """Downscale like MATLAB's ``imresize(image, 1 / scale)``: Keys' cubic (a = -1/2) widened by ``scale``.

    Args:
        images (Tensor): ``(..., H, W)``, floating point, any range; H and W are multiples of ``scale``.
        scale (int): at least 1; 1 gives the images back.

    Returns:
        Tensor: ``(..., H / scale, W / scale)``, neither clipped nor rounded; differentiable. Beyond its sides an image
        goes on mirrored, the outermost px twice.

    Raises:
        ValueError: H or W is no multiple of ``scale``.
    """
    scale = check_number('scale', scale, low=1, integer=True)
    if images.shape[-1] % scale or images.shape[-2] % scale:
        raise ValueError(f'the size {images.shape[-1]} x {images.shape[-2]} px is no multiple of scale: {scale}')
    if scale == 1:
        return images
    taps, before = _cubic_taps(scale)
    taps = taps.to(images)
    rows = filter_rows(images.transpose(-1, -2), taps, before, scale).transpose(-1, -2)
    return filter_rows(rows, taps, before, scale)


def filter_rows(images, taps, before, stride=1):
    """Correlate the last dimension of ``(..., L)`` with ``taps``, which begin ``before`` px ahead; sides mirrored."""
    length = images.shape[-1]
    index = torch.arange(-before, length - stride + len(taps) - before, device=images.device) % (2 * length)
    lines = images.index_select(-1, torch.where(index < length, index, 2 * length - 1 - index))
    found = functional.conv1d(lines.reshape(-1, 1, lines.shape[-1]), taps.view(1, 1, -1), stride=stride)
    return found.view(*lines.shape[:-1], -1)


def to_8_bits(images):
    """What is left of images in [0, 1] when they are stored with 8 bits: clipped and rounded, same type."""
    return (images.clamp(0, 1) * 255).round() / 255


def cubic(x):
    """Keys' kernel with a = -1/2: 1 at 0, 0 at the other whole numbers, support (-2, 2)."""
    x = x.abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, 0))


def _cubic_taps(scale):
    """Weights over the px around an output px, alike for all of them, and how many px before its block they begin."""
    offsets = torch.arange(-2 * scale, 3 * scale + 1, dtype=torch.float64)
    distances = offsets - (scale - 1) / 2
    inside = distances.abs() < 2 * scale
    taps = cubic(distances[inside] / scale)
    return taps / taps.sum(), -int(offsets[inside][0])
