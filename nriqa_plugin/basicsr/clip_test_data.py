"""BasicSR's data set of clips in folders, for validation and test; LQ stored or made on the fly."""

import logging

import numpy as np
import torch
from basicsr.data.data_util import generate_frame_indices
from torch.utils.data import Dataset

from nriqa_plugin.basicsr.clip_files import KEYS, ClipFiles
from nriqa_plugin.checks import check_choice, check_flag, check_keys, check_number, in_place
from nriqa_plugin.clips.windows import split_windows

TEST_KEYS = (*KEYS, 'padding', 'seed', 'cache_data')
PADDINGS = ('replicate', 'reflection', 'reflection_circle', 'circle')

logger = logging.getLogger('nriqa_plugin')


class ClipFolderTestDataset(Dataset):
    """Whole clips for ``VideoRecurrentModel``, or with ``middle_only`` frame by frame for ``VideoBaseModel``.

    Args:
        opt (dict): ``dataroot_gt``, ``dataroot_lq``, ``meta_info_file``, ``io_backend``, ``degradation`` as in
            :class:`nriqa_plugin.basicsr.clip_data.ClipFolderDataset`, and

            - ``num_frame``: clips in windows of so many frames, one after the other, each under the name
              ``CLIP@START``; frames left over at the end are not scored, and counted in the log. Default: clips whole.
              With ``middle_only`` the odd number that is shown for one (default 7).
            - ``padding`` (``middle_only``): what stands for frames beyond the clip's ends, as in the host's
              ``VideoTestDataset``; default ``reflection_circle``.
            - ``seed`` (default 0): a clip's degradation depends on it and on the clip's place alone.
            - ``cache_data``: keep what has been read or made in memory.

    Gives ``lq`` and ``gt`` ``(T, 3, H, W)`` RGB in [0, 1] and ``folder``; with ``middle_only`` ``gt`` ``(3, H, W)``
    and also ``idx`` (``FRAME/FRAMES``), ``border`` and ``lq_path``. ``data_info`` and ``folders`` are the host's.

    Raises:
        FileNotFoundError, ValueError, TypeError: as in :class:`nriqa_plugin.basicsr.clip_data.ClipFolderDataset`.
    """

    def __init__(self, opt):
        super().__init__()
        check_keys('ClipFolderTestDataset', opt, TEST_KEYS)
        self.opt = opt
        self.middle_only = check_flag('middle_only', opt.get('middle_only', False))
        frames = opt.get('num_frame', 7 if self.middle_only else None)
        if frames is not None:
            check_number('num_frame', frames, low=1, integer=True)
        if self.middle_only and frames % 2 == 0:
            raise ValueError(f'middle_only needs an odd num_frame, got {frames}')
        self.frames = frames
        self.padding = check_choice('padding', opt.get('padding') or 'reflection_circle', PADDINGS)
        self.seed = check_number('seed', opt.get('seed', 0), low=0, integer=True)
        self.cache = {} if check_flag('cache_data', opt.get('cache_data', False)) else None
        self.files = ClipFiles('ClipFolderTestDataset', opt, frames or 1)
        self.windows, left = split_windows(self.files.clips, None if self.middle_only else frames)
        if left:
            logger.warning('%s: %d frames at the ends of clips fill no window of num_frame: %d and are not scored',
                           opt.get('name'), left, frames)  # fmt: skip
        self.folders = [window.name for window in self.windows]
        self.data_info = self._describe()

    def _describe(self):
        """The host's table, one entry a frame."""
        info = {'lq_path': [], 'gt_path': [], 'folder': [], 'idx': [], 'border': []}
        self.places = []
        for number, window in enumerate(self.windows):
            clip, length = self.files.clips[window.clip], window.stop - window.start
            edge = self.frames // 2 if self.middle_only else 0
            for frame in range(length):
                path = str(clip.gt[window.start + frame])
                info['gt_path'].append(path)
                info['lq_path'].append(str(clip.lq[window.start + frame]) if clip.lq else path)
                info['folder'].append(window.name)
                info['idx'].append(f'{frame}/{length}')
                info['border'].append(int(not edge <= frame < length - edge))
                self.places.append((number, frame))
        return info

    def __len__(self):
        return len(self.places) if self.middle_only else len(self.windows)

    def __getitem__(self, index):
        if not self.middle_only:
            gt, lq = self._load(index)
            return {'lq': lq.clone(), 'gt': gt.clone(), 'folder': self.folders[index]}
        number, frame = self.places[index]
        gt, lq = self._load(number)
        shown = generate_frame_indices(frame, len(gt), self.frames, self.padding)
        item = {key: self.data_info[key][index] for key in ('folder', 'idx', 'border', 'lq_path')}
        return {'lq': lq[shown], 'gt': gt[frame].clone(), **item}

    def _load(self, number):
        """GT and LQ of a window; the last one read is kept, so that going frame by frame reads a clip once."""
        cache = self.cache if self.cache is not None else self.__dict__.setdefault('last', {})
        if number not in cache:
            if self.cache is None:
                cache.clear()
            cache[number] = self._read(self.windows[number])
        return cache[number]

    def _read(self, window):
        clip, shown = self.files.clips[window.clip], range(window.start, window.stop)
        gt, lq = self.files.read(clip, shown, shown)
        if lq is None:
            seed = np.random.SeedSequence((self.seed, window.clip, window.start)).generate_state(1)[0]
            with in_place(f'the clip {clip.name!r}'):
                lq = self.files.degradation(gt, torch.Generator().manual_seed(int(seed)))
        return gt, lq
