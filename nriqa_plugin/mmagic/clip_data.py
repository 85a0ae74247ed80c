"""Clips in folders, in mmagic's data pipelines: a data set, and the transforms that choose a window and a crop.

Training, LQ made on the fly::

    train_pipeline = [
        dict(type='ClipWindow', num_frames=7),
        dict(type='LoadImageFromFile', key='gt', channel_order='rgb'),  # and key='img' where LQ is stored
        dict(type='ClipCrop', gt_size=256, scale=4, degradation='bicubic'),  # no degradation where LQ is stored
        dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
        dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='vertical'),
        dict(type='RandomTransposeHW', keys=['img', 'gt'], transpose_ratio=0.5),
        dict(type='PackInputs'),
    ]

Validation: no ``ClipWindow`` (the data set gives the windows), ``ClipCrop`` without ``gt_size`` and with a ``seed``.
"""

import logging
import os
import zlib

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset

from nriqa_plugin.checks import check_flag, check_keys, check_number, in_place
from nriqa_plugin.clips.degradation import ClipDegradation
from nriqa_plugin.clips.folders import Clip, check_first_frames, check_length, check_sizes, find_clips, pair_clips
from nriqa_plugin.clips.windows import check_intervals, split_windows

logger = logging.getLogger('nriqa_plugin')


class ClipFolderDataset(BaseDataset):
    """Folders of frames, at any depth, of any length and with any names.

    Args:
        data_root (str): what ``data_prefix`` and ``ann_file`` are relative to.
        data_prefix (dict): ``gt``, and ``img`` where LQ is stored.
        ann_file (str): the clips to take, one a line; default: all.
        scale (int): GT is so many times larger than LQ.
        num_input_frames (int | None): for training what a window spans, ``ClipWindow`` chooses one; in ``test_mode``
            clips are cut into windows of so many, one after the other, each under the ``key`` ``CLIP@START``, and
            frames left over are counted in the log. None: clips whole.
        pipeline (list): transforms, see this module.
        test_mode (bool)

    Every sample has ``key``, ``gt_path`` and, where LQ is stored, ``img_path`` (lists of files), ``sequence_length``.

    Raises:
        FileNotFoundError: a folder or list is missing.
        ValueError, TypeError: no clips, clips that do not pair by name, number of frames or size, or that have fewer
            frames than a window; the clip is named.
    """

    def __init__(
        self, data_root='', data_prefix=None, ann_file='', scale=4, num_input_frames=None, pipeline=(),
        test_mode=False, metainfo=None, lazy_init=False, serialize_data=True, indices=None, max_refetch=1000,
    ):  # fmt: skip
        prefix = dict(data_prefix or {'gt': 'GT'})
        check_keys('ClipFolderDataset: data_prefix', prefix, ('gt', 'img'))
        if 'gt' not in prefix:
            raise ValueError("ClipFolderDataset: data_prefix needs 'gt'")
        self.scale = check_number('scale', scale, low=1, integer=True)
        self.frames = num_input_frames
        if num_input_frames is not None:
            check_number('num_input_frames', num_input_frames, low=1, integer=True)
        super().__init__(
            ann_file=ann_file, metainfo={'dataset_type': 'clip_folders', 'task_name': 'vsr', **(metainfo or {})},
            data_root=data_root, data_prefix=prefix, pipeline=list(pipeline), test_mode=test_mode,
            lazy_init=lazy_init, serialize_data=serialize_data, indices=indices, max_refetch=max_refetch,
        )  # fmt: skip

    def load_data_list(self):
        found = {key: find_clips(f'data_prefix.{key}', root, self.ann_file or None)
                 for key, root in self.data_prefix.items()}  # fmt: skip
        clips = pair_clips(found['gt'], found.get('img'), ('data_prefix.gt', 'data_prefix.img'))
        check_length(clips, self.frames or 1)
        check_first_frames(clips, self.scale)
        windows, left = split_windows(clips, self.frames if self.test_mode else None)
        if left:
            logger.warning('%s: %d frames at the ends of clips fill no window of num_input_frames: %d and are not '
                           'scored', self.data_root, left, self.frames)  # fmt: skip
        return [self._sample(clips[window.clip], window) for window in windows]

    def _sample(self, clip, window):
        shown = slice(window.start, window.stop)
        stored = {'img_path': [str(path) for path in clip.lq[shown]]} if clip.lq else {}
        return {
            'key': window.name, 'gt_path': [str(path) for path in clip.gt[shown]], **stored,
            'sequence_length': window.stop - window.start, 'num_input_frames': self.frames,
        }  # fmt: skip


