"""Lanczos resizing of tensors on any device, equal to Pillow's."""

import functools

import numpy as np
import torch
from PIL import Image


def resize(images, size):
    """Resize with Pillow's antialiased Lanczos filter, not clipped.

    Args:
        images (Tensor): ``(..., H, W)``, floating point, any range.
        size (tuple[int, int]): height and width of the result.

    Returns:
        Tensor: ``(..., *size)``, same type and device; differentiable.
    """
    rows, columns = (
        lanczos_matrix(before, after).to(images) for before, after in zip(images.shape[-2:], size, strict=True)
    )
    return rows @ images @ columns.T


@functools.lru_cache(maxsize=64)
def lanczos_matrix(before, after):
    """The matrix ``(after, before)`` by which Pillow resizes one side: its answer to unit impulses."""
    impulses = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.array(impulses.resize((before, after), Image.Resampling.LANCZOS)))
