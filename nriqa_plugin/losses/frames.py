"""Which frames of a clip a judge of images gets to see: all, the middle one, or a few at random."""

import re

import torch

from nriqa_plugin.checks import check_keys, check_number


class Frames:
    """Chooses frames of clips, the same ones from prediction and target.

    Args:
        option (str | dict): ``all``; ``middle``, frame ``T // 2`` counted from 0; or ``{random: n}``, also as the text
            ``random n``: n different frames of each clip, drawn anew at every step.

    With n frames instead of T the judge takes n / T of time and memory, and the mean over the frames is right in
    expectation. ``all`` costs the memory of all frames, or of a single one with ``checkpoint: true``.

    Raises:
        ValueError, TypeError: another option, or n that is no integer of at least 1.
    """

    def __init__(self, option='all'):
        self.count = None
        text = re.fullmatch(r'random +(\d+)', option) if isinstance(option, str) else None
        if text:
            option = {'random': int(text[1])}
        if isinstance(option, dict) and option:
            check_keys('frames', option, ('random',))
            self.count = check_number('frames.random', option['random'], low=1, integer=True)
        elif option not in ('all', 'middle'):
            raise ValueError(f'frames must be all, middle or {{random: n}}, got {option!r}')
        self.kind = 'random' if self.count else option
        self.chosen = self.kind != 'all'

    def of(self, tensors, generator):
        """Frames as images of one batch.

        Args:
            tensors (list[Tensor]): ``(N, T, C, H, W)``, or images ``(N, C, H, W)``, which stay as they are.
            generator (torch.Generator): source of the draws; ``all`` and ``middle`` draw nothing.

        Returns:
            list[Tensor]: ``(N * n, C, H, W)``, clip by clip.

        Raises:
            ValueError: frames are to be chosen from images, or more than there are.
        """
        shape = tensors[0].shape
        if len(shape) != 5:
            if self.chosen:
                raise ValueError(f'frames: {self}: wants clips (N, T, C, H, W), got {tuple(shape)}: this model hands '
                                 'over single frames; leave frames out')  # fmt: skip
            return tensors
        if not self.chosen:
            return [clips.flatten(0, 1) for clips in tensors]
        batch, length = shape[:2]
        index = torch.full((batch, 1), length // 2)
        if self.count:
            if self.count > length:
                raise ValueError(f'frames: {self}: the clips have only {length} frames')
            draws = torch.rand(batch, length, generator=generator)
            index = draws.argsort(1)[:, : self.count].sort(1).values
        rows = torch.arange(batch)[:, None]
        return [clips[rows.to(clips.device), index.to(clips.device)].flatten(0, 1) for clips in tensors]

    def __repr__(self):
        return f'random {self.count}' if self.count else self.kind