class ClipWindow(BaseTransform):
    """A random window of a clip's frames, before they are loaded.

    Args:
        num_frames (int)
        interval_list (Sequence[int]): distances between frames, of which one is drawn.
        reverse (bool): half of the windows run backwards.
        middle_only (bool): ``gt_path`` becomes a list of the middle frame alone where LQ is stored; where it is made,
            ``ClipCrop`` has to be told.

    Raises:
        ValueError, TypeError: an option out of range (at construction); a clip with fewer frames, named (then).
    """

    def __init__(self, num_frames=7, interval_list=(1,), reverse=False, middle_only=False):
        self.frames = check_number('ClipWindow: num_frames', num_frames, low=1, integer=True)
        self.intervals = check_intervals(interval_list)
        self.reverse = check_flag('ClipWindow: reverse', reverse)
        self.middle_only = check_flag('ClipWindow: middle_only', middle_only)
        if middle_only and num_frames % 2 == 0:
            raise ValueError(f'ClipWindow: middle_only needs an odd num_frames, got {num_frames}')

    def transform(self, results):
        interval = self.intervals[np.random.randint(len(self.intervals))]
        span = 1 + (self.frames - 1) * interval
        check_length([Clip(results['key'], tuple(results['gt_path']))], span)
        start = np.random.randint(len(results['gt_path']) - span + 1)
        shown = list(range(start, start + span, interval))
        shown = shown[::-1] if self.reverse and np.random.rand() < 0.5 else shown
        for key in ('gt_path', 'img_path'):
            if key in results:
                results[key] = [results[key][i] for i in shown]
        if self.middle_only and 'img_path' in results:
            results['gt_path'] = [results['gt_path'][self.frames // 2]]
        results['num_input_frames'] = results['sequence_length'] = self.frames
        return results

    def __repr__(self):
        return (f'{type(self).__name__}(num_frames={self.frames}, interval_list={self.intervals}, '
                f'reverse={self.reverse}, middle_only={self.middle_only})')  # fmt: skip


class ClipCrop(BaseTransform):
    """The same crop of all frames, random; and ``img`` made from ``gt`` where LQ is not stored.

    Args:
        gt_size (int | None): px, a multiple of ``scale``; None: whole frames.
        scale (int)
        degradation (str | list | None): see :class:`nriqa_plugin.clips.degradation.ClipDegradation`; None: ``img`` is
            there.
        seed (int | None): for validation: the degradation of a clip depends on it and on the ``key`` alone. None: all
            draws follow numpy's generator, which mmengine seeds in every worker.
        middle_only (bool): of ``gt`` the middle frame alone is kept, as a list of one.

    ``gt`` and ``img`` are lists of ``(H, W, 3)`` in 0 to 255; a made ``img`` is uint8.

    Raises:
        ValueError, TypeError: an option out of range (at construction); frames of unequal size, smaller than
            ``gt_size``, no multiple of ``scale``, or that do not pair; the clip is named (then).
    """

    def __init__(self, gt_size=None, scale=4, degradation=None, seed=None, middle_only=False):
        self.scale = check_number('ClipCrop: scale', scale, low=1, integer=True)
        self.gt_size = gt_size
        if gt_size is not None and check_number('ClipCrop: gt_size', gt_size, low=1, integer=True) % scale:
            raise ValueError(f'ClipCrop: gt_size must be a multiple of scale: {scale}, got {gt_size}')
        self.degradation = None if degradation is None else ClipDegradation(degradation, scale)
        self.seed = seed if seed is None else check_number('ClipCrop: seed', seed, low=0, integer=True)
        self.middle_only = check_flag('ClipCrop: middle_only', middle_only)

    def transform(self, results):
        key = results['key']
        if self.degradation and 'img' in results:
            raise ValueError(f'ClipCrop: the clip {key!r} has img already; leave out degradation or the loading of img')
        if not self.degradation and 'img' not in results:
            raise ValueError(f'ClipCrop: the clip {key!r} has no img; load it, or give a degradation to make it')
        gt, img = results['gt'], results.get('img', [])
        clip = Clip(key, tuple(results['gt_path']), tuple(results['img_path']) if img else None)
        sizes = ([frame.shape[:2] for frame in frames] for frames in (gt, img))
        check_sizes(clip, *sizes, self.scale, self.gt_size or 1)
        box = self._box(gt[0].shape)
        if self.degradation:
            img = self._made(gt, box, results)
        else:
            img = _cut(img, [side // self.scale for side in box])
        gt = _cut(gt, box)
        results['gt'] = gt[len(gt) // 2 :][:1] if self.middle_only else gt
        results['img'], results['scale'] = img, self.scale
        return results

    def _box(self, shape):
        if self.gt_size is None:
            return (0, 0, *shape[:2])
        free = ((side - self.gt_size) // self.scale + 1 for side in shape[:2])
        return (*(int(np.random.randint(places)) * self.scale for places in free), self.gt_size, self.gt_size)

    def _made(self, gt, box, results):
        bgr = results.get('gt_channel_order', 'bgr') == 'bgr'
        clip = torch.from_numpy(np.stack(gt)).permute(0, 3, 1, 2).float() / 255
        with in_place(f'the clip {results["key"]!r}'):
            small = self.degradation.crop(clip.flip(1) if bgr else clip, box, self._generator(results['key']))
        small = (small.flip(1) if bgr else small).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        results['img_path'], results['ori_img_shape'] = results['gt_path'], [frame.shape for frame in small]
        for key in ('channel_order', 'color_type'):
            if f'gt_{key}' in results:
                results[f'img_{key}'] = results[f'gt_{key}']
        return list(small)

    def _generator(self, key):
        if self.seed is None:
            seed = np.random.randint(2**32, dtype=np.uint64)
        else:
            name = key.replace(os.sep, '/').encode()
            seed = np.random.SeedSequence((self.seed, zlib.crc32(name))).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    def __repr__(self):
        return (f'{type(self).__name__}(gt_size={self.gt_size}, scale={self.scale}, degradation={self.degradation!r}, '
                f'seed={self.seed}, middle_only={self.middle_only})')  # fmt: skip


def _cut(frames, box):
    top, left, height, width = box
    return [np.ascontiguousarray(frame[top : top + height, left : left + width]) for frame in frames]
