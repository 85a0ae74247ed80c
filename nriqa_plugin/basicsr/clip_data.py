"""BasicSR's data set of clips in folders, for training; LQ stored or made on the fly."""

import random

import torch
from torch.utils.data import Dataset

from nriqa_plugin.basicsr.clip_files import KEYS, ClipFiles
from nriqa_plugin.checks import check_flag, check_keys, check_number, in_place
from nriqa_plugin.clips.windows import check_intervals

TRAINING_KEYS = (*KEYS, 'gt_size', 'use_hflip', 'use_rot', 'random_reverse', 'flip_sequence', 'interval_list')


class ClipFolderDataset(Dataset):
    """A random window of a random crop of every clip, as ``VideoRecurrentModel`` and ``VideoBaseModel`` train on.

    Args:
        opt (dict): BasicSR's options of a data set:

            - ``dataroot_gt``: a folder with a folder of frames for every clip, at any depth; or an lmdb with the keys
              ``CLIP/FRAME`` and ``io_backend: {type: lmdb}``.
            - ``dataroot_lq``: the same clips, ``scale`` times smaller; without it LQ is made on the fly by
              ``degradation`` (default ``bicubic``), see :class:`nriqa_plugin.clips.degradation.ClipDegradation`.
            - ``meta_info_file``: the clips to take, one a line; default: all.
            - ``num_frame`` (default 7), ``interval_list`` (default [1], one is drawn), ``random_reverse``.
            - ``flip_sequence``: the window and its mirror image in time, ``T`` is twice ``num_frame``; not with
              ``middle_only``.
            - ``middle_only``: ``gt`` is the window's middle frame, for networks that give that one.
            - ``gt_size``: px, a multiple of ``scale``; ``use_hflip``, ``use_rot`` (vertical flip and transposition):
              alike for all frames.

    All draws come from python's generator, which the host seeds in every worker.

    Gives ``lq`` ``(T, 3, gt_size / scale, gt_size / scale)``, ``gt`` ``(T, 3, gt_size, gt_size)`` or, with
    ``middle_only``, ``(3, gt_size, gt_size)``, RGB in [0, 1], and ``key``, the clip's name.

    Raises:
        FileNotFoundError: a folder or list is missing (at construction).
        ValueError, TypeError: an unknown or missing option, no clips, clips that do not pair by name, number of frames
            or size, that have fewer frames than the window or are smaller than ``gt_size`` (at construction, by each
            clip's first frame); a frame that cannot be read or has another size than the others (then). The clip is
            named.
    """

    def __init__(self, opt):
        super().__init__()
        check_keys('ClipFolderDataset', opt, TRAINING_KEYS)
        self.opt = opt
        self.frames = check_number('num_frame', opt.get('num_frame', 7), low=1, integer=True)
        self.middle_only = check_flag('middle_only', opt.get('middle_only', False))
        if self.middle_only and self.frames % 2 == 0:
            raise ValueError(f'middle_only needs an odd num_frame, got {self.frames}')
        self.flip_sequence = check_flag('flip_sequence', opt.get('flip_sequence', False))
        if self.middle_only and self.flip_sequence:
            raise ValueError('flip_sequence is for networks that give the whole clip, not with middle_only')
        self.intervals = check_intervals(opt.get('interval_list', [1]))
        self.gt_size = check_number('gt_size', opt.get('gt_size'), low=1, integer=True)
        self.flips = [check_flag(key, opt.get(key, False)) for key in ('random_reverse', 'use_hflip', 'use_rot')]
        self.files = ClipFiles('ClipFolderDataset', opt, 1 + (self.frames - 1) * max(self.intervals), self.gt_size)
        if self.gt_size % self.files.scale:
            raise ValueError(f'gt_size must be a multiple of scale: {self.files.scale}, got {self.gt_size}')

    def __len__(self):
        return len(self.files.clips)

    def __getitem__(self, index):
        clip = self.files.clips[index]
        shown = self._window(len(clip.gt))
        wanted = shown if self.files.degradation or not self.middle_only else shown[self.frames // 2 :][:1]
        gt, lq = self.files.read(clip, wanted, shown)
        gt, lq = self._crop(gt, lq, clip.name)
        if self.middle_only:
            gt = gt[len(gt) // 2]
        gt, lq = _turned((gt, lq), *self.flips[1:])
        if self.flip_sequence:
            gt, lq = (torch.cat([part, part.flip(0)]) for part in (gt, lq))
        return {'lq': lq, 'gt': gt, 'key': clip.name}

    def _window(self, length):
        """The numbers of the frames, perhaps backwards."""
        interval = random.choice(self.intervals)
        start = random.randint(0, length - 1 - (self.frames - 1) * interval)
        shown = list(range(start, start + self.frames * interval, interval))[: self.frames]
        return shown[::-1] if self.flips[0] and random.random() < 0.5 else shown

    def _crop(self, gt, lq, name):
        side, scale = self.gt_size, self.files.scale
        top, left = (random.randint(0, (size - side) // scale) * scale for size in gt.shape[-2:])
        if lq is None:
            generator = torch.Generator().manual_seed(random.getrandbits(32))
            with in_place(f'the clip {name!r}'):
                lq = self.files.degradation.crop(gt, (top, left, side, side), generator)
        else:
            y, x = top // scale, left // scale
            lq = lq[..., y : y + side // scale, x : x + side // scale]
        return gt[..., top : top + side, left : left + side], lq


def _turned(clips, hflip, rotate):
    """All frames flipped and transposed alike, by the host's chances."""
    mirrored, upside_down, transposed = (on and random.random() < 0.5 for on in (hflip, rotate, rotate))
    sides = [side for side, turned in ((-1, mirrored), (-2, upside_down)) if turned]
    clips = [clip.flip(sides) for clip in clips]
    return [(clip.transpose(-1, -2) if transposed else clip).contiguous() for clip in clips]
