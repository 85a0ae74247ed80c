"""Synthetic clips: a window that moves smoothly over a still image."""

import math
from typing import NamedTuple

import torch

from nriqa_plugin.checks import check_flag, check_number
from nriqa_plugin.clips.bicubic import cubic, to_8_bits

TRIES = 1000
SLOWEST = 0.25  # of the highest speed
TURN = math.radians(15)  # at most, a frame


class MovingWindow(NamedTuple):
    """How the window moves: at constant speed, in a direction that turns evenly by up to 15 degrees a frame.

    Attributes:
        width, height (int): of the window in px.
        speed (float): px a frame, of which each clip draws from a quarter to all.
        subpixel (bool): between px the window is interpolated with the cubic kernel, which softens it a little and
            differently in every frame; else positions are rounded and every px is the image's own.
        count (int): clips of an image.
        seed (int)
    """

    width: int
    height: int
    speed: float = 4.0
    subpixel: bool = False
    count: int = 1
    seed: int = 0

    def check(self):
        """Return itself, or raise ``ValueError`` or ``TypeError`` naming the value that is out of range."""
        for key in ('width', 'height', 'count'):
            check_number(key, getattr(self, key), low=1, integer=True)
        check_number('speed', self.speed, low=0)
        check_flag('subpixel', self.subpixel)
        check_number('seed', self.seed, low=0, integer=True)
        return self


def draw_path(window, image_size, frames, generator):
    """Where the window's upper left corner is in every frame.

    Args:
        window (MovingWindow)
        image_size (tuple[int, int]): height and width.
        frames (int)
        generator (torch.Generator)

    Returns:
        Tensor: ``(frames, 2)``, row and column in px, float64, whole numbers unless ``subpixel``.

    Raises:
        ValueError: the image has no room for the window and its way.
    """
    room = torch.tensor([image_size[0] - window.height, image_size[1] - window.width], dtype=torch.float64)
    for _ in range(TRIES):
        speed, angle, turn = torch.rand(3, generator=generator, dtype=torch.float64)
        speed = window.speed * (SLOWEST + (1 - SLOWEST) * speed)
        angles = 2 * math.pi * angle + TURN * (2 * turn - 1) * torch.arange(frames - 1)
        steps = speed * torch.stack([angles.sin(), angles.cos()], dim=1)
        way = torch.cat([torch.zeros(1, 2, dtype=torch.float64), steps.cumsum(0)])
        way = way - way.amin(0)
        free = room - way.amax(0)
        if (free < 0).any():
            continue
        path = way + free * torch.rand(2, generator=generator, dtype=torch.float64)
        return path if window.subpixel else path.round()
    raise ValueError(f'{image_size[1]} x {image_size[0]} px have no room for a window of {window.width} x '
                     f'{window.height} px that moves {frames - 1} times by up to {window.speed} px')  # fmt: skip


def cut_path(image, path, size):
    """The clip that a window sees.

    Args:
        image (Tensor): ``(3, H, W)`` in [0, 1].
        path (Tensor): ``(T, 2)``, see :func:`draw_path`.
        size (tuple[int, int]): height and width of the window.

    Returns:
        Tensor: ``(T, 3, *size)`` in [0, 1]; rounded to 8 bits where it was interpolated.
    """
    if torch.equal(path, path.round()):
        return torch.stack([image[:, y : y + size[0], x : x + size[1]] for y, x in path.long().tolist()])
    frames = []
    for y, x in path.tolist():
        rows, columns = _shifted(y, size[0], image.shape[1]), _shifted(x, size[1], image.shape[2])
        frames.append(rows @ image.double() @ columns.T)
    return to_8_bits(torch.stack(frames)).to(image)


def _shifted(start, length, of):
    """The matrix ``(length, of)`` that interpolates px at ``start``, ``start + 1``, ...; the sides are repeated."""
    at = start + torch.arange(length, dtype=torch.float64)
    first = at.floor().long() - 1
    matrix = torch.zeros(length, of, dtype=torch.float64)
    for tap in range(4):
        index = first + tap
        matrix.scatter_add_(1, index.clamp(0, of - 1)[:, None], cubic(at - index)[:, None])
    return matrix
