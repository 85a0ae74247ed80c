"""A data set for BasicSR that spoils its ground truth on the fly: noise, JPEG, or a function of one's own."""

import logging
import os
import random

import numpy as np
import torch
from basicsr.data.data_util import paths_from_lmdb
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import FileClient, imfrombytes, img2tensor, scandir
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from nriqa_plugin.checks import check_choice, check_file, check_flag, check_keys, check_number, in_place
from nriqa_plugin.evaluation.images import EXTENSIONS
from nriqa_plugin.mdf.distortions import check_distorted, create_distortion

KEYS = (
    'name', 'type', 'phase', 'scale', 'dataroot_gt', 'degradation', 'seed', 'io_backend', 'meta_info_file', 'gt_size',
    'use_hflip', 'use_rot', 'use_shuffle', 'mean', 'std', 'color', 'num_worker_per_gpu', 'batch_size_per_gpu',
    'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers',
)  # fmt: skip
# Luma of BGR in [0, 1] by ITU-R BT.601: weights and offset.
LUMA = {'y': ((24.966, 128.553, 65.481), 16 / 255), 'grey': ((0.114 * 255, 0.587 * 255, 0.299 * 255), 0)}

logger = logging.getLogger('nriqa_plugin')


class DegradedImageDataset(Dataset):
    """Ground-truth images, and what a degradation makes of them as the network's input (scale 1).

    Args:
        opt (dict): BasicSR's options of a data set:

            - ``dataroot_gt``: folder (searched without subfolders), or a ``.lmdb`` with ``io_backend: {type: lmdb}``.
            - ``degradation``: ``{type: gaussian_noise, sigma: [0, 55]}`` (drawn for every image: blind), ``{type: jpeg,
              quality: 10}``, ``{type: jpeg, quality: [7, 10]}`` or ``package.module:function``; see
              :func:`nriqa_plugin.mdf.distortions.create_distortion`. It may give values outside [0, 1], which stay.
            - ``seed`` (default 0): outside training an image's degradation depends on it and on the image's place
              alone, so that every validation sees the same inputs.
            - ``color``: ``rgb``, ``y`` (BasicSR's luma, 16/255 to 235/255) or ``grey`` (full range, as published grey
              denoisers want it).
            - ``gt_size``, ``use_hflip``, ``use_rot`` (training only), ``io_backend``, ``meta_info_file`` (file names in
              ``dataroot_gt``, what follows a space is not read), ``mean``, ``std``: as in BasicSR's data sets.

    In training crop, flips and degradation draw from python's generator, which the host seeds in every worker. The
    degradation comes after crop and flips: JPEG's blocks begin at the crop's corner, as at a whole image's.

    Gives ``lq`` and ``gt`` ``(C, H, W)`` RGB, ``gt`` in [0, 1], and ``lq_path`` and ``gt_path``, which are equal.

    Raises:
        FileNotFoundError: the folder, lmdb or meta_info_file is missing (at construction).
        ValueError, TypeError: an unknown or missing option, no images, another scale than 1 (at construction); an
            image that cannot be read or is smaller than ``gt_size``, a degradation that gives no image (then).
    """

    def __init__(self, opt):
        super().__init__()
        name = type(self).__name__
        check_keys(name, opt, KEYS)
        for key in ('dataroot_gt', 'io_backend', 'degradation'):
            if opt.get(key) in (None, ''):
                raise ValueError(f'{name}: the option {key!r} is missing')
        if opt.get('scale', 1) != 1:
            raise ValueError(f'{name}: scale must be 1, got {opt["scale"]}: degraded images keep their size')
        self.opt = opt
        self.training = opt.get('phase', 'train') == 'train'
        with in_place(f'{name}: degradation'):
            self.degradation = create_distortion(opt['degradation'])
        self.seed = check_number('seed', opt.get('seed', 0), low=0, integer=True)
        self.color = check_choice('color', opt.get('color') or 'rgb', ('rgb', *LUMA))
        if self.training:
            check_number('gt_size', opt.get('gt_size'), low=1, integer=True)
            for key in ('use_hflip', 'use_rot'):
                check_flag(key, opt.get(key, False))
        self.paths = _paths(opt)
        self.backend = dict(opt['io_backend'])
        if self.backend['type'] == 'lmdb':
            self.backend |= {'db_paths': [opt['dataroot_gt']], 'client_keys': ['gt']}
        self.file_client = None

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        with in_place(path):
            gt = self._to_tensor(self._crop(self._load(path), path) if self.training else self._load(path))
            seed = random.getrandbits(32) if self.training else self._seed_of(index)
            generator = torch.Generator().manual_seed(seed)
            with in_place('degradation'):
                made = self.degradation(gt[None].clone(), generator)
                lq = check_distorted(self.degradation, gt[None], made)[0].to(gt)
        mean, std = self.opt.get('mean'), self.opt.get('std')
        if mean is not None or std is not None:
            lq, gt = normalize(lq, mean, std), normalize(gt, mean, std)
        return {'lq': lq, 'gt': gt, 'lq_path': path, 'gt_path': path}

    def _seed_of(self, index):
        return int(np.random.SeedSequence((self.seed, index)).generate_state(1)[0])

    def _load(self, path):
        """BGR ``(H, W, 3)`` in [0, 1]."""
        if self.file_client is None:  # only now, in the worker: an open lmdb cannot be handed over
            backend = dict(self.backend)
            self.file_client = FileClient(backend.pop('type'), **backend)
        try:
            return imfrombytes(self.file_client.get(path, 'gt'), float32=True)
        except Exception as error:  # the host and OpenCV raise all kinds of errors
            raise ValueError(f'cannot read the image: {error}') from error

    def _crop(self, image, path):
        size = self.opt['gt_size']
        if min(image.shape[:2]) < size:
            raise ValueError(f'the image is {image.shape[1]} x {image.shape[0]} px, smaller than gt_size: {size}')
        image, _ = paired_random_crop(image, image, size, 1, path)
        return augment(image, self.opt.get('use_hflip', False), self.opt.get('use_rot', False))

    def _to_tensor(self, image):
        """``(C, H, W)``, RGB or one channel."""
        if self.color in LUMA:
            weights, offset = LUMA[self.color]
            image = (image @ np.divide(weights, 255, dtype=np.float32) + np.float32(offset))[..., None]
        return img2tensor(image, bgr2rgb=True, float32=True).contiguous()


def _paths(opt):
    """Full paths, or the keys of an lmdb, as the host's ``SingleImageDataset`` finds them."""
    folder, meta = opt['dataroot_gt'], opt.get('meta_info_file')
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'dataroot_gt: no such folder: {folder}')
    if opt['io_backend']['type'] == 'lmdb':
        with in_place('dataroot_gt'):
            paths = paths_from_lmdb(folder)
    elif meta is not None:
        lines = check_file('meta_info_file', meta).read_text().splitlines()
        paths = [os.path.join(folder, line.split(' ')[0]) for line in lines if line.strip()]
        folder = meta
    else:
        files = sorted(scandir(folder, full_path=True))
        paths = [path for path in files if os.path.splitext(path)[1].lower() in EXTENSIONS]
        if len(paths) < len(files):
            others = len(files) - len(paths)
            logger.warning('dataroot_gt: %d files in %s are no images and are left out', others, folder)
    if not paths:
        raise ValueError(f'dataroot_gt: no images in {folder} (subfolders are not searched); '
                         f'known endings: {" ".join(EXTENSIONS)}')  # fmt: skip
    return paths
