"""The scales of one training image, coarsest first."""

import logging
import math

from nriqa_plugin.checks import check_number
from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD
from nriqa_plugin.mdf.resize import resize

SLACK = 1e-6  # px; rho may be no exact binary number
MOST = 32  # scales

logger = logging.getLogger('nriqa_plugin')


def fit_scales(scales, rho, sizes):
    """How many of the wanted scales the images allow: the coarsest one still has to fill the receptive field.

    Args:
        scales (int): wanted number of scales, K; the paper takes 8.
        rho (float): how many times smaller each scale is than the next finer one, above 1; the paper takes 2.
        sizes (list[tuple[int, int]]): height and width of the images; the smallest side decides.

    Returns:
        int: ``scales``, or fewer with a warning that says what ``scales`` would need.

    Raises:
        ValueError, TypeError: an option out of range, or an image that is too small for two scales (for one, when one
            is wanted).
    """
    check_number('scales', scales, low=1, high=MOST, integer=True)
    if check_number('rho', rho) <= 1:
        raise ValueError(f'rho must be above 1, got {rho}')
    side = min(min(size) for size in sizes)
    possible = 0
    while possible < scales and min(scale_size((side, side), rho, possible)) >= RECEPTIVE_FIELD:
        possible += 1
    if possible < min(scales, 2):
        needed = smallest_side(min(scales, 2), rho)
        raise ValueError(f'an image has a side of {side} px; {min(scales, 2)} scale(s) at rho {rho:g} need {needed} px')
    if possible < scales:
        logger.warning(
            '%d scales at rho %g need a shorter side of %d px, so that the coarsest image fills the %d px of the '
            'receptive field; %d px allow %d scales, which are trained',
            scales, rho, smallest_side(scales, rho), RECEPTIVE_FIELD, side, possible,
        )  # fmt: skip
    return possible


def smallest_side(scales, rho):
    """The shorter side in px that a pyramid of ``scales`` scales needs."""
    return math.ceil((RECEPTIVE_FIELD - SLACK) * rho ** (scales - 1))


def scale_size(size, rho, steps):
    """Height and width ``steps`` scales below the image's own."""
    return tuple(int(side / rho**steps + SLACK) for side in size)


def pyramid(image, scales, rho):
    """An image at every scale, each resized from the original with Pillow's Lanczos filter and clipped.

    Args:
        image (Tensor): ``(..., H, W)`` in [-1, 1].
        scales (int): K, as :func:`fit_scales` gives it.
        rho (float): ratio of neighbouring scales.

    Returns:
        list[Tensor]: K images, coarsest first; the last is ``image`` itself.
    """
    steps = range(scales - 1, 0, -1)
    return [resize(image, scale_size(image.shape[-2:], rho, step)).clamp(-1, 1) for step in steps] + [image]
