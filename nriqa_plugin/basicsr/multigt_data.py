"""``MultiGTDataset``: several ground truths of every image, the LR image from the original only."""

import hashlib
import logging
import math
import os
import random

import numpy as np
import torch
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, imfrombytes, img2tensor
from torch.utils.data import Dataset

from nriqa_plugin.basicsr.degradation import KERNEL_KEYS, BlindKernels, bicubic_crop
from nriqa_plugin.checks import check_choice, check_flag, check_keys, check_number, in_place
from nriqa_plugin.multigt.candidate_set import check_originals, describe
from nriqa_plugin.multigt.layout import column_name, read_sets
from nriqa_plugin.multigt.score_table import ScoreTable

KEYS = (
    'name', 'type', 'phase', 'scale', 'dataroot_gt', 'dataroot_lq', 'layout', 'index', 'need_positive', 'degradation',
    'io_backend', 'gt_size', 'crop_stride', 'scores', 'use_hflip', 'use_rot', 'use_shuffle', 'num_worker_per_gpu',
    'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
    'persistent_workers',
)  # fmt: skip
DEGRADATIONS = ('given', 'bicubic', 'blind')

logger = logging.getLogger('nriqa_plugin')


class MultiGTDataset(Dataset):
    """Crops of all candidates of a set and of its LR image, with one position, flip and rotation for all of them.

    Training only; ``train.gt_selection`` of a ``PerceptualModel`` chooses among the candidates.

    Args:
        opt (dict): ``dataroot_gt``, ``dataroot_lq``, ``layout``, ``index`` and ``need_positive`` as in
            :func:`nriqa_plugin.multigt.layout.read_sets`; the host's ``io_backend`` (``disk`` or ``lmdb``),
            ``gt_size``, ``use_hflip``, ``use_rot`` and loader options; and

            - ``degradation``: ``given`` takes ``dataroot_lq`` or the index's column ``lq``, ``bicubic`` downscales
              the original as MATLAB does (the host's own code; the crop equals that of the whole downscaled image),
              ``blind`` leaves it to ``RealESRGANModel``, with kernels from the host's ``RealESRGANDataset``, whose
              options it takes, and ``kernel_sizes: [least, largest]`` (default [7, 21], the host's). Default:
              ``given`` with ``dataroot_lq`` or ``index``, else ``bicubic``.
            - ``crop_stride`` (int): crops lie at multiples of it, in px of the ground truth; a multiple of ``scale``.
            - ``scores`` (str): the file of scores that ``train.gt_selection`` uses; it is checked to be complete before
              the training starts, and the default of ``crop_stride`` is the least multiple of its grid
              that is one of ``scale``.

    Every item has ``gt_candidates`` ``(K, 3, H, W)`` RGB in [0, 1], ``gt_valid`` and ``gt_positive`` ``(K,)`` bool,
    ``gt_name``, ``gt_crop`` (top, left), ``gt_hashes`` (K texts), ``gt_path`` and, where there is an original, ``gt``;
    ``lq`` ``(3, H / scale, W / scale)``, or with ``blind`` the kernels.

    Raises:
        ValueError, TypeError, FileNotFoundError: at construction for options and files; later for an image that
            cannot be read, has another size than the other candidates, or is too small.
    """

    def __init__(self, opt):
        super().__init__()
        given = opt.get('dataroot_lq') is not None or opt.get('index') is not None
        self.degradation = check_choice(
            'degradation', opt.get('degradation', 'given' if given else 'bicubic'), DEGRADATIONS
        )
        check_keys('MultiGTDataset', opt, KEYS + (KERNEL_KEYS if self.degradation == 'blind' else ()))
        if opt.get('phase', 'train') != 'train':
            raise ValueError('MultiGTDataset is for training; validate on a paired data set')
        if self.degradation != 'given' and opt.get('dataroot_lq') is not None:
            raise ValueError(f'dataroot_lq and degradation: {self.degradation} exclude each other')
        self.opt = opt
        self.scale = check_number('scale', opt['scale'], low=1, integer=True)
        self.gt_size = check_number('gt_size', opt['gt_size'], low=self.scale, integer=True)
        table = ScoreTable(opt['scores']) if opt.get('scores') is not None else None
        grid = math.lcm(table.header.stride, self.scale) if table is not None and table.is_grid else self.scale
        self.stride = check_number('crop_stride', opt.get('crop_stride', grid), low=1, integer=True)
        for key, value in (('gt_size', self.gt_size), ('crop_stride', self.stride)):
            if value % self.scale:
                raise ValueError(f'{key}: {value} is not a multiple of scale {self.scale}')
        self.flips = [check_flag(key, opt.get(key, False)) for key in ('use_hflip', 'use_rot')]
        self.backend = dict(opt['io_backend'])
        check_choice('io_backend.type', self.backend.get('type'), ('disk', 'lmdb'))
        self.lmdb = self.backend['type'] == 'lmdb'
        self.sets, left_out = read_sets(
            opt['dataroot_gt'], opt.get('layout', 'folders'), opt.get('index'), opt.get('dataroot_lq'),
            opt.get('need_positive'), self.lmdb,
        )  # fmt: skip
        self._check_sources()
        if table is not None:
            table.check_sets(self.sets, self.gt_size, self.stride)
        self.kernels = BlindKernels(opt) if self.degradation == 'blind' else None
        self.client = None
        logger.info('MultiGTDataset %s: %s', opt.get('name', ''), describe(self.sets, left_out))

    def _check_sources(self):
        if self.degradation == 'given':
            without = next((one for one in self.sets if one.lq is None), None)
            if without is not None:
                raise ValueError(f'degradation: given, but {without.name} has no LR image; give dataroot_lq')
        else:
            check_originals(self.sets, f'degradation: {self.degradation} makes the LR image from it')

    def __len__(self):
        return len(self.sets)

    def __getitem__(self, index):
        one = self.sets[index]
        if self.client is None:
            self.client = self._open_client()
        with in_place(f'the set {one.name}'):
            return self._load(one)

    def _load(self, one):
        images, hashes = {}, [''] * len(one.paths)
        for k, path in enumerate(one.paths):
            if path is not None:
                images[k], hashes[k] = self._read(path, column_name(k))
        first = min(images)
        height, width = images[first].shape[:2]
        for k, image in images.items():
            if image.shape != images[first].shape:
                raise ValueError(f'{one.paths[k]} has {_size(image)}, but {one.paths[first]} has '
                                 f'{_size(images[first])}: all candidates must have one size')  # fmt: skip
        lq = self._read(one.lq, 'lq')[0] if self.degradation == 'given' else None
        if lq is not None and (lq.shape[0] * self.scale, lq.shape[1] * self.scale) != (height, width):
            raise ValueError(f'{one.lq} has {_size(lq)}, which is not 1/{self.scale} of {_size(images[first])}')
        if min(height, width) < self.gt_size:
            raise ValueError(f'{one.paths[first]} has {_size(images[first])}, less than gt_size: {self.gt_size}')
        top, left = (self.stride * random.randint(0, (side - self.gt_size) // self.stride) for side in (height, width))
        crops = [image[top : top + self.gt_size, left : left + self.gt_size] for image in images.values()]
        if self.degradation == 'bicubic':
            crops.append(bicubic_crop(images[0], top, left, self.gt_size, self.scale))
        elif lq is not None:
            side = self.gt_size // self.scale
            crops.append(lq[top // self.scale :, left // self.scale :][:side, :side])
        crops = augment([np.ascontiguousarray(crop) for crop in crops], *self.flips)
        tensors = img2tensor([np.ascontiguousarray(crop) for crop in crops], bgr2rgb=True, float32=True)
        return self._item(one, dict(zip(images, tensors, strict=False)), tensors[-1], (top, left), hashes)

    def _item(self, one, tensors, last, crop, hashes):
        candidates = torch.zeros(len(one.paths), 3, self.gt_size, self.gt_size)
        for k, tensor in tensors.items():
            candidates[k] = tensor
        first = next(iter(tensors))
        item = {
            'gt_candidates': candidates, 'gt_valid': torch.tensor(one.valid), 'gt_positive': torch.tensor(one.positive),
            'gt_name': one.name, 'gt_crop': torch.tensor(crop), 'gt_hashes': hashes, 'gt_path': one.paths[first],
        }  # fmt: skip
        if one.original is not None:
            item['gt'] = tensors[0]
        if self.kernels is not None:
            return {**item, **self.kernels.draw()}
        return {**item, 'lq': last, 'lq_path': one.lq or one.original}

    def _read(self, path, client_key):
        data = self.client.get(path, client_key)
        if data is None:
            raise ValueError(f'{client_key}.lmdb has no key {path!r}')
        try:
            image = imfrombytes(data, float32=True)
        except Exception as error:  # the host asks for the type of what OpenCV could not decode
            raise ValueError(f'{path} is not a readable image (truncated or damaged?)') from error
        return image, hashlib.sha256(data).hexdigest()[:12]

    def _open_client(self):
        options = dict(self.backend)
        if self.lmdb:
            columns = {column_name(k) for one in self.sets for k, p in enumerate(one.paths) if p}
            paths = {column: os.path.join(self.opt['dataroot_gt'], f'{column}.lmdb') for column in sorted(columns)}
            if self.degradation == 'given':
                paths['lq'] = self.opt.get('dataroot_lq') or os.path.join(self.opt['dataroot_gt'], 'lq.lmdb')
            options |= {'db_paths': list(paths.values()), 'client_keys': list(paths)}
        return FileClient(options.pop('type'), **options)


def _size(image):
    return f'{image.shape[0]} x {image.shape[1]} px'
