"""The choice among several ground truths in mmagic: a data preprocessor, which models call before every step."""

from pathlib import Path

import torch
from mmagic.models.data_preprocessors import DataPreprocessor
from mmagic.registry import MODELS
from mmengine.logging import MessageHub

from nriqa_plugin.checks import check_choice, unknown_name

FOLDER = 'gt_selection'


class MultiGTPreprocessor(DataPreprocessor):
    """``DataPreprocessor`` that turns the candidates of every sample into the chosen one, in training only.

    Args:
        selection (dict): ``dict(type='AMOSampler', ...)``, see :class:`nriqa_plugin.multigt.AMOSampler`.
        gt_unsharp (str): ``pipeline`` chooses among the sharpened candidates when the pipeline gives them
            (``UnsharpMasking(keys=['gt'])``); ``plain`` hands the chosen ground truth over as ``gt_unsharp`` too, for
            a ``RealESRGAN`` that asks for it but uses no sharpened one.
        options: as in ``DataPreprocessor``.

    What was chosen lately is logged as ``gt_0``, ``gt_1``, ... (shares), ``gt_score`` and ``gt_score_original``.

    Raises:
        ValueError: wrong options; samples without candidates, or whose sizes differ.
    """

    def __init__(self, selection, gt_unsharp='pipeline', **options):
        super().__init__(**options)
        if not isinstance(selection, dict) or selection.get('type') != 'AMOSampler':
            got = selection.get('type') if isinstance(selection, dict) else selection
            raise unknown_name(
                "MultiGTPreprocessor: selection = dict(type='AMOSampler', ...), type", got, ['AMOSampler']
            )
        self.gt_unsharp = check_choice('gt_unsharp', gt_unsharp, ('pipeline', 'plain'))
        self.sampler = MODELS.build(selection)

    def forward(self, data, training=False):
        """As in ``DataPreprocessor``, after the choice."""
        if training:
            data = self.cast_data(data)
            runtime = MessageHub.get_current_instance().runtime_info
            if runtime.get('loop_stage') == 'train':
                self.sampler.set_iteration(runtime['iter'] + 1)
            self._choose(data['data_samples'])
            for name, value in self.sampler.log_values().items():
                MessageHub.get_current_instance().update_scalar(f'train/{name}', value)
        return super().forward(data, training)

    def _choose(self, samples):
        metas = [_meta(sample) for sample in samples]
        count = max(meta['gt_count'] for meta in metas)
        images = [_list_of(sample.gt_img) for sample in samples]
        shapes = {tuple(of_sample.shape[-3:]) for of_sample in images}
        if len(shapes) > 1:
            raise ValueError(f'MultiGTPreprocessor: crops of different sizes in one batch: {sorted(shapes)}')
        candidates = images[0].new_zeros((len(samples), count, *shapes.pop()), dtype=torch.float32)
        valid = torch.zeros(candidates.shape[:2], dtype=torch.bool)
        positive = valid.clone()
        hashes = [[''] * count for _ in samples]
        for n, (meta, of_sample) in enumerate(zip(metas, images, strict=True)):
            numbers = meta['gt_numbers']
            unit = of_sample.float() / 255
            candidates[n, numbers] = unit.flip(1) if (meta.get('gt_channel_order') or 'bgr') == 'bgr' else unit
            valid[n, numbers] = True
            positive[n, : len(meta['gt_positive'])] = torch.tensor(meta['gt_positive'])
            for k, image_hash in zip(numbers, meta.get('gt_hashes') or (), strict=False):
                hashes[n][k] = image_hash
        crops = None if any('gt_crop' not in meta for meta in metas) else torch.tensor([m['gt_crop'] for m in metas])
        names = [meta['gt_name'] for meta in metas]
        choice = self.sampler(candidates, valid, positive, names, crops, hashes)
        for sample, meta, of_sample, k in zip(samples, metas, images, choice.index.tolist(), strict=True):
            self._put(sample, meta['gt_numbers'].index(k), of_sample)

    def _put(self, sample, place, images):
        sample.gt_img = images[place]
        if 'gt_unsharp' in sample:
            sample.gt_unsharp = _list_of(sample.gt_unsharp)[place]
        elif self.gt_unsharp == 'plain':
            sample.gt_unsharp = images[place].clone()

    def set_work_dir(self, folder):
        """Where the pictures of ``panel_every`` go."""
        self.sampler.panel_folder = str(Path(folder) / FOLDER)

    # PerceptualHook treats the choice like a loss with a state: it follows the iteration and resumes exactly.
    def set_iteration(self, iteration):
        self.sampler.set_iteration(iteration)

    def loss_state(self):
        return self.sampler.loss_state()

    def load_loss_state(self, state):
        self.sampler.load_loss_state(state)

    def report_counts(self):
        self.sampler.report_counts()


def _meta(sample):
    if 'gt_numbers' not in sample.metainfo_keys():
        raise ValueError('MultiGTPreprocessor: a sample without candidates; the training data set must be a '
                         'MultiGTDataset whose pipeline ends with PackGroundTruths')  # fmt: skip
    return sample.metainfo


def _list_of(images):
    """``(K, C, H, W)``; with one candidate the pipeline gives ``(C, H, W)``."""
    return images if images.dim() == 4 else images[None]
