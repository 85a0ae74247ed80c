"""Running a function on a large image piece by piece."""

from nriqa_plugin.checks import check_number


def in_tiles(function, images, tile, overlap, scale=1):
    """``function(images)`` with the memory of one tile.

    Equal to one call on the whole image where a pixel of the result depends on pixels at most ``overlap`` away, and
    the function does the same at any place of the image.

    Args:
        function (Callable): ``(N, C, h, w)`` to ``(N, C', scale * h, scale * w)``.
        images (Tensor): ``(N, C, H, W)``.
        tile (int): side of a tile in px of ``images``, at least 1; an image no larger than a tile is taken whole.
        overlap (int): px around a tile that the function sees too.
        scale (int): of the function.

    Returns:
        Tensor: ``(N, C', scale * H, scale * W)``.

    Raises:
        ValueError: the function returns another size.
    """
    check_number('tile', tile, low=1, integer=True)
    check_number('overlap', overlap, low=0, integer=True)
    height, width = images.shape[-2:]
    if max(height, width) <= tile:
        return _checked(function, images, scale)
    result = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(height, top + tile), min(width, left + tile)
            seen_top, seen_left = max(0, top - overlap), max(0, left - overlap)
            seen = images[..., seen_top : bottom + overlap, seen_left : right + overlap]
            piece = _checked(function, seen, scale)
            if result is None:
                result = piece.new_empty(*piece.shape[:2], height * scale, width * scale)
            rows, columns = (slice(scale * a, scale * b) for a, b in ((top, bottom), (left, right)))
            y, x = scale * (top - seen_top), scale * (left - seen_left)
            inner = piece[..., y : y + scale * (bottom - top), x : x + scale * (right - left)]
            result[..., rows, columns] = inner
    return result


def _checked(function, images, scale):
    made = function(images)
    wanted = tuple(scale * side for side in images.shape[-2:])
    if tuple(made.shape[-2:]) != wanted:
        raise ValueError(f'an image of {tuple(images.shape[-2:])} px became {tuple(made.shape[-2:])}, wanted {wanted}')
    return made
