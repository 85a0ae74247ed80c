"""NIQE: how far the statistics of an image lie from those of pristine photographs."""

import importlib.util
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nriqa_plugin.checks import check_file, check_number
from nriqa_plugin.iqa.scorer import Scorer

BLOCK = 96  # side of a block at the first scale, in px
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # H, V, D1, D2: neighbours within a block, which wraps around
CUBIC = (-3 / 256, -9 / 256, 29 / 256, 111 / 256, 111 / 256, 29 / 256, -9 / 256, -3 / 256)  # antialiased, x0.5
SHAPE_MIN, SHAPE_MAX, SHAPE_STEP = 0.2, 10.0, 0.001  # alpha is sought in this range
Y_WEIGHTS, Y_OFFSET = (65.481, 128.553, 24.966), 16.0  # MATLAB's rgb2ycbcr for RGB in [0, 1]
MID_GREY = 128.0
GREY_RESOLUTION = 2**-15  # in grey levels; float32 cannot tell smaller differences from rounding noise
SHIPPED = {'basicsr': 'metrics/niqe_pris_params.npz', 'mmagic': 'evaluation/metrics/niqe_pris_params.npz'}


class NIQE(Scorer):
    r"""Natural Image Quality Evaluator, batched and differentiable; lower is better.

    Mittal, Soundararajan, Bovik: Making a "Completely Blind" Image Quality Analyzer, IEEE SPL 2013. Every
    :math:`96 \times 96` block gives 36 features (18 at each of two scales); the score is

    .. math:: D = \sqrt{(\nu_1 - \nu_2)^T \left(\frac{\Sigma_1 + \Sigma_2}{2}\right)^{-1} (\nu_1 - \nu_2)}

    (Eq. 10), with mean and covariance over the blocks on one side and of pristine photographs on the other. Values
    follow BasicSR's ``calculate_niqe`` with ``convert_to='y'``; natural photographs score about 2 to 5. There is no
    upper bound. The score of an image with fewer than two usable blocks (flat, black) is undefined: NaN, with a
    zero gradient.

    The luma is rounded to integers as in the original, with a straight-through gradient. The shape of a
    distribution is solved for instead of looked up, since a table has no derivative.

    Args:
        weights (str | None): ``.npz`` with ``mu_pris_param``, ``cov_pris_param`` and ``gaussian_window``. ``None``:
            the file inside an installed basicsr or mmagic (neither is imported).
        crop_border (int): px left out on every side; raises ``min_side`` accordingly.

    Raises:
        FileNotFoundError: ``weights`` names no file, or is missing and neither package is installed.
        ValueError: the file is damaged or holds something else, or ``crop_border`` is negative.
        TypeError: ``crop_border`` is not an integer.
    """

    name = 'niqe'
    higher_better = False
    score_range = (0.0, math.inf)
    min_side = 2 * BLOCK

    def __init__(self, weights=None, crop_border=0):
        super().__init__()
        self.crop_border = int(check_number('crop_border', crop_border, low=0, integer=True))
        self.min_side = 2 * BLOCK + 2 * self.crop_border
        mean, covariance, taps = _read_parameters(weights if weights is not None else _shipped_parameters())
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32))
        self.register_buffer('covariance', torch.tensor(covariance, dtype=torch.float32))
        self.register_buffer('window', torch.tensor(taps, dtype=torch.float32))  # counts in weights_hash
        # The filter itself keeps float64 taps that sum to one: else a flat area would not have a contrast of zero.
        self._taps = tuple((taps / taps.sum()).tolist())
        shapes = torch.arange(SHAPE_MIN, SHAPE_MAX + SHAPE_STEP / 2, SHAPE_STEP, dtype=torch.float64)
        self.register_buffer('ratios', _log_ratio(shapes).exp().float())
        self._rounding = True  # tests switch it off: finite differences do not see a straight-through gradient

    def score(self, pred, ref=None):
        """Score RGB images in [0, 1], ``(N, 3, H, W)``; returns ``(N,)``, NaN where undefined."""
        luma = self._luma(pred)
        scales = ((luma, BLOCK), (_halve(luma), BLOCK // 2))
        moments = [_BlockMoments.apply(_to_blocks(_normalise(image, self._taps), side)) for image, side in scales]
        # A few numbers per block are left: float64 costs nothing from here on.
        features, known = _features([torch.stack(m, 2).double() for m in zip(*moments, strict=True)], self.ratios)
        return self._distance(features, known).to(pred.dtype)

    def _luma(self, pred):
        """Y of MATLAB's YCbCr less a mid grey, about -112..107, cropped to whole blocks: ``(N, H, W)``.

        No feature sees a constant offset, and small values keep the variance accurate in float32.
        """
        border = self.crop_border
        height, width = pred.shape[-2] - 2 * border, pred.shape[-1] - 2 * border
        pred = pred[..., border : border + height // BLOCK * BLOCK, border : border + width // BLOCK * BLOCK]
        red, green, blue = pred.unbind(1)
        luma = Y_WEIGHTS[0] * red + Y_WEIGHTS[1] * green + Y_WEIGHTS[2] * blue + (Y_OFFSET - MID_GREY)
        return luma + (luma.round() - luma).detach() if self._rounding else luma

    def _distance(self, features, known):
        """Eq. 10 for ``(N, B, 36)`` features, of which only the ``known`` ones count."""
        # The original's mean leaves out single features, its covariance whole blocks; both are kept.
        mean = (features * known).sum(1) / known.sum(1).clamp(min=1)
        usable = known.all(-1, keepdim=True)
        blocks = usable.sum((1, 2))
        centred = (features - (features * usable).sum(1, keepdim=True) / blocks.clamp(min=1)[:, None, None]) * usable
        covariance = centred.mT @ centred / (blocks - 1).clamp(min=1)[:, None, None]
        # The pristine covariance is positive definite, hence so is the average: its inverse is the pseudo-inverse.
        away = mean - self.mean.double()
        solved = torch.linalg.solve_ex((self.covariance.double() + covariance) / 2, away)[0]
        squared = (away * solved).sum(-1)
        return torch.where(blocks > 1, squared.clamp(min=1e-12).sqrt(), math.nan)


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


def _filter(images, taps, stride=1):
    for dim in (-2, -1):
        images = _Filter.apply(images, taps, dim, stride)
    return images


def _normalise(luma, taps):
    """Mean-subtracted, contrast-normalised luma (Eq. 1 to 3), ``(N, H, W)`` to the same shape."""

    def local_mean(images):
        return _filter(F.pad(images, (3, 3, 3, 3), mode='replicate'), taps)

    mean = local_mean(luma)
    variance = local_mean(luma.square()) - mean.square()
    textured = variance > 1e-6  # the square root has no finite derivative at zero
    contrast = torch.where(textured, variance, 1).sqrt() * textured
    # The sides of the distributions are counted by sign, so that the rounding noise of flat areas must be zero.
    away = luma - mean
    return torch.where(away.abs() < GREY_RESOLUTION, 0, away) / (contrast + 1)


def _halve(luma):
    """MATLAB's ``imresize(luma, 0.5)``, bicubic with antialiasing, ``(N, H, W)`` to ``(N, H / 2, W / 2)``."""
    for dim in (-2, -1):
        start, end = luma.narrow(dim, 0, 3), luma.narrow(dim, luma.shape[dim] - 3, 3)
        luma = torch.cat((start.flip(dim), luma, end.flip(dim)), dim)
    return _filter(luma, CUBIC, stride=2)


def _to_blocks(images, side):
    """``(N, H, W)`` to ``(N, B, side, side)``."""
    rows = images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return rows.transpose(-3, -2).flatten(1, 2).contiguous()


class _BlockMoments(torch.autograd.Function):
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


def _one_sided(values):
    below, above = values.clamp(max=0), values.clamp(min=0)
    squares = [torch.linalg.vector_norm(v, dim=(-2, -1)).square() for v in (below, above)]
    shares = [-below.sign().sum((-2, -1)), above.sign().sum((-2, -1))]
    return *squares, (above - below).sum((-2, -1)), *shares


def _features(moments, ratios):
    """The 36 features of every block and which of them are known, both ``(N, B, 36)``, from ``(N, B, 2, 5)``."""
    left, right, size, below, above = moments
    has_left, has_right = below != 0, above != 0
    both = has_left & has_right
    # Where a side is empty, its values are replaced before any division or root: no gradient turns into NaN.
    left_std = torch.where(has_left, left / torch.where(has_left, below, 1), 1).sqrt()
    right_std = torch.where(has_right, right / torch.where(has_right, above, 1), 1).sqrt()
    skew = left_std / right_std
    peak = torch.where(both, size.square() / torch.where(both, left + right, 1), 1)
    shape = _Shape.apply(peak * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2, ratios)
    shape = torch.where(both, shape, SHAPE_MIN)  # what the original's look-up gives for NaN
    inverse = 1 / shape
    to_scale = ((inverse.lgamma() - (3 * inverse).lgamma()) / 2).exp()
    left_scale, right_scale = left_std * to_scale, right_std * to_scale
    mean = (right_scale - left_scale) * ((2 * inverse).lgamma() - inverse.lgamma()).exp()  # Eq. 8

    def arrange(shape, mean, left, right, average):
        pairs = torch.stack((shape, mean, left, right), -1)[..., 1:, :].flatten(-2)
        return torch.cat((shape[..., :1], average[..., :1], pairs), -1).flatten(-2)

    features = arrange(shape, mean, left_scale, right_scale, (left_scale + right_scale) / 2)
    return features, arrange(torch.ones_like(both), both, has_left, has_right, both)


class _Shape(torch.autograd.Function):
    r"""Solve :math:`\Gamma(2/\alpha)^2 / (\Gamma(1/\alpha) \Gamma(3/\alpha)) = \rho` for the shape :math:`\alpha`.

    Forward: the nearest entry of the table, then Newton steps. Backward: the implicit function theorem,
    :math:`d\alpha/d\rho = 1 / \rho'(\alpha)`; zero where the shape is held at the ends of its range.
    """

    @staticmethod
    def forward(ctx, ratio, table):
        nearest = torch.searchsorted(table, ratio.to(table.dtype)).clamp(max=len(table) - 1)
        shape = SHAPE_MIN + SHAPE_STEP * nearest.to(ratio.dtype)
        for _ in range(2):
            step = (_log_ratio(shape) - ratio.log()) / _log_ratio_slope(shape)
            shape = (shape - step).clamp(SHAPE_MIN, SHAPE_MAX)
        ctx.save_for_backward(ratio, shape)
        return shape

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        ratio, shape = ctx.saved_tensors
        inside = (shape > SHAPE_MIN) & (shape < SHAPE_MAX)
        return torch.where(inside, grad / (ratio * _log_ratio_slope(shape)), 0), None


def _log_ratio(shape):
    return 2 * (2 / shape).lgamma() - (1 / shape).lgamma() - (3 / shape).lgamma()


def _log_ratio_slope(shape):
    return ((1 / shape).digamma() + 3 * (3 / shape).digamma() - 4 * (2 / shape).digamma()) / shape.square()


def _shipped_parameters():
    """Path of the pristine parameters in an installed basicsr or mmagic, found without importing either."""
    for package, inside in SHIPPED.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / inside).is_file():
                return Path(folder) / inside
    raise FileNotFoundError(
        f"niqe needs its pristine parameters: install basicsr or mmagic, or set the option 'weights' to a copy of "
        f'niqe_pris_params.npz ({" or ".join(f"{p}/{i}" for p, i in SHIPPED.items())} in their source)'
    )


def _read_parameters(path):
    """Mean ``(36,)``, covariance ``(36, 36)`` and one-dimensional window ``(7,)``, float64."""
    keys = {'mu_pris_param': (1, 36), 'cov_pris_param': (36, 36), 'gaussian_window': (7, 7)}
    file = check_file('weights', path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            mean, covariance, window = (arrays[k].astype(np.float64).reshape(shape) for k, shape in keys.items())
        taps = window.sum(0) / math.sqrt(window.sum())
        if not np.isfinite(mean).all() or not np.allclose(window, np.outer(taps, taps), atol=1e-8):
            raise ValueError('mu_pris_param is not finite or gaussian_window is not separable')
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError('cov_pris_param is not positive definite')
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f'weights: {path} is no NIQE parameter file ({", ".join(keys)}): {error}') from error
    return mean[0], covariance, taps
