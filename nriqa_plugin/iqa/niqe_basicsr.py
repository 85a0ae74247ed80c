"""NIQE's features in the arithmetic of BasicSR's ``calculate_niqe``, for scores that agree with its.

BasicSR computes in float32 and looks the shapes of the distributions up in a table. Where a ratio lies near the middle
of two entries, the last bit decides, and one such shape of the hundreds of an image can move its score by 2e-4. So the
order of the sums and the places of rounding are BasicSR's here, in NumPy; no gradient passes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from nriqa_plugin.iqa import aggd
from nriqa_plugin.iqa.separable import correlate

CUBIC = (-3 / 256, -9 / 256, 29 / 256, 111 / 256, 111 / 256, 29 / 256, -9 / 256, -3 / 256)  # antialiased, x0.5
AT_ONCE = 8  # images; more only cost memory
Y_WEIGHTS, Y_OFFSET = (65.481, 128.553, 24.966), 16.0  # MATLAB's rgb2ycbcr for RGB in [0, 1]


def features(images, taps, side):
    """The 36 features of every block and which of them are known.

    Args:
        images (Tensor): RGB in [0, 1], float32 on a CPU, ``(N, 3, H, W)`` with whole blocks.
        taps (tuple[float, ...]): the window of the local means.
        side (int): side of a block at the first scale, in px.

    Returns:
        tuple[Tensor, Tensor]: both ``(N, B, 36)``, float64 and bool; see :func:`nriqa_plugin.iqa.aggd.features`.
    """
    parts = [_features(part, taps, side) for part in images.detach().split(AT_ONCE)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _features(images, taps, side):
    luma = _luma(images)
    fits = [_fit(_blocks(_normalise(scale, taps), size)) for scale, size in ((luma, side), (_halve(luma), side // 2))]
    left_std, right_std, ratio = (torch.from_numpy(fit) for fit in np.stack(fits, 3))
    has_left, has_right = (~torch.isnan(std) for std in (left_std, right_std))
    known = (torch.where(has, values, 1) for has, values in (
        (has_left, left_std), (has_right, right_std), (has_left & has_right, ratio)))  # fmt: skip
    result, is_known = aggd.features_of_fits(*known, has_left, has_right)
    result[~torch.isfinite(luma).flatten(1).all(1)] = torch.nan  # comparisons would leave such pixels out
    return result, is_known


def mirrored(images, dim):
    """With three more px on both sides of ``dim``, mirrored, as halving needs."""
    start, end = images.narrow(dim, 0, 3), images.narrow(dim, images.shape[dim] - 3, 3)
    return torch.cat((start.flip(dim), images, end.flip(dim)), dim)


def _luma(images):
    """Y of MATLAB's YCbCr, integers of 16..235, ``(N, H, W)``."""
    red, green, blue = images.unbind(1)
    luma = red.double().mul_(Y_WEIGHTS[0]).add_(green, alpha=Y_WEIGHTS[1]).add_(blue, alpha=Y_WEIGHTS[2]).add_(Y_OFFSET)
    return luma.div_(255).float().mul_(255).round_()


def _normalise(luma, taps):
    """Mean-subtracted, contrast-normalised luma (Eq. 1 to 3), ``(N, H, W)`` to the same shape."""

    def local_mean(images):
        return correlate(F.pad(images.double(), (3, 3, 3, 3), mode='replicate'), taps).float()

    mean = local_mean(luma)
    deviation = (local_mean(luma.square()) - mean.square()).abs().sqrt()
    return (luma - mean) / (deviation + 1)


def _halve(luma):
    """MATLAB's ``imresize(luma, 0.5)``, ``(N, H, W)`` to ``(N, H / 2, W / 2)``, a row and a column at a time.

    Other products of matrices and vectors have other orders of summation.
    """
    taps = torch.tensor(CUBIC)
    count, height, width = luma.shape
    padded = mirrored(luma / 255, 1).transpose(0, 1).flatten(1)  # the images side by side
    rows = [padded[2 * i : 2 * i + 8].t().mv(taps) for i in range(height // 2)]
    padded = mirrored(torch.stack(rows).view(-1, width), 1)
    columns = [padded[:, 2 * i : 2 * i + 8].mv(taps) for i in range(width // 2)]
    return torch.stack(columns, 1).view(height // 2, count, width // 2).transpose(0, 1) * 255


def _blocks(images, side):
    """``(N, H, W)`` to a NumPy array ``(N, B, side, side)``."""
    rows = images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return np.ascontiguousarray(rows.transpose(-3, -2).flatten(1, 2).numpy())


def _fit(blocks):
    """Standard deviations of both sides, NaN where empty, and the shape's ratio: ``(3, N, B, 5)`` of float64."""
    fields = [blocks, *(blocks * np.roll(blocks, shift, (-2, -1)) for shift in aggd.SHIFTS)]
    return np.stack([_fit_field(field.reshape(*field.shape[:2], -1)) for field in fields], -1)


def _fit_field(values):
    squares = values * values
    with np.errstate(divide='ignore', invalid='ignore'):
        left, right = (np.sqrt(_mean_where(side, squares)) for side in (values < 0, values > 0))
        skew = (left / right).astype(np.float64)
        ratio = np.abs(values).mean(-1).astype(np.float64) ** 2 / squares.mean(-1)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return np.stack((left, right, ratio))  # float64


def _mean_where(chosen, values):
    """Means over the chosen values of the last dimension, NaN where there are none, in float32."""
    rows = zip(chosen.reshape(-1, chosen.shape[-1]), values.reshape(-1, values.shape[-1]), strict=True)
    sums = np.array([np.add.reduce(np.compress(own, row)) for own, row in rows], np.float32)
    return (sums.reshape(chosen.shape[:-1]) / chosen.sum(-1)).astype(np.float32)
