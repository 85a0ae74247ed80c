"""BasicSR's data set of LR images alone."""

import random

from basicsr.data.data_util import paths_from_lmdb
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, imfrombytes, img2tensor
from torch.utils.data import Dataset

from nriqa_plugin.checks import check_file, check_keys, check_number, in_place
from nriqa_plugin.evaluation.images import list_images

KEYS = (
    'name', 'type', 'phase', 'scale', 'dataroot_lq', 'io_backend', 'meta_info_file', 'lq_size', 'use_hflip', 'use_rot',
    'use_shuffle', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode',
    'num_prefetch_queue', 'pin_memory', 'persistent_workers',
)  # fmt: skip


class LROnlyDataset(Dataset):
    """LR images alone, for ``train.anchor: start`` or for validation by no-reference judges.

    Options: ``dataroot_lq`` (folder, or lmdb with ``io_backend: {type: lmdb}``), ``meta_info_file`` (names, one a
    line), and in training ``lq_size`` (px of the random crop), ``use_hflip``, ``use_rot``. Items are
    ``{lq: (3, h, w) RGB in [0, 1], lq_path}``.

    Raises:
        FileNotFoundError: no such folder or list (at construction).
        ValueError: an unknown or missing option, an empty folder (at construction); an image that cannot be read or is
            smaller than ``lq_size``, named.
    """

    def __init__(self, opt):
        check_keys('LROnlyDataset', opt, KEYS)
        for key in ('dataroot_lq', 'io_backend'):
            if opt.get(key) in (None, ''):
                raise ValueError(f'LROnlyDataset: the option {key!r} is missing')
        self.opt, self.client, self.backend = opt, None, dict(opt['io_backend'])
        root = opt['dataroot_lq']
        self.training = opt.get('phase') == 'train'
        if self.training:
            self.side = check_number('lq_size', opt.get('lq_size'), low=1, integer=True)
        if self.backend['type'] == 'lmdb':
            if opt.get('meta_info_file'):
                raise ValueError('LROnlyDataset: meta_info_file is for folders; an lmdb has its names in meta_info.txt')
            self.backend |= {'db_paths': [root], 'client_keys': ['lq']}
            self.paths = paths_from_lmdb(root)
        elif opt.get('meta_info_file'):
            lines = check_file('meta_info_file', opt['meta_info_file']).read_text().splitlines()
            self.paths = [f'{root}/{line.split(" ")[0]}' for line in lines if line.strip()]
        else:
            with in_place('dataroot_lq'):
                self.paths = [str(path) for path in list_images(root)]
        if not self.paths:
            raise ValueError(f'LROnlyDataset: the list of images of {root} is empty')

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        try:
            if self.client is None:
                self.client = FileClient(self.backend.pop('type'), **self.backend)
            image = imfrombytes(self.client.get(path, 'lq'), float32=True)
        except Exception as error:
            raise ValueError(f'cannot load {path}: {error}') from error
        if self.training:
            image = augment(self._crop(image, path), self.opt.get('use_hflip', True), self.opt.get('use_rot', True))
        return {'lq': img2tensor(image, bgr2rgb=True, float32=True), 'lq_path': path}

    def _crop(self, image, path):
        height, width = image.shape[:2]
        if min(height, width) < self.side:
            raise ValueError(f'lq_size: {path} has {width} x {height} px, a crop {self.side}')
        top, left = random.randint(0, height - self.side), random.randint(0, width - self.side)
        return image[top : top + self.side, left : left + self.side]
