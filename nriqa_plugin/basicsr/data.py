"""BasicSR's paired data set with errors that name the files."""

import os

from basicsr.data.paired_image_dataset import PairedImageDataset

from nriqa_plugin.checks import check_keys

KEYS = (
    'name', 'type', 'phase', 'scale', 'dataroot_gt', 'dataroot_lq', 'io_backend', 'meta_info_file', 'filename_tmpl',
    'gt_size', 'use_hflip', 'use_rot', 'use_shuffle', 'mean', 'std', 'color', 'num_worker_per_gpu',
    'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
    'persistent_workers',
)  # fmt: skip


class CheckedPairedImageDataset(PairedImageDataset):
    """``PairedImageDataset`` with the same options; what does not pair or cannot be read is named.

    Raises:
        FileNotFoundError: a folder is missing (at construction).
        ValueError: an unknown option, GT and LQ folders do not pair (at construction), or an image cannot be read.
    """

    def __init__(self, opt):
        check_keys('CheckedPairedImageDataset', opt, KEYS)
        for key in ('dataroot_gt', 'dataroot_lq'):
            if not os.path.isdir(opt[key]):
                raise FileNotFoundError(f'{key}: no such folder: {opt[key]}')
        if opt['io_backend']['type'] == 'disk' and not opt.get('meta_info_file'):
            self._check_pairs(opt)
        super().__init__(opt)

    def _check_pairs(self, opt):
        template = opt.get('filename_tmpl', '{}')
        gt, lq = (
            {entry.name for entry in os.scandir(opt[key]) if entry.is_file() and entry.name[0] != '.'}
            for key in ('dataroot_gt', 'dataroot_lq')
        )
        wanted = {template.format(stem) + extension for stem, extension in map(os.path.splitext, gt)}
        if not gt or wanted != lq:
            raise ValueError(
                f'GT and LQ folders do not pair (filename_tmpl: {template!r}): {opt["dataroot_gt"]} has {len(gt)} '
                f'files, {opt["dataroot_lq"]} has {len(lq)}; without LQ: {sorted(wanted - lq)[:3]}, '
                f'without GT: {sorted(lq - wanted)[:3]}'
            )

    def __getitem__(self, index):
        try:
            return super().__getitem__(index)
        except Exception as error:
            pair = self.paths[index]
            raise ValueError(f'cannot load the pair {pair["gt_path"]} and {pair["lq_path"]}: {error}') from error
