"""Periodic patterns (dots, checkerboards), which gamed judges leave behind, as a judge that needs no weights."""

import torch
from torch.nn import functional

from nriqa_plugin.iqa.scorer import Scorer

PERIODS = tuple(range(2, 17))  # px; those that an image holds less than twice each way are left out
EDGE = 16 / 255  # differences beyond it are edges, not patterns, and count as this much
SIGNIFICANT = 8.0  # standard errors; Kodak24 reaches 7 by chance at periods that it does not have


class Pattern(Scorer):
    """Amplitude of the strongest pattern that repeats every 2 to 16 px, in grey levels of 255; **lower is better**.

    The image less its 3x3 mean is folded at every period p: pixels of equal (y mod p, x mod p) are averaged, which
    leaves nothing of a photograph and all of a pattern. The score is the largest deviation of such an average from the
    mean of all, over positions, periods and colour channels, as far as it is significant (8 standard errors); 0 if none
    is. Upsampling by pixel shuffle, transposed convolutions and 8-bit JPEG grids leave such patterns; a network that is
    trained to please a judge may learn to draw them (arXiv 2405.20392 shows dots).

    Dots of a grey levels on every p-th pixel of a flat image score 8/9 a. Clean photographs (Kodak24) score 0.2 to 0.8,
    dots of 4 levels raise that by 2.1 to 3.7 for p from 2 to 16. For watching only: it is blind to what does not
    repeat, and its gradient is that of one pattern. Crops below 300 px of a photograph that has a real pattern in it
    (a fence, a roof) score higher.

    Shapes: ``pred`` is ``(N, 3, H, W)`` RGB in [0, 1], sides at least 32 px; returns ``(N,)``.
    """

    name = 'pattern'
    higher_better = False
    score_range = (0.0, 255.0)
    min_side = 32
    differentiable = False
    has_gain = False
    no_gradient = 'a pattern counts only where it is significant'

    def score(self, pred, ref=None):
        detail = fine_detail(pred)
        periods = [period for period in PERIODS if 2 * period <= min(detail.shape[-2:])]
        return 255 * torch.stack([_amplitude(detail, period) for period in periods]).amax(0)


def fine_detail(images):
    """Images less their 3x3 mean, without a border of 1 px; what is beyond ``EDGE`` counts as much as that."""
    mean = functional.avg_pool2d(images, 3, stride=1)
    return (images[..., 1:-1, 1:-1] - mean).clamp(-EDGE, EDGE)


def _amplitude(detail, period):
    """Largest significant deviation of a fold's mean, ``(N,)``."""
    n, channels, height, width = detail.shape
    rows, columns = height // period, width // period
    folds = detail[..., : rows * period, : columns * period].reshape(n, channels, rows, period, columns, period)
    variance, mean = torch.var_mean(folds, (2, 4))
    deviation = (mean - mean.mean((2, 3), keepdim=True)).abs()
    error = (variance.mean((2, 3), keepdim=True) / (rows * columns)).sqrt()
    return torch.where(deviation > SIGNIFICANT * error, deviation, 0).flatten(1).amax(1)
