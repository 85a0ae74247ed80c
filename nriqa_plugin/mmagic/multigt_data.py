"""Several ground truths in mmagic's data pipelines: a data set, and the transforms that know of candidates.

Candidates travel as a list under ``gt``, which the stock ``Flip`` and ``RandomTransposeHW`` change alike::

    train_pipeline = [
        dict(type='LoadGroundTruths', channel_order='rgb'),
        dict(type='LoadImageFromFile', key='img', channel_order='rgb'),  # where an LR image is given
        dict(type='SetValues', dictionary=dict(scale=4)),
        dict(type='MultiGTCrop', gt_patch_size=256),
        dict(type='OriginalToLQ'),  # where none is given: then degradations of the key img follow
        ...
        dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
        dict(type='PackGroundTruths'),
    ]
"""

import hashlib
import logging

import mmcv
import numpy as np
from mmagic.datasets.transforms import LoadImageFromFile, PackInputs
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.fileio import get_file_backend

from nriqa_plugin.checks import check_number
from nriqa_plugin.multigt.candidate_set import check_originals, describe
from nriqa_plugin.multigt.layout import read_sets
from nriqa_plugin.multigt.score_table import ScoreTable

META = ('gt_name', 'gt_numbers', 'gt_count', 'gt_positive', 'gt_crop', 'gt_hashes')

logger = logging.getLogger('nriqa_plugin')


class MultiGTDataset(BaseDataset):
    """Sets of candidates, for training.

    Args:
        data_root (str), layout, index, need_positive: ``root`` and the rest as in
            :func:`nriqa_plugin.multigt.layout.read_sets`.
        data_prefix (dict): ``{img: FOLDER}`` where LR images are given, else ``{}``: they are made from the originals
            then.
        scores (str | None): the file of scores that the selection uses; it is checked to be complete.
        pipeline (list): transforms, see this module.

    Every sample has ``gt_path`` (a list of the files that there are), ``gt_numbers`` (which candidates they are),
    ``gt_count`` (K), ``gt_positive`` (a flag for each of the K), ``gt_name`` and, where an LR image is given,
    ``img_path``.

    Raises:
        ValueError, FileNotFoundError: as ``read_sets``.
    """

    def __init__(
        self, data_root, pipeline, layout='folders', index=None, need_positive=None, data_prefix=None, scores=None,
        metainfo=None, lazy_init=False, serialize_data=True, indices=None, max_refetch=1000,
    ):  # fmt: skip
        prefix = dict(data_prefix or {})
        self.lq = prefix.pop('img', None)
        if prefix:
            raise ValueError(f'MultiGTDataset: data_prefix knows img only, got {sorted(prefix)}')
        self.options = {'layout': layout, 'index': index, 'need_positive': need_positive}
        self.root, self.scores = data_root, scores
        super().__init__(
            ann_file='', metainfo={'dataset_type': 'multi_gt', 'task_name': 'sisr', **(metainfo or {})},
            data_root=data_root, data_prefix={}, pipeline=pipeline,
            lazy_init=lazy_init, serialize_data=serialize_data, indices=indices, max_refetch=max_refetch,
        )  # fmt: skip

    def load_data_list(self):
        sets, left_out = read_sets(self.root, lq=self.lq, **self.options)
        if any(one.lq is None for one in sets):
            check_originals(sets, 'give the LR images of all sets, or make them all from the originals')
        if self.scores is not None:
            ScoreTable(self.scores).check_sets(sets)
        logger.info('MultiGTDataset %s: %s', self.root, describe(sets, left_out))
        return [_sample(one) for one in sets]


def _sample(one):
    numbers = [k for k, path in enumerate(one.paths) if path is not None]
    sample = {
        'gt_path': [one.paths[k] for k in numbers], 'gt_numbers': numbers, 'gt_count': len(one.paths),
        'gt_positive': list(one.positive), 'gt_name': one.name, 'key': one.name,
    }  # fmt: skip
    return sample if one.lq is None else {**sample, 'img_path': one.lq}


