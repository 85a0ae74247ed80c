"""Deformable convolution that is quick on a CPU too."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torchvision import ops


def deform_conv2d(input, offset, weight, bias=None, stride=1, padding=0, dilation=1, mask=None):
    """torchvision's function of this name (Zhu et al., CVPR 2019): same arguments, same values and gradients.

    On a CPU ``grid_sample`` and a product of matrices replace torchvision's loops, which take several times as long
    forward and backward (benchmarks/bench_deformable.py). The samples are taken anew in the backward pass, so that as
    little memory is kept as by torchvision.

    Args:
        input (Tensor): ``(N, C, H, W)``.
        offset (Tensor): ``(N, 2 * G * K, H', W')`` in pixels, for each of G groups of channels and K taps y, then x.
        weight (Tensor): ``(C_out, C / groups, k, k')``, ``K = k * k'``; the groups of the convolution follow from it.
        bias (Tensor, optional): ``(C_out,)``.
        stride, padding, dilation (int or pair of int): as in a convolution.
        mask (Tensor, optional): ``(N, G * K, H', W')``, a factor for every sample.

    Returns:
        Tensor: ``(N, C_out, H', W')`` of the input's type; computed in float32 at least, as torchvision does under
        autocast, for narrower types cannot hold a position to a fraction of a pixel.
    """
    if input.device.type != 'cpu':
        return ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    places = [_pair(value) for value in (stride, padding, dilation)]
    dtype = torch.promote_types(input.dtype, torch.float32)
    tensors = [t if t is None else t.to(dtype) for t in (input, offset, weight, bias, mask)]
    out = checkpoint(_by_sampling, *tensors, places, use_reentrant=False, preserve_rng_state=False)
    return out.to(input.dtype)


def _by_sampling(x, offset, weight, bias, mask, places):
    n, channels, height, width = x.shape
    rows, columns = weight.shape[-2:]
    taps, (out_height, out_width) = rows * columns, offset.shape[-2:]
    groups = offset.shape[1] // (2 * taps)
    tap_y, tap_x = (torch.arange(side, dtype=x.dtype) * step[2] for side, step in _by_axis((rows, columns), places))
    base_y, base_x = (
        torch.arange(side, dtype=x.dtype) * step[0] - step[1]
        for side, step in _by_axis((out_height, out_width), places)
    )
    offset = offset.reshape(n * groups, rows, columns, 2, out_height, out_width)
    y = offset[:, :, :, 0] + tap_y[:, None, None, None] + base_y[:, None]
    x_at = offset[:, :, :, 1] + tap_x[:, None, None] + base_x
    # grid_sample counts from -1 to 1, here between the outer edges of the outermost pixels.
    where = torch.stack([(2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    samples = F.grid_sample(
        x.reshape(n * groups, channels // groups, height, width),
        where.view(n * groups, taps * out_height, out_width, 2),
        mode='bilinear',
        padding_mode='zeros',
        align_corners=False,
    )
    samples = samples.view(n, groups, -1, taps, out_height * out_width)
    if mask is not None:
        samples = samples * mask.reshape(n, groups, 1, taps, out_height * out_width)
    parts = channels // weight.shape[1]
    out = weight.reshape(parts, -1, weight.shape[1] * taps) @ samples.view(n, parts, -1, out_height * out_width)
    out = out.reshape(n, -1, out_height, out_width)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _by_axis(sides, places):
    """Rows and columns: each axis' length with its stride, padding and dilation."""
    return zip(sides, zip(*places, strict=True), strict=True)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)
