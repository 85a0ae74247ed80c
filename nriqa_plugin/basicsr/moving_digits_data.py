"""``MovingDigitsDataset``: the clips of the simple VSR study, for BasicSR."""

from pathlib import Path

from torch.utils.data import Dataset

from nriqa_plugin.checks import check_keys, in_place
from nriqa_plugin.clips.digit_windows import SCALE, DigitWindows

KEYS = (
    'name', 'type', 'phase', 'scale', 'file', 'num_frame', 'blur_sigma', 'clips', 'seed', 'io_backend', 'use_shuffle',
    'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue',
    'pin_memory', 'persistent_workers',
)  # fmt: skip


class MovingDigitsDataset(Dataset):
    """Windows of moving digits at x2, for ``model_type: PerceptualModel`` with ``base_model: SRModel``.

    Options: ``file``, ``num_frame``, ``blur_sigma``, ``clips`` and ``seed`` as ``file``, ``frames`` and the rest of
    :class:`nriqa_plugin.clips.digit_windows.DigitWindows`. In training a window begins anywhere in its clip, anew
    every time; otherwise always at the same place. Items are ``{lq: (T, 1, h, w), gt: (1, H, W)}``, grey in [0, 1],
    with names in ``lq_path`` and ``gt_path``.

    Raises:
        FileNotFoundError, ValueError, TypeError: as ``DigitWindows``; an unknown or missing option, a scale not 2.
    """

    def __init__(self, opt):
        name = type(self).__name__
        check_keys(name, opt, KEYS)
        if opt.get('file') in (None, ''):
            raise ValueError(f"{name}: the option 'file' is missing")
        if opt.get('scale', SCALE) != SCALE:
            raise ValueError(f'{name}: scale must be {SCALE}, got {opt["scale"]}')
        self.opt = opt
        given = {key: opt[key] for key in ('blur_sigma', 'clips', 'seed') if key in opt}
        with in_place(name):
            self.windows = DigitWindows(opt['file'], opt.get('num_frame', 5), **given)
        self.training = opt.get('phase', 'train') == 'train'

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        start = self.windows.random_start() if self.training else self.windows.fixed_start(index)
        lq, gt = self.windows.window(index, start)
        name = f'{Path(self.opt["file"]).stem}_{index:05d}'
        return {'lq': lq, 'gt': gt, 'lq_path': name, 'gt_path': name}
