"""The crops of a report: which regions are shown, their pictures, and how they fit into the file's size."""

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from nriqa_plugin.evaluation.crops import Crop, in_turns, most_different
from nriqa_plugin.evaluation.images import read_image, to_8_bit
from nriqa_plugin.report.page import region_size
from nriqa_plugin.report.places import INPUT, REFERENCE

THUMBNAIL = 320  # px
QUALITY = 90  # of JPEG, when PNG would be too large


@dataclass(frozen=True)
class Region:
    """One crop as the page shows it.

    Attributes:
        place (int): index of its place.
        crop (Crop): where it lies, in px of the results.
        height, width (int): of the whole image.
        tiles (dict): what is shown, by method; 8-bit RGB arrays, data URIs once encoded, None where a picture is
            missing.
        thumbnail (ndarray | str): the whole image, small.
    """

    place: int
    crop: Crop
    height: int
    width: int
    tiles: dict
    thumbnail: object


def choose_regions(place, number, count=8, size=256):
    """The regions of one place that are worth looking at.

    When there are scores, twice ``count`` images are looked at: those where the methods' scores spread most, each
    judge's spread in units of its own standard deviation. Of these the windows where the pictures differ most are
    taken; images take turns. Pure: equal inputs give equal regions.

    Args:
        place (Place): with pictures.
        number (int): index of the place, kept in the regions.
        count (int): at most so many regions.
        size (int): side in px; smaller in images whose shorter side is smaller.

    Returns:
        list[Region]: with arrays.

    Raises:
        ValueError: a picture that cannot be read.
    """
    if not count:
        return []
    images = _by_spread(place)
    each = -(-count // max(1, len(images)))
    found, regions = [], {}
    for image in images[: 2 * count]:
        pictures = {name: read_image(files[image]) for name, files in place.pictures.items() if image in files}
        reference = read_image(place.references[image]) if image in place.references else None
        compared = list(pictures.values())
        if len(compared) == 1:
            if reference is None:
                height, width = compared[0].shape[-2:]
                side = min(size, height, width)
                windows = [(0.0, Crop(image, (height - side) // 2, (width - side) // 2, side))]
            else:
                windows = most_different(image, [*compared, reference], size, each)
        else:
            windows = most_different(image, compared, size, each)
        found.append(windows)
        for _, crop in windows:  # at once: twenty methods' whole images would not fit into memory
            regions[crop] = _cut(place, number, crop, pictures, reference)
    return [regions[crop] for crop in in_turns(found)[:count]]


def encode(regions, limit):
    """The regions with data URIs, as many as fit.

    Args:
        regions (Sequence[Region]): with arrays.
        limit (int): bytes that all of them together may take.

    Returns:
        tuple[list[Region], list[str]]: PNG; when that is too large JPEG, and then fewer regions. The sentences say
        what was done.
    """
    encoded = [_encoded(region, 'PNG') for region in regions]
    if sum(map(region_size, encoded)) <= limit:
        return encoded, []
    encoded, total, kept = [_encoded(region, 'JPEG') for region in regions], 0, []
    for region in encoded:
        total += region_size(region)
        if total > limit:
            break
        kept.append(region)
    notes = [f'The crops are JPEG of quality {QUALITY}: as PNG they would be larger than the limit on this file. Look '
             'for fine artifacts in the files themselves.']  # fmt: skip
    if len(kept) < len(regions):
        notes.append(f'{len(kept)} of {len(regions)} crops are shown: the others would be larger than the limit on '
                     'this file.')  # fmt: skip
    return kept, notes


def _by_spread(place):
    """Images with pictures; those where the methods' scores differ most come first."""
    spread = dict.fromkeys(sorted(place.shown), 0.0)
    for samples in place.samples.values():
        scores = np.array([[methods[image] for image in sorted(methods)] for methods in samples.values()])
        unit = scores.std()
        if unit > 0 and np.isfinite(unit):
            for image, value in zip(sorted(next(iter(samples.values()))), np.ptp(scores, axis=0) / unit, strict=True):
                if image in spread:
                    spread[image] += float(value)
    # An image that most methods lack compares nothing.
    there = {image: sum(image in files for files in place.pictures.values()) for image in spread}
    return sorted(spread, key=lambda image: (-there[image], -spread[image], image))


def _cut(place, number, crop, pictures, reference):
    whole = reference if reference is not None else next(iter(pictures.values()))
    height, width = whole.shape[-2:]
    rows, columns = slice(crop.top, crop.top + crop.size), slice(crop.left, crop.left + crop.size)
    tiles = {}
    if crop.image in place.lq:
        low = to_8_bit(read_image(place.lq[crop.image]))
        picked = [np.arange(part.start, part.stop) * here // there
                  for part, here, there in ((rows, low.shape[0], height), (columns, low.shape[1], width))]  # fmt: skip
        tiles[INPUT] = low[picked[0]][:, picked[1]]
    if reference is not None:
        tiles[REFERENCE] = to_8_bit(reference[:, rows, columns])
    for name in place.methods:
        if place.pictures.get(name):
            tiles[name] = to_8_bit(pictures[name][:, rows, columns]) if name in pictures else None
    picture = Image.fromarray(to_8_bit(whole))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return Region(number, crop, height, width, tiles, np.asarray(picture))


def _encoded(region, kind):
    tiles = {name: (tile is not None and data_uri(tile, kind)) or None for name, tile in region.tiles.items()}
    return replace(region, tiles=tiles, thumbnail=data_uri(region.thumbnail, 'JPEG'))


def data_uri(pixels, kind):
    """An 8-bit RGB array as text: PNG, or JPEG without chroma subsampling."""
    file = io.BytesIO()
    options = {'quality': QUALITY, 'subsampling': 0} if kind == 'JPEG' else {}
    Image.fromarray(pixels).save(file, kind, **options)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}'
