"""NIQE: how far the statistics of an image lie from those of pristine photographs."""

import importlib.util
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nriqa_plugin.checks import check_file
from nriqa_plugin.iqa import aggd, niqe_basicsr
from nriqa_plugin.iqa.niqe_basicsr import CUBIC, Y_OFFSET, Y_WEIGHTS, mirrored
from nriqa_plugin.iqa.scorer import Scorer
from nriqa_plugin.iqa.separable import correlate

BLOCK = 96  # side of a block at the first scale, in px
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

    As in the original, the luma is rounded to integers and the shapes of the distributions to multiples of 0.001; the
    gradients go straight through both, those of the shapes by the implicit function theorem. Scores without gradient,
    on a CPU in float32, are those of BasicSR to 1e-5; others differ from them by 4e-5 in the median, up to 1e-3.

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
        self.leave_out_border(crop_border)
        mean, covariance, taps = _read_parameters(weights if weights is not None else _shipped_parameters())
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32))
        self.register_buffer('covariance', torch.tensor(covariance, dtype=torch.float32))
        self.register_buffer('window', torch.tensor(taps, dtype=torch.float32))  # counts in weights_hash
        # The filter itself keeps float64 taps that sum to one: else a flat area would not have a contrast of zero.
        self._taps = tuple((taps / taps.sum()).tolist())
        self._rounding = True  # tests switch it off: finite differences do not see a straight-through gradient

    def score(self, pred, ref=None):
        """Score RGB images in [0, 1], ``(N, 3, H, W)``; returns ``(N,)``, NaN where undefined."""
        height, width = pred.shape[-2:]
        pred = pred[..., : height // BLOCK * BLOCK, : width // BLOCK * BLOCK]
        with_gradient = pred.requires_grad and torch.is_grad_enabled()
        if with_gradient or pred.device.type != 'cpu' or pred.dtype != torch.float32:
            features, known = self._features(pred)
        else:
            features, known = niqe_basicsr.features(pred, self._taps, BLOCK)
        return self._distance(features, known).to(pred.dtype)

    def _features(self, pred):
        """The 36 features of every block and which of them are known, ``(N, B, 36)``, with gradient."""
        luma = self._luma(pred)
        scales = ((luma, BLOCK), (_halve(luma), BLOCK // 2))
        moments = [aggd.BlockMoments.apply(_to_blocks(_normalise(image, self._taps), side)) for image, side in scales]
        # A few numbers per block are left: float64 costs nothing from here on.
        moments = [torch.stack(m, 2).double() for m in zip(*moments, strict=True)]
        return aggd.features(moments, self._rounding)

    def _luma(self, pred):
        """Y of MATLAB's YCbCr less a mid grey, about -112..107, ``(N, H, W)``.

        No feature sees a constant offset, and small values keep the variance accurate in float32.
        """
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


def _normalise(luma, taps):
    """Mean-subtracted, contrast-normalised luma (Eq. 1 to 3), ``(N, H, W)`` to the same shape."""

    def local_mean(images):
        return correlate(F.pad(images, (3, 3, 3, 3), mode='replicate'), taps)

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
        luma = mirrored(luma, dim)
    return correlate(luma, CUBIC, stride=2)


def _to_blocks(images, side):
    """``(N, H, W)`` to ``(N, B, side, side)``."""
    rows = images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return rows.transpose(-3, -2).flatten(1, 2).contiguous()


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
