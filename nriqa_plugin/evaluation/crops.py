"""Which regions of the results are worth looking at."""

import math
from dataclasses import dataclass

from torch.nn import functional

from nriqa_plugin.checks import check_number


@dataclass(frozen=True)
class Crop:
    """A square region of an image, in px of the ground truth."""

    image: str
    top: int
    left: int
    size: int


def worst_crops(images_by_method, reference=None, size=96, count=3):
    """The regions where methods differ most: there one sees what the scores mean.

    The measure is the mean over a ``size`` x ``size`` window of the squared deviation from the methods' average; with
    one method, of its squared error against the reference. Images take turns, the most different first; regions of
    one image do not overlap. Pure: equal inputs give equal crops.

    Args:
        images_by_method (dict[str, dict[str, Tensor]]): images by method and name, ``(3, H, W)`` in [0, 1]. Only
            names that all methods have are considered.
        reference (dict[str, Tensor] | None): ground truths by name; used only when there is one method.
        size (int): side in px; an image with a shorter side is cropped to a square of that side.
        count (int): at most so many; fewer when no room is left.

    Returns:
        list[Crop]

    Raises:
        ValueError: images of one name that differ in size, or one method without reference.
    """
    check_number('size', size, low=1, integer=True)
    check_number('count', count, low=0, integer=True)
    groups = list(images_by_method.values())
    if len(groups) == 1:
        if reference is None:
            raise ValueError('worst_crops: one method alone differs from nothing; give a reference or a second method')
        groups.append(reference)
    names = sorted(set.intersection(*(set(group) for group in groups))) if groups else []
    found = [most_different(name, [group[name] for group in groups], size, count) for name in names]
    return in_turns(found)[:count]


def most_different(name, images, size, count):
    """The windows of one image where its versions differ most, and by how much; they do not overlap.

    Args:
        name (str): of the image.
        images (Sequence[Tensor]): its versions, ``(3, H, W)`` in [0, 1].
        size, count (int): as in :func:`worst_crops`.

    Returns:
        list[tuple[float, Crop]]: the most different first; the number is the squared deviation from the versions'
        average, summed over versions and channels, averaged over the window.

    Raises:
        ValueError: versions that differ in size.
    """
    values, crops = window_means(_spread(name, images), size), []
    side = min(size, *images[0].shape[-2:])
    while len(crops) < count and (largest := values.max().item()) > -math.inf:
        top, left = divmod(values.argmax().item(), values.shape[1])
        crops.append((largest, Crop(name, top, left, side)))
        values[max(top - side + 1, 0) : top + side, max(left - side + 1, 0) : left + side] = -math.inf
    return crops


def in_turns(found):
    """Crops of several images, the first of every image before the second of any; the most different first.

    Args:
        found (Iterable[list[tuple[float, Crop]]]): what :func:`most_different` gave for each image.

    Returns:
        list[Crop]
    """
    turns = [(turn, -measure, crop.image, crop) for crops in found for turn, (measure, crop) in enumerate(crops)]
    return [crop for *_, crop in sorted(turns, key=lambda item: item[:3])]


def check_same_size(name, images):
    """Refuse images that are not all ``(3, H, W)`` of one size."""
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1 or any(len(s) != 3 or s[0] != 3 for s in sizes):
        raise ValueError(f'{name}: images to compare must be (3, H, W) of one size, got {sorted(sizes)}')


def _spread(name, images):
    """Squared deviation from the average image, summed over images and channels: ``(H, W)`` float64."""
    check_same_size(name, images)
    images = [image.detach().cpu() for image in images]
    average = sum(image.double() for image in images) / len(images)  # one at a time: twenty versions need no stack
    return sum((image.double() - average).square().sum(0) for image in images)


def window_means(values, size):
    """Mean of every window that fits, ``(H - side + 1, W - side + 1)``, by way of a summed-area table."""
    side = min(size, *values.shape)
    total = functional.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return windows / side**2
