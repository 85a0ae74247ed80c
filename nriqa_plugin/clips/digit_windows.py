"""Windows of consecutive frames out of a file of grey clips, with their small, blurred input."""

import random

import numpy as np
import torch

from nriqa_plugin.checks import check_file, check_number
from nriqa_plugin.clips.degradation import ClipDegradation

SCALE = 2


class DigitWindows:
    """Windows of a ``.npy`` file of clips, and what the study makes of them as the network's input.

    Every frame is halved by MATLAB's bicubic and then blurred ("Comparing Perceptual Quality vs. Pixel Loss on a Simple
    VSR Model", which does not say how strongly), then rounded to 8 bits.

    Args:
        file (str | Path): ``(clips, frames, H, W)`` uint8, as ``tools/moving_mnist.py`` writes it; read clip by clip.
        frames (int): of a window, odd: the target is the middle one.
        blur_sigma (float): of the Gaussian blur, in px of the small frames; 0 for none.
        clips (int | None): take the first so many only.
        seed (int): of the windows that :meth:`fixed_start` gives.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, TypeError: it holds something else, clips shorter than the window, fewer clips than asked for, or an
            option is out of range.
    """

    def __init__(self, file, frames=5, blur_sigma=1.0, clips=None, seed=0):
        path = check_file('file', file)
        try:
            self.clips = np.load(path, mmap_mode='r', allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f'file: {path} is not a .npy file of plain numbers: {error}') from error
        shape = self.clips.shape
        if (
            self.clips.dtype != np.uint8
            or len(shape) != 4
            or shape[2] % SCALE
            or shape[3] % SCALE
            or not len(self.clips)
        ):
            raise ValueError(f'file: {path} must hold clips (clips, frames, H, W) of uint8 with even sides, got '
                             f'{self.clips.dtype} {shape}')  # fmt: skip
        self.frames = check_number('frames', frames, low=1, integer=True)
        if self.frames % 2 == 0:
            raise ValueError(f'frames must be odd: the target is the middle one, got {frames}')
        if shape[1] < self.frames:
            raise ValueError(f'file: the clips of {path} have {shape[1]} frames, a window has {self.frames}')
        if clips is not None:
            check_number('clips', clips, low=1, integer=True)
            if clips > shape[0]:
                raise ValueError(f'clips: {clips} are asked for, {path} has {shape[0]}')
            self.clips = self.clips[:clips]
        check_number('blur_sigma', blur_sigma, low=0)
        self.degradation = ClipDegradation(['bicubic', {'type': 'gaussian_blur', 'sigma': blur_sigma}], scale=SCALE)
        self.seed = check_number('seed', seed, low=0, integer=True)

    def __len__(self):
        return len(self.clips)

    def random_start(self):
        """A start drawn from Python's generator, which the hosts seed in every worker."""
        return random.randint(0, self.clips.shape[1] - self.frames)

    def fixed_start(self, index):
        """The same start for clip ``index`` whenever it is asked for."""
        return int(np.random.default_rng((self.seed, index)).integers(self.clips.shape[1] - self.frames + 1))

    def window(self, index, start):
        """Frames ``start`` to ``start + frames - 1`` of clip ``index``.

        Returns:
            tuple[Tensor, Tensor]: input ``(frames, 1, H / 2, W / 2)`` and target ``(1, H, W)``, the middle frame; both
            grey in [0, 1].
        """
        large = self._frames(index, start, self.frames)
        return self.degradation(large, torch.Generator()), large[self.frames // 2]

    def whole(self, index):
        """Clip ``index``: input ``(T, 1, H / 2, W / 2)`` and all its frames ``(T, 1, H, W)``."""
        large = self._frames(index, 0, self.clips.shape[1])
        return self.degradation(large, torch.Generator()), large

    def _frames(self, index, start, count):
        return torch.from_numpy(self.clips[index, start : start + count].copy())[:, None].float() / 255
