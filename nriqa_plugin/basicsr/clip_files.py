"""Clips for BasicSR's data sets: found, paired and read, from folders or lmdb."""

import numpy as np
import torch
from basicsr.data.data_util import paths_from_lmdb
from basicsr.utils import FileClient, imfrombytes

from nriqa_plugin.checks import check_choice, check_number
from nriqa_plugin.clips.degradation import ClipDegradation
from nriqa_plugin.clips.folders import (
    check_first_frames,
    check_length,
    check_sizes,
    clips_of,
    find_clips,
    listed_clips,
    pair_clips,
)

KEYS = (
    'name', 'type', 'phase', 'scale', 'dataroot_gt', 'dataroot_lq', 'meta_info_file', 'io_backend', 'degradation',
    'num_frame', 'middle_only', 'use_shuffle', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio',
    'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers',
)  # fmt: skip


class ClipFiles:
    """The clips of a data set's options, and how LQ comes about.

    Args:
        owner (str): the data set, for messages.
        opt (dict): of the data set.
        span (int): frames that a clip must have.
        gt_size (int): px that are cut from GT.

    Attributes:
        clips (list[Clip])
        degradation (ClipDegradation | None): None where LQ is stored.

    Raises:
        FileNotFoundError, ValueError, TypeError: see :class:`nriqa_plugin.basicsr.clip_data.ClipFolderDataset`.
    """

    def __init__(self, owner, opt, span, gt_size=1):
        for key in ('dataroot_gt', 'io_backend'):
            if opt.get(key) in (None, ''):
                raise ValueError(f'{owner}: the option {key!r} is missing')
        self.scale = check_number('scale', opt.get('scale'), low=1, integer=True)
        roots = {'gt': opt['dataroot_gt'], 'lq': opt.get('dataroot_lq')}
        if not roots['lq']:
            del roots['lq']
        elif opt.get('degradation') is not None:
            raise ValueError(f'{owner}: dataroot_lq and degradation exclude each other: LQ is stored or made')
        self.degradation = None if 'lq' in roots else ClipDegradation(opt.get('degradation') or 'bicubic', self.scale)
        self.backend, self.client = dict(opt['io_backend']), None
        check_choice(f'{owner}: io_backend.type', self.backend.get('type'), ('disk', 'lmdb'))
        on_disk = self.backend['type'] == 'disk'
        find = find_clips if on_disk else _find_in_lmdb
        found = {kind: find(f'dataroot_{kind}', root, opt.get('meta_info_file')) for kind, root in roots.items()}
        if not on_disk:
            self.backend |= {'db_paths': list(roots.values()), 'client_keys': list(roots)}
        self.clips = pair_clips(found['gt'], found.get('lq'))
        check_length(self.clips, span)
        if on_disk:
            check_first_frames(self.clips, self.scale, gt_size)
        self.gt_size = gt_size

    def read(self, clip, gt, lq):
        """Some frames of a clip.

        Args:
            clip (Clip)
            gt, lq (Sequence[int]): which; ``lq`` is not looked at where LQ is made.

        Returns:
            tuple[Tensor, Tensor | None]: ``(T, 3, H, W)`` RGB in [0, 1], and LQ where it is stored.

        Raises:
            ValueError: a frame cannot be read, or sizes do not fit; naming it.
        """
        lq = lq if clip.lq else ()
        gt_paths, lq_paths = tuple(clip.gt[i] for i in gt), tuple(clip.lq[i] for i in lq) if clip.lq else None
        gt_images = [self._image(path, 'gt') for path in gt_paths]
        lq_images = [self._image(path, 'lq') for path in lq_paths or ()]
        sizes = ([image.shape[:2] for image in images] for images in (gt_images, lq_images))
        check_sizes(clip._replace(gt=gt_paths, lq=lq_paths), *sizes, self.scale, self.gt_size)
        return _to_tensor(gt_images), _to_tensor(lq_images) if lq_images else None

    def _image(self, path, key):
        """BGR ``(H, W, 3)`` in [0, 1]."""
        if self.client is None:  # only now, in the worker: an open lmdb cannot be handed over
            backend = dict(self.backend)
            self.client = FileClient(backend.pop('type'), **backend)
        try:
            content = self.client.get(path, key)
        except Exception as error:  # the host raises all kinds of errors
            raise ValueError(f'cannot read the frame {path}: {error}') from error
        if content is None:
            raise ValueError(f'cannot read the frame {path}: it is not in the lmdb')
        try:
            return imfrombytes(content, float32=True)
        except Exception as error:  # OpenCV's, and one of the host where there is nothing
            raise ValueError(f'cannot read the frame {path} (truncated or damaged?)') from error


def _find_in_lmdb(option, root, meta_info_file):
    with_names = clips_of(paths_from_lmdb(str(root)))
    if meta_info_file is None:
        return with_names
    wanted = listed_clips(meta_info_file)
    missing = [name for name in wanted if name not in with_names]
    if missing:
        raise ValueError(f'{option}: {root} has no clip {missing[0]!r}, which {meta_info_file} lists')
    return {name: with_names[name] for name in wanted}


def _to_tensor(images):
    stacked = np.stack(images)[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))
