"""Rectangles of frames: training and test on disjoint parts of the same pictures."""

from typing import NamedTuple

from nriqa_plugin.checks import check_number

GAP = 64  # px between the parts: more than networks and judges see at once matters, less leaks texture


class Region(NamedTuple):
    """A rectangle in px of GT."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self):
        return f'{self.left},{self.top},{self.width},{self.height}'

    def of(self, image):
        """The part of an image ``(..., H, W)``."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def read_region(option, text, scale=1):
    """``LEFT,TOP,WIDTH,HEIGHT`` in px.

    Raises:
        ValueError: other text, negative numbers, or width or height no multiple of ``scale``.
    """
    try:
        numbers = [int(part) for part in text.split(',')]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise ValueError(f'{option} must be LEFT,TOP,WIDTH,HEIGHT in px, got {text!r}')
    for number, (key, low) in zip(numbers, (('left', 0), ('top', 0), ('width', 1), ('height', 1)), strict=True):
        check_number(f'{option}: {key}', number, low=low, integer=True)
    region = Region(*numbers)
    if region.width % scale or region.height % scale:
        raise ValueError(f'{option} must be whole multiples of scale: {scale} in width and height, got {text!r}')
    return region


def gap_between(one, other):
    """How many px lie between two rectangles along the side on which they are farther apart; negative: they overlap."""
    aside = max(one.left, other.left) - min(one.left + one.width, other.left + other.width)
    above = max(one.top, other.top) - min(one.top + one.height, other.top + other.height)
    return max(aside, above)


def check_apart(regions, gap=GAP):
    """Refuse regions that lie nearer to each other than ``gap``.

    Args:
        regions (dict): Region by name.
        gap (int): px.

    Raises:
        ValueError: naming the two.
    """
    named = list(regions.items())
    for index, (name, one) in enumerate(named):
        for other_name, other in named[index + 1 :]:
            apart = gap_between(one, other)
            if apart < gap:
                lie = f'lie {apart} px apart' if apart >= 0 else 'overlap'
                raise ValueError(f'the {name} region {one} and the {other_name} region {other} {lie}; '
                                 f'at least {gap} px are wanted')  # fmt: skip


def check_inside(region, size, path, name):
    """Refuse a region that reaches beyond the frames ``(height, width)`` of the file at ``path``."""
    if region.left + region.width > size[1] or region.top + region.height > size[0]:
        raise ValueError(f'{path} is {size[1]} x {size[0]} px; the {name} region {region} reaches beyond it')
