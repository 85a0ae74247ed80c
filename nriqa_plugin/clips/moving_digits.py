"""Clips of digits that move straight on and bounce off the sides, as in Moving MNIST."""

import numpy as np

from nriqa_plugin.checks import check_number

FRAMES, SIDE = 20, 64  # of a clip of Moving MNIST; px
TRAIN_CLIPS = 8000  # of the 10 000 of the published file


def moving_digits(digits, clips, frames=FRAMES, side=SIDE, together=2, speed=0.1, seed=0):
    """Clips made the way Moving MNIST is (Srivastava et al., ICML 2015).

    A digit starts anywhere and moves in any direction by ``speed`` of the way that is open to it, a frame; at a side
    it is reflected. Where digits overlap the brighter one is seen.

    Args:
        digits (ndarray): ``(K, h, w)`` uint8, bright on black.
        clips (int), frames (int): how many, and how long.
        side (int): px of a frame, which is square.
        together (int): digits in a clip, drawn with replacement.
        seed (int): the same seed gives the same clips, and clip i does not depend on how many follow.

    Returns:
        ndarray: ``(clips, frames, side, side)`` uint8.

    Raises:
        ValueError, TypeError: digits that are no such array or larger than a frame; numbers out of range.
    """
    if not isinstance(digits, np.ndarray) or digits.dtype != np.uint8 or digits.ndim != 3 or not len(digits):
        shape = f'{digits.dtype} {digits.shape}' if isinstance(digits, np.ndarray) else type(digits).__name__
        raise TypeError(f'digits must be a uint8 array (K, h, w), got {shape}')
    for option, value in {'clips': clips, 'frames': frames, 'side': side, 'together': together}.items():
        check_number(option, value, low=1, integer=True)
    check_number('speed', speed, low=0, high=1)
    height, width = digits.shape[1:]
    if max(height, width) > side:
        raise ValueError(f'digits of {height} x {width} px do not fit into frames of {side} px')
    made = np.zeros((clips, frames, side, side), np.uint8)
    for i, clip in enumerate(made):
        generator = np.random.default_rng((seed, i))
        chosen = digits[generator.integers(len(digits), size=together)]
        paths = bouncing(frames, (side - height, side - width), together, speed, generator)
        for digit, path in zip(chosen, paths, strict=True):
            for frame, (top, left) in zip(clip, path, strict=True):
                seen = frame[top : top + height, left : left + width]
                np.maximum(seen, digit, out=seen)
    return made


def bouncing(frames, room, count, speed, generator):
    """Corners ``(count, frames, 2)`` in px, each in ``[0, room]``, of things that move and are reflected."""
    angle = generator.uniform(0, 2 * np.pi, count)
    step = speed * np.stack([np.sin(angle), np.cos(angle)], 1)
    start = generator.uniform(0, 1, (count, 2))
    place = (start[:, None] + step[:, None] * np.arange(frames)[:, None]) % 2
    return np.rint(np.minimum(place, 2 - place) * room).astype(int)


def split_original(clips):
    """Moving MNIST's published array ``(20, 10000, 64, 64)`` as clips for training (the first 8000) and for the test.

    Returns:
        tuple[ndarray, ndarray]: ``(8000, 20, 64, 64)`` and ``(2000, 20, 64, 64)``, views. Which clips the study tested
        on is not known. The digits are MNIST's in both, so one digit may be seen in both.

    Raises:
        ValueError: another shape or type.
    """
    if clips.ndim != 4 or clips.dtype != np.uint8 or clips.shape[2:] != (SIDE, SIDE) or clips.shape[1] <= TRAIN_CLIPS:
        raise ValueError(f'Moving MNIST is uint8 (20, 10000, 64, 64), got {clips.dtype} {clips.shape}')
    clips = clips.swapaxes(0, 1)
    return clips[:TRAIN_CLIPS], clips[TRAIN_CLIPS:]
