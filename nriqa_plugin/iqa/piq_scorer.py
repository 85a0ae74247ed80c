"""Full-reference formulas as judges: PSNR here, the others through the package ``piq``."""

from functools import partial

import torch

from nriqa_plugin.checks import check_flag, check_number, import_extra
from nriqa_plugin.iqa.layout import channels_last_on_cpu
from nriqa_plugin.iqa.scorer import Scorer

MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Table of Wang et al. 2003, finest scale first


def psnr(crop_border=0, y_channel=False):
    """Peak signal-to-noise ratio in dB, higher is better; infinite for equal images (their gradient is zero).

    Args:
        crop_border (int): px to leave out on each side, the scale factor in most super-resolution papers.
        y_channel (bool): only the luma Y of MATLAB's ``rgb2ycbcr`` (16..235 of 255), as those papers report.
    """
    return PiqScorer('psnr', _psnr, (0.0, float('inf')), 1, crop_border=crop_border, y_channel=y_channel)


def ssim(crop_border=0, y_channel=False):
    """Structural similarity (Wang et al., TIP 2004), higher is better: 11 px Gaussian window, no downsampling.

    Args:
        crop_border (int): px to leave out on each side.
        y_channel (bool): only the luma Y of MATLAB's ``rgb2ycbcr``, else the mean over R, G and B.
    """
    formula = partial(_ssim, _piq('ssim').ssim)
    return PiqScorer('ssim', formula, (-1.0, 1.0), 11, crop_border=crop_border, y_channel=y_channel)


def ms_ssim(scales=5):
    """Multi-scale SSIM (Wang et al., Asilomar 2003), higher is better.

    Args:
        scales (int): the published 5 need 161 px a side, n need ``10 * 2 ** (n - 1) + 1``. Fewer are the finest ones,
            with the published exponents divided by their sum.
    """
    scales = check_number('scales', scales, low=1, high=len(MS_SSIM_EXPONENTS), integer=True)
    exponents = torch.tensor(MS_SSIM_EXPONENTS[:scales])
    formula = _piq('ms_ssim').multi_scale_ssim
    own = {} if scales == len(MS_SSIM_EXPONENTS) else {'scale_weights': exponents / exponents.sum()}
    return PiqScorer('ms_ssim', partial(formula, reduction='none', **own), (0.0, 1.0), 10 * 2 ** (scales - 1) + 1)


def gmsd():
    """Gradient magnitude similarity deviation (Xue et al., TIP 2014), **lower is better**, at most 0.5."""
    return PiqScorer('gmsd', partial(_piq('gmsd').gmsd, reduction='none'), (0.0, 0.5), 3, higher_better=False)


def vsi():
    """Visual saliency-induced index (Zhang et al., TIP 2014), higher is better."""
    return PiqScorer('vsi', partial(_piq('vsi').vsi, reduction='none'), (0.0, 1.0), 2)


def fsim():
    """Feature similarity with colour, FSIMc (Zhang et al., TIP 2011), higher is better."""
    return PiqScorer('fsim', partial(_piq('fsim').fsim, reduction='none'), (0.0, 1.0), 2)


class PiqScorer(Scorer):
    """A full-reference formula with a direction and a range; built by the functions above.

    Values outside [0, 1] are clipped as on saving an image, but keep the gradient of the clipped value, so that a
    loss can pull them back. Where the formula has no gradient (exactly flat areas, equal images) it is zero. An
    image with NaN or infinite values scores NaN.

    Args:
        name (str): how option files call it.
        formula (callable): ``formula(x, y)`` on ``(N, 1 or 3, H, W)`` in [0, 1], returns ``(N,)``.
        score_range (tuple[float, float]): lowest and highest score.
        min_side (int): shortest side in px that the formula needs, after cropping.
        higher_better (bool): direction.
        crop_border (int): px to leave out on each side.
        y_channel (bool): compare the luma only.

    Raises:
        TypeError: ``crop_border`` is not an integer, ``y_channel`` not a bool.
        ValueError: ``crop_border`` is negative.
    """

    needs_reference = True

    def __init__(self, name, formula, score_range, min_side, higher_better=True, crop_border=0, y_channel=False):
        super().__init__()
        self.name, self.formula, self.score_range = name, formula, score_range
        self.higher_better, self.y_channel = higher_better, check_flag('y_channel', y_channel)
        self.min_side = min_side
        self.leave_out_border(crop_border)
        # BT.601 in studio range. Registered for every formula: it carries the precision that .double() asks for.
        self.register_buffer('luma', torch.tensor([65.481, 128.553, 24.966]) / 255)

    def score(self, pred, ref=None):
        finite = torch.isfinite(pred).flatten(1).all(1) & torch.isfinite(ref).flatten(1).all(1)
        scores = self.formula(self._prepared(pred), self._prepared(ref))
        return torch.where(finite, scores, torch.nan)

    def _prepared(self, images):
        images = _Clip.apply(images)
        if self.y_channel:
            images = torch.einsum('nchw,c->nhw', images, self.luma).unsqueeze(1) + 16 / 255
        return images


class _Clip(torch.autograd.Function):
    """Clip to [0, 1], pass the gradient straight through and mend it where the formula has none."""

    @staticmethod
    def forward(ctx, images):
        return images.nan_to_num(nan=0.0).clamp(0, 1)

    @staticmethod
    def backward(ctx, grad):
        return grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _psnr(x, y):
    # Not piq's: it adds 1e-8 to the error, which costs 0.04 dB at 60 dB and makes equal images 80 dB.
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def _ssim(formula, x, y):
    return formula(channels_last_on_cpu(x), channels_last_on_cpu(y), reduction='none', downsample=False)


def _piq(name):
    return import_extra('piq', 'iqa', f'the judge {name}')
