"""``MovingDigitsDataset``: the clips of the simple VSR study, for mmagic."""

from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset

from nriqa_plugin.checks import in_place
from nriqa_plugin.clips.digit_windows import DigitWindows


class MovingDigitsDataset(BaseDataset):
    """Windows of moving digits at x2, for a ``BaseEditModel`` whose preprocessor has one channel of mean and std.

    Args:
        file (str), num_input_frames (int), blur_sigma (float), clips (int | None), seed (int): as ``file``, ``frames``
            and the rest of :class:`nriqa_plugin.clips.digit_windows.DigitWindows`.
        pipeline (list): transforms; ``[dict(type='PackInputs')]`` is enough.
        test_mode (bool): windows always at the same place; otherwise anywhere in their clips, anew every time.

    Samples have ``img``, a list of ``(h, w, 1)`` frames, and ``gt`` ``(H, W, 1)``, float32 in 0..255, ``key``,
    ``img_path`` and ``gt_path``.

    Raises:
        FileNotFoundError, ValueError, TypeError: as ``DigitWindows``.
    """

    def __init__(
        self, file, num_input_frames=5, blur_sigma=1.0, clips=None, seed=0, pipeline=(), test_mode=False, metainfo=None,
        lazy_init=False, serialize_data=True, indices=None, max_refetch=1000,
    ):  # fmt: skip
        with in_place(type(self).__name__):
            self.windows = DigitWindows(file, num_input_frames, blur_sigma, clips, seed)
        self.name = Path(file).stem
        super().__init__(
            metainfo={'dataset_type': 'moving_digits', 'task_name': 'vsr', **(metainfo or {})}, pipeline=list(pipeline),
            test_mode=test_mode, lazy_init=lazy_init, serialize_data=serialize_data, indices=indices,
            max_refetch=max_refetch,
        )  # fmt: skip

    def load_data_list(self):
        return [{'index': i, 'key': f'{self.name}_{i:05d}'} for i in range(len(self.windows))]

    def prepare_data(self, idx):
        sample = self.get_data_info(idx)
        index, key = sample['index'], sample['key']
        start = self.windows.fixed_start(index) if self.test_mode else self.windows.random_start()
        lq, gt = (
            255 * images.movedim(-3, -1).numpy().astype(np.float32) for images in self.windows.window(index, start)
        )
        grey = {f'{name}_color_type': 'grayscale' for name in ('img', 'gt')}
        grey |= {f'{name}_channel_order': 'rgb' for name in ('img', 'gt')}  # bgr is taken for granted otherwise
        return self.pipeline({'img': list(lq), 'gt': gt, 'key': key, 'img_path': key, 'gt_path': key, **grey})
