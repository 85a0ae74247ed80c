"""What a judge gets to see of an image: random crops and slight changes, the same for prediction and target."""

import torch
import torch.nn.functional as F
from torch import distributed

MAX_SHIFT = 8  # px; breaks the alignment with the judge's patch and JPEG grids
RESIZE_RANGE = (0.9, 1.1)


def clamp_keeping_gradient(images):
    """Clamp to [0, 1]; the gradient passes unchanged, so overshooting pixels still learn."""
    return images + (images.clamp(0, 1) - images).detach()


def step_generator(seed, iteration):
    """A CPU generator that depends on (seed, iteration, rank) only: a resumed run draws the same."""
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    return torch.Generator().manual_seed(hash((int(seed), int(iteration), rank)) & 0x7FFF_FFFF_FFFF_FFFF)


def random_crops(tensors, side, count, generator):
    """Cut ``count`` random ``side x side`` windows from every sample, the same ones from every tensor.

    Args:
        tensors (list[Tensor | None]): batches ``(N, ..., H, W)`` of one size.
        side (int): px.
        count (int): windows per sample; the batch grows to ``count * N``.
        generator (torch.Generator): source of the positions.

    Raises:
        ValueError: the images are smaller than the crop.
    """
    batch, (height, width) = tensors[0].shape[0], tensors[0].shape[-2:]
    if side > min(height, width):
        raise ValueError(f'crop: {side} px is larger than the images ({height} x {width} px)')
    tops = torch.randint(height - side + 1, (count * batch,), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (count * batch,), generator=generator).tolist()
    corners = list(zip(tops, lefts, strict=True))

    def cut(images):
        return torch.stack([images[i % batch, ..., t : t + side, x : x + side] for i, (t, x) in enumerate(corners)])

    return [None if images is None else cut(images) for images in tensors]


def random_change(tensors, min_side, generator):
    """Resize by 0.9 to 1.1, shift by up to 8 px and flip, the same for every tensor; never below ``min_side``.

    An artifact that raises a judge's score only at one scale, position or orientation loses its reward.

    Args:
        tensors (list[Tensor | None]): batches ``(N, ..., H, W)`` of one size.
        min_side (int): px that the judge needs.
        generator (torch.Generator): source of the draws.
    """
    height, width = tensors[0].shape[-2:]
    low, high = RESIZE_RANGE
    factor = low + (high - low) * torch.rand((), generator=generator).item()
    size = [max(min_side, round(side * factor)) for side in (height, width)]
    room = [min(MAX_SHIFT, side - min_side) for side in size]
    top, left = (torch.randint(r + 1, (), generator=generator).item() for r in room)
    flip = torch.rand((), generator=generator).item() < 0.5

    def change(images):
        flat = images.flatten(0, -4) if images.dim() > 4 else images
        flat = F.interpolate(flat, size=size, mode='bicubic', align_corners=False, antialias=True)
        flat = flat[..., top:, left:]
        flat = flat.flip(-1) if flip else flat
        return flat.reshape(*images.shape[:-2], *flat.shape[-2:])

    return [None if images is None else change(images) for images in tensors]
