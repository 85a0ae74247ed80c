"""Periodic patterns that one result has and another has not: how strong, of which period, where.

The judge ``pattern`` folds a whole image and has to leave the image's own repetitions (a fence, a sensor's grid) out of
account by its threshold. Against a baseline of the same scene these cancel, so that fainter dots stand out, and windows
of about 128 px find dots that cover a part of the image only. Thresholds and rates are measured: docs/artifacts.md.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.crops import check_same_size
from nriqa_plugin.iqa.pattern import PERIODS, fine_detail

BLOCK = 64  # px, about; a window is two of them a side
MIN_SIDE = 32  # px, as the judge ``pattern`` wants
SAME_PATTERN = 0.6  # share of an amplitude in the difference that has to lie in the result itself
SHORTEST = 0.8  # share of the largest amplitude with which a shorter period is preferred


@dataclass(frozen=True)
class PatternRule:
    """When a pattern counts.

    Attributes:
        amplitude (float): grey levels of 255; dots of a levels have the amplitude 8/9 a.
        whole (float): standard errors that it has to reach over the whole image.
        local (float): the same in a window: there are many of them, and a fence fills one.
    """

    amplitude: float = 1.0
    whole: float = 8.0
    local: float = 18.0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_number(f'pattern rule: {name}', value, low=0)


@dataclass(frozen=True)
class Pattern:
    """The strongest pattern of an image.

    Attributes:
        amplitude (float): deviation of a fold's mean, in grey levels of 255; differences beyond 16 count as 16.
        errors (float): the same in standard errors.
        period (int): px.
        top, left, height, width (int): the window of about 128 px where it is clearest.
        local (bool): it counts in that window only, not over the whole image.
    """

    amplitude: float
    errors: float
    period: int
    top: int
    left: int
    height: int
    width: int
    local: bool


def find_pattern(result, baseline=None, rule=None, mask=None):
    """The strongest significant pattern that a result has and its baseline has not.

    The difference of the two less its 3x3 mean is folded at every period from 2 to 16 px: pixels of equal
    (y mod p, x mod p) are averaged. A deviation counts when it passes the rule and when at least 60 % of it are in
    the result itself: a pattern that only the baseline has is no fault of the result.

    Args:
        result, baseline (Tensor): RGB in [0, 1], ``(3, H, W)``. Without a baseline the result is folded alone.
        rule (PatternRule | None): thresholds; default: :class:`PatternRule`'s own.
        mask (Tensor | None): bool ``(H, W)``: only these pixels, for example of flat areas.

    Returns:
        Pattern | None: the largest amplitude, or the shortest period that has 80 % of it, for dots every 4 px repeat
        every 8, too; of the whole image, if that has one, before windows. None: nothing that counts, or a side below
        32 px.

    Raises:
        ValueError: images of different size.
    """
    rule = rule or PatternRule()
    check_same_size('pattern', [result] if baseline is None else [result, baseline])
    if min(result.shape[-2:]) < MIN_SIDE:
        return None
    own = fine_detail(result[None])[0]
    detail = own if baseline is None else fine_detail((result - baseline)[None])[0]
    inside = torch.ones_like(own[0]) if mask is None else mask[1:-1, 1:-1].to(own.dtype)
    values = torch.cat([inside[None], detail * inside, detail.square() * inside, own * inside])
    periods = [period for period in PERIODS if 2 * period <= min(detail.shape[-2:])]
    found = [pattern for period in periods for pattern in _patterns(values, period, rule)]
    for local in (False, True):
        of_kind = [pattern for pattern in found if pattern.local == local]
        if of_kind:
            strong = SHORTEST * max(pattern.amplitude for pattern in of_kind)
            return min((p for p in of_kind if p.amplitude >= strong), key=lambda p: (p.period, -p.amplitude))
    return None


def _patterns(values, period, rule):
    """The clearest pattern of one period over the whole image and in a window, as far as there are any.

    ``values``, ``(1 + 3C, H, W)``: the mask and, inside it, the difference's detail, its square and the result's own.
    """
    blocks = _Blocks(values.shape[-2:], period)
    sums = blocks.fold(values)
    sums = sums[:1], *sums[1:].chunk(3)
    in_windows = [_windows(values) for values in sums]
    local_amplitude, local_errors = _deviation(*in_windows)
    amplitude, errors = _deviation(*(values.sum((1, 2), keepdim=True) for values in sums))
    for local, heights, clearness, limit in (
        (False, amplitude, errors, rule.whole),
        (True, local_amplitude, local_errors, rule.local),
    ):
        counted = torch.where((clearness >= limit) & (255 * heights >= rule.amplitude), clearness, 0)
        if not counted.any():
            continue
        place = counted.argmax().item()
        channel, row, column, y, x = np.unravel_index(place, counted.shape)
        if not local:
            clearest = local_errors[channel, :, :, y, x]
            row, column = np.unravel_index(clearest.argmax().item(), clearest.shape)
        window = blocks.window(int(row), int(column), local_errors.shape[1:3])
        height, clear = (values.flatten()[place].item() for values in (heights, clearness))
        yield Pattern(255 * height, clear, period, *window, local)


def _deviation(n, total, squares, alone):
    """How far each position's mean lies from that of all, and that in standard errors: ``(C, rows, columns, p, p)``.

    A deviation that the result itself has not is 0; so is everything in a window that lies outside the mask by half.
    """
    covered = n.sum((-2, -1), keepdim=True)
    enough = (n >= 2).all(-1, keepdim=True).all(-2, keepdim=True) & (covered >= covered.amax((1, 2), keepdim=True) / 2)
    n = n.clamp_min(1)
    mean = total / n
    deviation = mean - mean.mean((-2, -1), keepdim=True)
    variance = ((squares - total * mean) / (n - 1).clamp_min(1)).clamp_min(0).mean((-2, -1), keepdim=True)
    own = alone / n
    own = own - own.mean((-2, -1), keepdim=True)
    there = (own * deviation.sign() >= SAME_PATTERN * deviation.abs()) & enough
    amplitude = torch.where(there, deviation.abs(), 0)
    return amplitude, amplitude / (variance / n).sqrt().clamp_min(1e-6)


class _Blocks:
    """An image cut into blocks of about 64 px whose sides are multiples of the period, so that their folds add up."""

    def __init__(self, size, period):
        self.period = period
        self.rows, self.columns = (_ends(side // period, max(1, round(side / BLOCK))) for side in size)

    def fold(self, values):
        """Sums over pixels of equal place in a period, by block: ``(C, H, W)`` to ``(C, down, across, p, p)``."""
        p, height, width = self.period, self.rows[-1], self.columns[-1]
        cells = values[:, : height * p, : width * p].reshape(len(values), height, p, width, p)
        rows = torch.stack([part.sum(1) for part in cells.split(_lengths(self.rows), 1)], 1)
        return torch.stack([part.sum(3) for part in rows.split(_lengths(self.columns), 3)], 2)

    def window(self, row, column, shape):
        """``(top, left, height, width)`` in px of the image, of the window at a place of a grid of that shape."""
        (top, bottom), (left, right) = (
            (self.period * ends[place], self.period * ends[place + len(ends) - count])
            for place, ends, count in ((row, self.rows, shape[0]), (column, self.columns, shape[1]))
        )
        return top + 1, left + 1, bottom - top, right - left


def _ends(count, parts):
    """Where parts of about equal length begin, and where the last one ends."""
    parts = min(parts, count)
    return [count * part // parts for part in range(parts + 1)]


def _lengths(ends):
    return [end - start for start, end in itertools.pairwise(ends)]


def _windows(values):
    """Sums of neighbouring blocks, two a side where there are two."""
    for dim in (1, 2):
        if values.shape[dim] > 1:
            values = values.narrow(dim, 0, values.shape[dim] - 1) + values.narrow(dim, 1, values.shape[dim] - 1)
    return values
