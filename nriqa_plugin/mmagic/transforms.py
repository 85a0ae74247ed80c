"""``Degrade``: makes the network's input from the ground truth on the fly, in a pipeline of mmagic."""

import zlib
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from nriqa_plugin.checks import check_number, in_place
from nriqa_plugin.mdf.distortions import check_distorted, create_distortion


class Degrade(BaseTransform):
    """``img`` as a degradation of ``gt``: ``dict(type='Degrade', degradation=dict(type='jpeg', quality=10))``.

    It belongs after loading, cropping and flipping ``gt``, before ``PackInputs``. JPEG's blocks then begin at the
    crop's corner, as at a whole image's.

    Args:
        degradation (dict | str): ``{type: gaussian_noise, sigma: [0, 55]}`` (drawn for every image: blind), ``{type:
            jpeg, quality: 10}``, ``{type: jpeg, quality: [7, 10]}`` or ``package.module:function``; see
            :func:`nriqa_plugin.mdf.distortions.create_distortion`.
        seed (int | None): for validation and test: the draws depend on it and on the file's name alone, so that
            every validation sees the same inputs. None, for training: they follow numpy's generator, which mmengine
            seeds in every worker.

    ``gt`` is ``(H, W, C)`` in 0 to 255, ``img`` the same as float32, unrounded and not clipped, unless the degradation
    does so.

    Raises:
        ValueError, TypeError: at construction an unknown degradation or option; then no ``gt``, one that is no single
            image, or a degradation that gives no image of its size, naming the file.
    """

    def __init__(self, degradation, seed=None):
        with in_place('Degrade: degradation'):
            self.degradation = create_distortion(degradation)
        self.seed = seed if seed is None else check_number('Degrade: seed', seed, low=0, integer=True)

    def transform(self, results):
        """Adds ``img`` and what mmagic's loading of an image would note beside it."""
        gt, path = results.get('gt'), results.get('gt_path', '')
        with in_place(f'Degrade, {path}'):
            if not isinstance(gt, np.ndarray) or gt.ndim != 3:
                what = 'there is none' if gt is None else f'got {getattr(gt, "shape", type(gt).__name__)}'
                raise ValueError(f"wants one image (H, W, C) under the key 'gt', {what}: load it first "
                                 "(LoadImageFromFile, key='gt'); clips are not degraded")  # fmt: skip
            bgr = gt.shape[2] == 3 and results.get('gt_channel_order', 'bgr') == 'bgr'
            unit = torch.from_numpy(gt.astype(np.float32) / 255).permute(2, 0, 1)[None]
            unit = unit.flip(1) if bgr else unit
            img = check_distorted(self.degradation, unit, self.degradation(unit.clone(), self._generator(path)))
        img = img.flip(1) if bgr else img
        results['img'] = np.ascontiguousarray((img[0] * 255).permute(1, 2, 0).numpy(), dtype=np.float32)
        results['img_path'], results['ori_img_shape'] = path, results['img'].shape
        for key in ('channel_order', 'color_type'):
            if f'gt_{key}' in results:
                results[f'img_{key}'] = results[f'gt_{key}']
        return results

    def _generator(self, path):
        if self.seed is None:
            seed = np.random.randint(2**32, dtype=np.uint64)
        else:
            seed = np.random.SeedSequence((self.seed, zlib.crc32(Path(path).name.encode()))).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    def __repr__(self):
        return f'{type(self).__name__}(degradation={self.degradation!r}, seed={self.seed})'
