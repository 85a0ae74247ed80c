"""Asymmetric generalised Gaussian distributions (AGGD): NIQE's features of a block, fitted to its moments."""

from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable

SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # H, V, D1, D2: neighbours within a block, which wraps around
SHAPE_MIN, SHAPE_MAX, SHAPE_STEP = 0.2, 10.0, 0.001  # alpha is one of these


class BlockMoments(torch.autograd.Function):
    """Moments of the negative and positive values of blocks and of the products with their four neighbours.

    ``(N, B, S, S)`` gives five tensors ``(N, B, 5)``, each a mean over the whole block: the squares of negative
    values, the squares of positive ones, the absolute values, and the shares of negative and of positive values.
    The shares are steps without a derivative, so the gradient is that of a score with all signs held. Only the blocks
    are kept for the backward pass; the products are cheaper to repeat than to store.
    """

    @staticmethod
    def forward(ctx, blocks):
        ctx.save_for_backward(blocks)
        moments = [_one_sided(blocks)]
        moments += [_one_sided(blocks * blocks.roll(shift, (-2, -1))) for shift in SHIFTS]
        means = tuple(torch.stack(m, -1) / blocks[0, 0].numel() for m in zip(*moments, strict=True))
        ctx.mark_non_differentiable(*means[3:])
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx, left, right, size, _below, _above):
        (blocks,) = ctx.saved_tensors
        grads = [g[..., None, None] / blocks[0, 0].numel() for g in (2 * left, 2 * right, size)]

        def of_field(values, index):
            left, right, size = (g[:, :, index] for g in grads)
            return values.clamp(max=0) * left + values.clamp(min=0) * right + values.sign() * size

        result = of_field(blocks, 0)
        for index, shift in enumerate(SHIFTS, start=1):
            neighbours = blocks.roll(shift, (-2, -1))
            grad = of_field(blocks * neighbours, index)
            result += grad * neighbours
            result += (grad * blocks).roll((-shift[0], -shift[1]), (-2, -1))
        return result


def features(moments, rounded=True):
    """The 36 features of every block and which of them are known.

    Args:
        moments (list[Tensor]): the five of :class:`BlockMoments`, with both scales stacked: ``(N, B, 2, 5)`` each.
        rounded (bool): shapes are multiples of 0.001, as in the original's table; else they are exact.

    Returns:
        tuple[Tensor, Tensor]: both ``(N, B, 36)``; a feature is unknown where a block has no value on its side.
    """
    left, right, size, below, above = moments
    has_left, has_right = below != 0, above != 0
    both = has_left & has_right
    # Where a side is empty, its values are replaced before any division or root: no gradient turns into NaN.
    left_std = torch.where(has_left, left / torch.where(has_left, below, 1), 1).sqrt()
    right_std = torch.where(has_right, right / torch.where(has_right, above, 1), 1).sqrt()
    skew = left_std / right_std
    peak = torch.where(both, size.square() / torch.where(both, left + right, 1), 1)
    ratio = peak * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return features_of_fits(left_std, right_std, ratio, has_left, has_right, rounded)


def features_of_fits(left_std, right_std, ratio, has_left, has_right, rounded=True):
    """:func:`features` from one-sided standard deviations and the ratio that gives the shape, ``(N, B, 2, 5)`` each.

    Where a block has no value on a side (``has_left``, ``has_right``) the others hold any finite number.
    """
    both = has_left & has_right
    shape = torch.where(both, _Shape.apply(ratio, rounded), SHAPE_MIN)  # what the original's look-up gives for NaN
    inverse = 1 / shape
    to_scale = ((inverse.lgamma() - (3 * inverse).lgamma()) / 2).exp()
    left_scale, right_scale = left_std * to_scale, right_std * to_scale
    mean = (right_scale - left_scale) * ((2 * inverse).lgamma() - inverse.lgamma()).exp()  # Eq. 8

    def arrange(shape, mean, left, right, average):
        pairs = torch.stack((shape, mean, left, right), -1)[..., 1:, :].flatten(-2)
        return torch.cat((shape[..., :1], average[..., :1], pairs), -1).flatten(-2)

    result = arrange(shape, mean, left_scale, right_scale, (left_scale + right_scale) / 2)
    return result, arrange(torch.ones_like(both), both, has_left, has_right, both)


def _one_sided(values):
    below, above = values.clamp(max=0), values.clamp(min=0)
    squares = [torch.linalg.vector_norm(v, dim=(-2, -1)).square() for v in (below, above)]
    shares = [-below.sign().sum((-2, -1)), above.sign().sum((-2, -1))]
    return *squares, (above - below).sum((-2, -1)), *shares


class _Shape(torch.autograd.Function):
    r"""Solve :math:`\Gamma(2/\alpha)^2 / (\Gamma(1/\alpha) \Gamma(3/\alpha)) = \rho` for the shape :math:`\alpha`.

    Forward: the nearest entry of the table, then Newton steps unless ``rounded``. Backward: the implicit function
    theorem, :math:`d\alpha/d\rho = 1 / \rho'(\alpha)`; zero where the shape is held at the ends of its range.
    """

    @staticmethod
    def forward(ctx, ratio, rounded):
        table = _ratio_table(ratio.device)
        ratio = ratio.double()
        above = torch.searchsorted(table, ratio).clamp(1, len(table) - 1)
        nearest = above - (ratio - table[above - 1] <= table[above] - ratio).long()
        shape = SHAPE_MIN + SHAPE_STEP * nearest.double()
        for _ in range(0 if rounded else 2):
            step = (_log_ratio(shape) - ratio.log()) / _log_ratio_slope(shape)
            shape = (shape - step).clamp(SHAPE_MIN, SHAPE_MAX)
        inside = (ratio > table[0]) & (ratio < table[-1])
        ctx.save_for_backward(ratio, shape, inside)
        return shape

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        ratio, shape, inside = ctx.saved_tensors
        return torch.where(inside, grad / (ratio * _log_ratio_slope(shape)), 0), None


@lru_cache(maxsize=8)
def _ratio_table(device):
    r""":math:`\rho(\alpha)` for all shapes from 0.2 to 10 in steps of 0.001, rising, float64 ``(9801,)``."""
    shapes = torch.arange(SHAPE_MIN, SHAPE_MAX + SHAPE_STEP / 2, SHAPE_STEP, dtype=torch.float64)
    return _log_ratio(shapes).exp().to(device)


def _log_ratio(shape):
    return 2 * (2 / shape).lgamma() - (1 / shape).lgamma() - (3 / shape).lgamma()


def _log_ratio_slope(shape):
    return ((1 / shape).digamma() + 3 * (3 / shape).digamma() - 4 * (2 / shape).digamma()) / shape.square()
