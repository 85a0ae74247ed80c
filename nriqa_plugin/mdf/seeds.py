"""Synthetic images to train MDF discriminators on, after the three of Mustafa et al. (WACV 2022).

The paper names its synthetic images without their exact recipe; each docstring says what is done here. All return RGB
in [0, 1], ``(3, H, W)``, a function of the size and the generator's state.
"""

import math

import torch

from nriqa_plugin.checks import check_choice
from nriqa_plugin.mdf.resize import resize

CHROMA = 0.4  # of the strength of luminance in pink noise
SPREAD = 0.18  # standard deviation of pink noise
CELL = 96  # px a side for one set of rings
PERIODS = (3, 32)  # px from ring to ring
CONTRASTS = (0.05, 1)
COARSEST = 8  # px at which the pyramid ends


def pyramid_permutation(image, generator):
    """The bands of an image's Laplacian pyramid, each with its pixels in random order: its statistics, no structure.

    The band of each level is what Lanczos halving loses. The three channels of a pixel stay together, so colours stay.

    Args:
        image (Tensor): RGB in [0, 1], ``(3, H, W)``.
        generator (torch.Generator): draws the order.
    """
    bands = [shuffle(band, generator) for band in laplacian_bands(image)]
    result = bands[-1]
    for band in reversed(bands[:-1]):
        result = resize(result, band.shape[-2:]) + band
    return result.clamp(0, 1)


def laplacian_bands(image):
    """Bands of an image, finest first, the last one what is left: enlarged and added up they are the image."""
    bands = []
    while min(image.shape[-2:]) >= 2 * COARSEST:
        smaller = resize(image, [side // 2 for side in image.shape[-2:]])
        bands.append(image - resize(smaller, image.shape[-2:]))
        image = smaller
    return [*bands, image]


def shuffle(image, generator):
    """The pixels of ``(C, H, W)`` in random order."""
    order = torch.randperm(image.shape[-2] * image.shape[-1], generator=generator)
    return image.flatten(1)[:, order].view(image.shape)


def pink_noise(size, generator):
    """Noise whose amplitude falls as 1/f, as in natural images: strong in luminance, weaker in colour; mean 0.5.

    Args:
        size (tuple[int, int]): height and width.
        generator (torch.Generator): draws the noise.
    """
    height, width = size
    rows, columns = torch.fft.fftfreq(height).double(), torch.fft.rfftfreq(width).double()
    frequency = torch.hypot(rows[:, None], columns[None])
    frequency[0, 0] = math.inf  # no constant part
    white = torch.randn(4, height, width, generator=generator, dtype=torch.float64)
    pink = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=size)
    pink = pink[:1] + CHROMA * (pink[1:] - pink[1:].mean(0))
    return (0.5 + SPREAD * pink / pink.std()).clamp(0, 1).float()


def contrast_rings(size, generator):
    """Cells of concentric rings: in each its own period, contrast, phase, centre and pair of colours.

    Period (3 to 32 px) and contrast (0.05 to 1) are drawn uniformly on a logarithmic scale.

    Args:
        size (tuple[int, int]): height and width.
        generator (torch.Generator): draws the cells.
    """
    height, width = size
    image = torch.empty(3, height, width)
    for top in range(0, height, CELL):
        for left in range(0, width, CELL):
            cell = image[:, top : top + CELL, left : left + CELL]
            cell.copy_(_rings(*cell.shape[-2:], generator))
    return image


def _rings(height, width, generator):
    draws = torch.rand(11, generator=generator, dtype=torch.float64)
    period, contrast = (
        low * (high / low) ** draw.item() for draw, (low, high) in zip(draws[:2], (PERIODS, CONTRASTS), strict=True)
    )
    rows = torch.arange(height, dtype=torch.float64) - draws[2] * CELL
    columns = torch.arange(width, dtype=torch.float64) - draws[3] * CELL
    radius = torch.hypot(rows[:, None], columns[None])
    wave = torch.sin(2 * math.pi * (radius / period + draws[4]))
    first, second = draws[5:8], draws[8:11]
    middle, half = (first + second) / 2, (first - second) / 2
    return middle[:, None, None] + contrast * half[:, None, None] * wave


BY_NAME = {
    'pyramid-permutation': pyramid_permutation,
    'pink-noise': pink_noise,
    'contrast-rings': contrast_rings,
}


def make_seed(kind, size=None, seed=0, image=None):
    """One of the synthetic images by name.

    Args:
        kind (str): ``pyramid-permutation``, ``pink-noise`` or ``contrast-rings``.
        size (tuple[int, int] | None): height and width; default 512 x 768, or the image's own.
        seed (int): of the random numbers.
        image (Tensor | None): the natural image of ``pyramid-permutation``, ``(3, H, W)`` in [0, 1]; resized to
            ``size``.

    Raises:
        ValueError: an unknown kind, or an image where none is used or the other way round.
    """
    make = BY_NAME[check_choice('kind', kind, BY_NAME)]
    if (image is None) == (make is pyramid_permutation):
        wants = 'needs a natural image (--from)' if image is None else 'takes no image (--from)'
        raise ValueError(f'{kind} {wants}')
    generator = torch.Generator().manual_seed(seed)
    if image is None:
        return make(size or (512, 768), generator)
    if size is not None and tuple(size) != tuple(image.shape[-2:]):
        image = resize(image, size).clamp(0, 1)
    return make(image, generator)
