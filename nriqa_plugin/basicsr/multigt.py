"""The choice among several ground truths in BasicSR's training: ``train.gt_selection``."""

import os

import torch

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.multigt import AMOSampler

CANDIDATES = 'gt_candidates'
SLOT = 'gt_selection'


class MultiGTMixin:
    """Gives the host the chosen candidate as its ground truth, before any loss sees it.

    With Real-ESRGAN's degradation the choice is made when the LR image is there and before both enter the pool, so
    the pool holds chosen ones only.
    """

    gt_sampler = None
    gt_batch = None

    def make_gt_sampler(self):
        """Build ``train.gt_selection``, if there is one.

        Raises:
            ValueError, TypeError: wrong options, which are those of :class:`nriqa_plugin.multigt.AMOSampler`.
        """
        option = self.opt['train'].get(SLOT)
        if option is None:
            return
        self.gt_sampler = build_sampler(option).to(self.device)
        if self.opt['path'].get('visualization'):
            self.gt_sampler.panel_folder = os.path.join(self.opt['path']['visualization'], SLOT)
        self.own_losses[SLOT] = self.gt_sampler  # its iteration and its state go the way of the losses'

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        # The host calls this before it feeds the batch of the iteration.
        if self.gt_sampler is not None:
            self.gt_sampler.set_iteration(current_iter)
        super().update_learning_rate(current_iter, warmup_iter)

    def feed_data(self, data):
        training = self.is_train and not self.validating  # the host leaves is_train on while it validates
        if training and CANDIDATES in data:
            if self.gt_sampler is None:
                raise ValueError(
                    'the data set gives several ground truths (gt_candidates): train.gt_selection has to say which to '
                    'train on, for example {type: AMOSampler, method: amo, metric: musiq}'
                )
            self.gt_batch = data
            self._check_degradation('lq' not in data)
            if 'lq' in data:
                data = {**data, 'gt': self._chosen_gt()}
        elif training and self.gt_sampler is not None:
            raise ValueError('train.gt_selection needs a training data set of the type MultiGTDataset')
        self._leave_unsharpened()
        super().feed_data(data)

    def _leave_unsharpened(self):
        """``degradation_usm: false``: the host makes LR images of sharpened ground truths, HGGT did not."""
        if self.opt.get('degradation_usm', True) or not hasattr(self, 'usm_sharpener'):
            return
        sharpened = [key for key in ('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm') if self.opt.get(key) is not False]
        sharpened += ['gt_usm'] if self.opt.get('gt_usm') else []  # RealESRNetModel's, which demands one
        if sharpened:
            raise ValueError(f'degradation_usm: false leaves no sharpened ground truth for {sharpened[0]}; set it to '
                             'false too')  # fmt: skip
        self.usm_sharpener = torch.nn.Identity()

    def _check_degradation(self, blind):
        """The data set leaves the LR images to the model, or the other way round; not both or neither."""
        degrades = hasattr(super(), '_dequeue_and_enqueue') and self.opt.get('high_order_degradation', True)
        if blind and not degrades:
            raise ValueError(f'base_model {self.opt["base_model"]!r} makes no LR images; degradation: blind needs '
                             'base_model: RealESRGANModel with high_order_degradation')  # fmt: skip
        if degrades and not blind:
            raise ValueError(f'base_model {self.opt["base_model"]!r} makes the LR images, and so does the data set; '
                             'set degradation: blind there, or high_order_degradation: false')  # fmt: skip

    def _dequeue_and_enqueue(self):
        if self.gt_batch is not None:
            chosen = self._chosen_gt()
            if chosen.shape != self.gt.shape:
                raise ValueError(f'gt_size: the model crops to {tuple(self.gt.shape[-2:])}, the data set to '
                                 f'{tuple(chosen.shape[-2:])}; both have to be the same')  # fmt: skip
            # RealESRNetModel has sharpened what came in; RealESRGANModel will sharpen what comes out of the pool.
            sharpens = self.opt.get('gt_usm') is True and not hasattr(self, 'optimizer_d')
            self.gt = self.usm_sharpener(chosen) if sharpens else chosen
        super()._dequeue_and_enqueue()

    def _chosen_gt(self):
        data, self.gt_batch = self.gt_batch, None
        hashes = data.get('gt_hashes')
        choice = self.gt_sampler(
            data[CANDIDATES].to(self.device),
            data['gt_valid'],
            data['gt_positive'],
            data['gt_name'],
            data['gt_crop'],
            None if hashes is None else list(zip(*hashes, strict=True)),  # the loader turns N lists of K around
        )
        return choice.gt

    def log_gt_choice(self, loss_dict):
        """Add what was chosen lately to what the host logs."""
        if self.gt_sampler is not None:
            for name, value in self.gt_sampler.log_values().items():
                loss_dict[name] = torch.tensor(value, device=self.device)


def build_sampler(option):
    """The sampler that an option ``{type: AMOSampler, ...}`` describes; the option itself is left as it is.

    Raises:
        ValueError: another type.
        TypeError: no mapping.
    """
    if not isinstance(option, dict):
        raise TypeError(f'train.{SLOT} must be a mapping {{type: AMOSampler, ...}}, got {option!r}')
    options = dict(option)
    kind = options.pop('type', None)
    if kind != 'AMOSampler':
        raise unknown_name(f'train.{SLOT}.type', kind, ['AMOSampler'])
    return AMOSampler(**options)
