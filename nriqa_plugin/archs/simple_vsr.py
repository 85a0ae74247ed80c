"""SimpleVSR: the small video network of a study of perceptual against pixel losses."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from nriqa_plugin.checks import check_choice, checks_options

FRAMES = 5  # of the window; the output is its middle frame
LQ_SIDE, GT_SIDE = 32, 64  # px; the last layer is a matrix over all pixels, so other sizes do not fit
FORMS = ('paper', 'released')


@checks_options
class SimpleVSR(nn.Module):
    """The x2 network of "Comparing Perceptual Quality vs. Pixel Loss on a Simple VSR Model" (Weatherly et al.).

    Every frame goes through the same convolutions (3 x 3, padding 1) and is flattened to a map of
    ``(channels, positions)``; the five maps are stacked as channels and merged by two convolutions, 5 -> 3 -> 1, each
    with a ReLU; a matrix over the merged map and a sigmoid give the 64 x 64 pixels.

    Args:
        form (str): what happens to a frame.

            - ``released``, as in the authors' released code: 1 -> 8, max-pooling by 2, ELU; 8 -> 32, ELU. The map is
              32 x 256; 33 561 110 parameters.
            - ``paper``, as in the text: three convolutions, each max-pooled by 2 and followed by an ELU. Their widths
              are not given: 8 and 32 as in the code, then four times as many again, 128. The map is 128 x 16;
              8 432 278 parameters. What follows the frames is not given either: as in the code.

    The last ReLU has one channel: as PyTorch initialises it, it is 0 at every position, and the output the same for all
    inputs, in about one of three networks (24 to 38 % of 120 seeds). So both merging convolutions begin without a bias
    and the last with non-negative weights; nothing else differs from PyTorch's start.

    Shapes: ``(N, 5, 1, 32, 32)`` grey in [0, 1] to ``(N, 1, 64, 64)``, the middle frame, within (0, 1).

    Raises:
        ValueError: an unknown form; an input of another size, with colour or with another number of frames.
    """

    def __init__(self, form='released'):
        super().__init__()
        widths = {'paper': (1, 8, 32, 128), 'released': (1, 8, 32)}[check_choice('form', form, FORMS)]
        pooled = len(widths) - 1 if form == 'paper' else 1
        layers = []
        for i, (before, after) in enumerate(pairwise(widths)):
            pool = [nn.MaxPool2d(2)] if i < pooled else []
            layers += [nn.Conv2d(before, after, 3, padding=1), *pool, nn.ELU()]
        self.frame = nn.Sequential(*layers)
        self.merge = nn.Sequential(
            nn.Conv2d(FRAMES, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1), nn.ReLU()
        )
        self.pixels = nn.Linear(widths[-1] * (LQ_SIDE // 2**pooled) ** 2, GT_SIDE**2)
        with torch.no_grad():
            self.merge[2].weight.abs_()
            for conv in (self.merge[0], self.merge[2]):
                conv.bias.zero_()

    def forward(self, clip):
        _check(clip)
        if clip.shape[1] != FRAMES:
            raise ValueError(f'SimpleVSR takes windows of {FRAMES} frames, got {tuple(clip.shape)}; '
                             'slide() goes over longer clips')  # fmt: skip
        return self._middle(self._maps(clip))

    def slide(self, clip):
        """All frames but the two first and two last: ``(N, T, 1, 32, 32)`` to ``(N, T - 4, 1, 64, 64)``.

        20 frames give 16. Each frame goes through its convolutions once, all windows through the rest in one call.

        Raises:
            ValueError: fewer than 5 frames, or frames of another size.
        """
        _check(clip)
        if clip.shape[1] < FRAMES:
            raise ValueError(f'SimpleVSR needs {FRAMES} frames at least, got {clip.shape[1]}: {tuple(clip.shape)}')
        windows = self._maps(clip).unfold(1, FRAMES, 1).movedim(-1, 2)  # (N, T - 4, 5, channels, positions)
        return self._middle(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])

    def _maps(self, clip):
        """``(N, T, 1, 32, 32)`` to ``(N, T, channels, positions)``."""
        return self.frame(clip.flatten(0, 1)).flatten(2).unflatten(0, clip.shape[:2])

    def _middle(self, maps):
        """``(N, 5, channels, positions)`` to ``(N, 1, 64, 64)``."""
        pixels = self.pixels(self.merge(maps).flatten(1))
        return torch.sigmoid(pixels).view(-1, 1, GT_SIDE, GT_SIDE)


def bicubic_middle(clip):
    """The middle frame of ``(N, T, C, H, W)``, T odd, enlarged twice by bicubic interpolation: the study's baseline."""
    small = clip[:, clip.shape[1] // 2]
    return F.interpolate(small, scale_factor=2, mode='bicubic', align_corners=False).clamp(0, 1)


def _check(clip):
    wanted = (1, LQ_SIDE, LQ_SIDE)
    if clip.dim() != 5 or tuple(clip.shape[2:]) != wanted:
        raise ValueError(f'SimpleVSR takes grey clips (N, T, 1, {LQ_SIDE}, {LQ_SIDE}), got {tuple(clip.shape)}')