class LoadGroundTruths(LoadImageFromFile):
    """Loads the candidates into the list ``gt``, with the hashes of their files in ``gt_hashes``.

    Args:
        channel_order (str): ``rgb`` or ``bgr``.
        color_type, imdecode_backend: as in ``LoadImageFromFile``.

    Raises:
        ValueError: an image that cannot be read, or has another size than the others; the message names the file.
    """

    def __init__(self, channel_order='bgr', color_type='color', imdecode_backend=None):
        super().__init__('gt', color_type, channel_order, imdecode_backend)

    def transform(self, results):
        self.hashes = []
        results = super().transform(results)
        results['gt_hashes'] = self.hashes
        for path, image in zip(results['gt_path'], results['gt'], strict=True):
            if image.shape != results['gt'][0].shape:
                raise ValueError(f'{path} has {_size(image)}, but {results["gt_path"][0]} has '
                                 f'{_size(results["gt"][0])}: all candidates must have one size')  # fmt: skip
        return results

    def _load_image(self, filename):
        if self.file_backend is None:
            self.file_backend = get_file_backend(uri=filename)
        data = self.file_backend.get(filename)
        self.hashes.append(hashlib.sha256(data).hexdigest()[:12])
        try:
            image = mmcv.imfrombytes(data, self.color_type, self.channel_order, self.imdecode_backend)
        except Exception:  # what OpenCV could not decode is turned into RGB all the same
            image = None
        if image is None:
            raise ValueError(f'{filename} is not a readable image (truncated or damaged?)')
        return image


class MultiGTCrop(BaseTransform):
    """One random crop of all candidates and, when it is there already, of the LR image ``img``.

    Its place goes to ``gt_crop`` (top, left in px of the ground truth), by which cached scores of patches are found.

    Args:
        gt_patch_size (int): side in px.
        stride (int | None): crops lie at multiples of it; None for every px (of the LR image, when there is one).

    Raises:
        ValueError: images that are too small, an LR image of another size than ``1 / scale``, or sizes that are no
            multiples of ``scale``.
    """

    def __init__(self, gt_patch_size, stride=None):
        self.side = check_number('MultiGTCrop: gt_patch_size', gt_patch_size, low=1, integer=True)
        self.stride = stride if stride is None else check_number('MultiGTCrop: stride', stride, low=1, integer=True)

    def transform(self, results):
        height, width = results['gt'][0].shape[:2]
        scale = results['scale'] if 'img' in results else 1
        stride = scale if self.stride is None else self.stride
        if self.side % scale or stride % scale:
            raise ValueError(f'MultiGTCrop: gt_patch_size {self.side} and stride {stride} must be multiples of {scale}')
        if min(height, width) < self.side:
            raise ValueError(f'{results["gt_path"][0]} has {height} x {width} px, less than gt_patch_size {self.side}')
        top, left = (stride * np.random.randint((side - self.side) // stride + 1) for side in (height, width))
        results['gt'] = [image[top : top + self.side, left : left + self.side] for image in results['gt']]
        if 'img' in results:
            if (results['img'].shape[0] * scale, results['img'].shape[1] * scale) != (height, width):
                raise ValueError(f'{results["img_path"]} has {_size(results["img"])}, which is not 1/{scale} of '
                                 f'{height} x {width} px')  # fmt: skip
            small = self.side // scale
            results['img'] = results['img'][top // scale :, left // scale :][:small, :small]
        results['gt_crop'] = [int(top), int(left)]
        return results

    def __repr__(self):
        return f'{type(self).__name__}(gt_patch_size={self.side}, stride={self.stride})'


class OriginalToLQ(BaseTransform):
    """A copy of the original ground truth under ``img``, for the degradations that make the LR image of it.

    Args:
        key (str): from which list to take it; ``gt_unsharp`` for Real-ESRGAN's sharpened ones.

    Raises:
        ValueError: a set without an original.
    """

    def __init__(self, key='gt'):
        self.key = key

    def transform(self, results):
        if results['gt_numbers'][0] != 0:
            raise ValueError(f'{results["gt_name"]} has no original ground truth to make the LR image of')
        results['img'] = np.array(results[self.key][0], dtype=np.float32)
        results['img_path'] = results['gt_path'][0]
        results['img_channel_order'] = results['gt_channel_order']
        results['img_color_type'] = results['gt_color_type']
        return results

    def __repr__(self):
        return f'{type(self).__name__}(key={self.key!r})'


class PackGroundTruths(PackInputs):
    """``PackInputs`` that also keeps what :class:`nriqa_plugin.mmagic.multigt.MultiGTPreprocessor` needs to know."""

    def __init__(self, keys=('merged', 'img'), meta_keys=(), data_keys=()):
        super().__init__(list(keys), [*meta_keys, *META], list(data_keys))


def _size(image):
    return f'{image.shape[0]} x {image.shape[1]} px'
