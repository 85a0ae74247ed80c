"""Differentiable correlation with a separable window."""

import torch
from torch.autograd.function import once_differentiable


def correlate(images, taps, stride=1):
    """Correlate rows and columns of ``(N, H, W)`` with ``taps`` (floats), no padding; keeps every ``stride``-th."""
    for dim in (-2, -1):
        images = _Filter.apply(images, taps, dim, stride)
    return images


class _Filter(torch.autograd.Function):
    """Correlate dimension ``dim`` with ``taps`` (floats), without padding, keeping every ``stride``-th result."""

    @staticmethod
    def forward(ctx, images, taps, dim, stride):
        ctx.constants, ctx.shape = (taps, dim, stride), images.shape
        first, *others = _shifted(images, taps, dim, stride)
        result = first * taps[0]
        for tap, part in zip(taps[1:], others, strict=True):
            result.add_(part, alpha=tap)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        taps, dim, stride = ctx.constants
        result = grad.new_zeros(ctx.shape)
        for tap, part in zip(taps, _shifted(result, taps, dim, stride), strict=True):
            part.add_(grad, alpha=tap)
        return result, None, None, None


def _shifted(images, taps, dim, stride):
    span = images.shape[dim] - len(taps) + 1
    for offset in range(len(taps)):
        yield images.narrow(dim, offset, span).unfold(dim, 1, stride).squeeze(-1)  # a view, with a step
