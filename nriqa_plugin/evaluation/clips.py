"""The frames of one clip together, for video judges, within a limit."""

import torch

from nriqa_plugin.evaluation.scores import clip_of
from nriqa_plugin.evaluation.video import joint_hash

CLIP_MEMORY = 4.0  # GiB of frames: about 390 frames of 1280 x 720 px, or 170 of 1920 x 1080 px


class ClipBuffer:
    """Collects the frames of a clip until a video judge scores them.

    Args:
        limit (float): GiB that frames and references of one clip may take; a judge itself takes more on top.
    """

    def __init__(self, limit=CLIP_MEMORY):
        self.limit = limit
        self.clear()

    def clear(self):
        self.clip, self.images, self.targets, self.size = None, [], [], 0
        self.image_hashes, self.reference_hashes = [], []

    def add(self, picture, image, targets, judge):
        """Take a frame in; ``image`` and ``targets`` are ``(1, 3, H, W)``.

        Raises:
            ValueError: frames of different size, several references, or more than the limit.
        """
        self.clip = clip_of(picture.name)
        if len(targets) > 1:
            raise ValueError(f'{picture.where} has {len(targets)} references; a video judge compares with one')
        if self.images and self.images[0].shape != image.shape:
            first, now = (f'{one.shape[-1]} x {one.shape[-2]} px' for one in (self.images[0], image))
            raise ValueError(f'{picture.where} is {now}, the first frame of its clip {first}')
        self.size += sum(tensor.numel() * tensor.element_size() for tensor in (image, *targets))
        if self.size > self.limit * 2**30:
            raise ValueError(f'the video judge {judge} needs all frames of {self.clip} at once, and {len(self.images)} '
                             f'of them already take {self.limit} GiB; score a shorter clip, or raise the limit '
                             '(--clip-memory)')  # fmt: skip
        self.images.append(image)
        self.targets += targets
        self.image_hashes.append(picture.image_hash)
        self.reference_hashes.append(picture.reference_hash)

    def frames(self, with_reference):
        """The clip, ``(1, T, 3, H, W)``, and its reference if wanted."""
        clips = [self.images, self.targets] if with_reference else [self.images]
        return [torch.stack(frames, dim=1) for frames in clips]

    def hashes(self):
        """Those of clip and reference: of the files of all frames together, or of the one file they come from."""
        return clip_hash(self.image_hashes), clip_hash(self.reference_hashes)


def clip_hash(hashes):
    """One hash for those of all frames: of the file they all come from, or of their files together."""
    return joint_hash(list(dict.fromkeys(hashes)))
