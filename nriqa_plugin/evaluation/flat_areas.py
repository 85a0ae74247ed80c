"""Flat areas: the windows of a ground truth that hold little detail.

There the results of different losses differ most visibly (Mustafa et al., WACV 2022): dots, ringing and noise have
nothing to hide behind, and the mean over a whole image drowns them.
"""

import math

import torch
from torch.nn import functional

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.crops import window_means

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
NEIGHBOURHOOD = 7  # px, of the local standard deviation
SIZE = 64  # px
# Grey levels of 255. On Kodak24 windows of 64 px cover 13 % of the area, 22 of the 24 images have at least one.
THRESHOLD = 4.0
LABEL = 'flat'


def flat_windows(reference, size=SIZE, count=None, threshold=THRESHOLD):
    """The windows of an image with the least detail, flattest first; they do not overlap.

    The detail of a window is the root mean square, over its pixels, of the standard deviation of the luma in the 7 x 7
    px around each: a slow gradient (sky, skin) counts as flat, a single edge through the window does not. Pure: equal
    inputs give equal windows.

    Args:
        reference (Tensor): ground truth, RGB in [0, 1], ``(3, H, W)``.
        size (int): side of the windows in px; what shall score them has to accept it (NIQE wants 192).
        count (int | None): at most so many; by default all that fit.
        threshold (float): largest detail in grey levels of 255.

    Returns:
        list[tuple[int, int]]: (top, left); empty when nothing is flat, or when the image is smaller than a window.

    Raises:
        ValueError, TypeError: no image of that shape, or an option out of range.
    """
    size, threshold = _check(reference, size, threshold)
    count = math.inf if count is None else check_number('count', count, low=1, integer=True)
    if size > min(reference.shape[-2:]):
        return []
    detail = detail_map(reference, size)
    windows = []
    while len(windows) < count:
        top, left = divmod(detail.argmin().item(), detail.shape[1])
        if detail[top, left] > threshold:
            break
        windows.append((top, left))
        detail[max(top - size + 1, 0) : top + size, max(left - size + 1, 0) : left + size] = math.inf
    return windows


def detail_map(reference, size=SIZE):
    """The detail of every window that fits, see :func:`flat_windows`.

    Returns:
        Tensor: grey levels of 255, ``(H - size + 1, W - size + 1)``, float64.
    """
    luma = torch.einsum('chw,c->hw', reference.detach().cpu().double(), torch.tensor(LUMA, dtype=torch.float64))
    padded = functional.pad((255 * luma)[None, None], (NEIGHBOURHOOD // 2,) * 4, mode='replicate')[0, 0]
    # Around the mean the squares stay small, so that their difference keeps its digits.
    padded = padded - padded.mean()
    variance = window_means(padded.square(), NEIGHBOURHOOD) - window_means(padded, NEIGHBOURHOOD).square()
    return window_means(variance.clamp_min(0), size).clamp_min(0).sqrt()


class FlatRegions:
    """Where judges look when they are restricted to flat areas: ``regions(image, reference)`` of ``score_folder``.

    The windows are those of the reference, so that all results of one image are judged at the same places; a result
    that has drawn dots would not count as flat itself.

    Args:
        size, threshold, count: as in :func:`flat_windows`.
    """

    label = LABEL
    needs_reference = True

    @property
    def identity(self):
        """What the judges' hashes stand for beside the judges."""
        return f'{self.size} px, {self.threshold} levels, {self.count or "all"}'

    def __init__(self, size=SIZE, threshold=THRESHOLD, count=None):
        self.size = check_number('flat size', size, low=NEIGHBOURHOOD, integer=True)
        self.threshold = check_number('flat threshold', threshold, low=0)
        self.count = count

    def __call__(self, image, reference=None):
        """``[(top, left, size), ...]``, flattest first; without a reference a ``ValueError``."""
        if reference is None:
            raise ValueError('flat areas are those of the ground truth: give the references')
        windows = flat_windows(reference, self.size, self.count, self.threshold)
        return [(top, left, self.size) for top, left in windows]


def flat_regions(size, judges):
    """The :class:`FlatRegions` of a command line: ``size`` may be None, and all judges have to be able to score it."""
    size = SIZE if size is None else size
    check_window_judges(size, judges)
    return FlatRegions(size)


def check_window_judges(size, judges):
    """Refuse judges that cannot score a window of this size.

    Raises:
        ValueError: with the judge and the size that it needs.
    """
    for judge in judges:
        if judge.min_side > size:
            raise ValueError(f'{judge.name} needs at least {judge.min_side} px a side, flat windows have {size}: '
                             f'choose --flat-size {judge.min_side} or leave {judge.name} out')  # fmt: skip


def _check(reference, size, threshold):
    if reference.dim() != 3 or len(reference) != 3:
        raise ValueError(f'flat windows: the reference must be (3, H, W), got {tuple(reference.shape)}')
    size = check_number('size', size, low=NEIGHBOURHOOD, integer=True)
    return size, check_number('threshold', threshold, low=0)
