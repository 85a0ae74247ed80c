"""Training from LR images alone in BasicSR: the start network's own output takes the place of the ground truth."""

import copy

import torch

from nriqa_plugin.checks import check_choice
from nriqa_plugin.losses.space import Space

OPTION = 'train.anchor'


class AnchorMixin:
    """``train.anchor: start``: the target of every loss is what the network gave for this input at the start,
    cut off at the ends of the range.

    Terms against the target (L1, LPIPS) then tie the trained network to itself before the training, so that a
    no-reference judge can be optimised without any ground truth. Put an ``LRConsistencyLoss`` beside them, which ties
    the output to its input. The start network is a frozen copy (of the moving average, when there is one), which a
    resumed run reads from ``net_g_start.pth``.
    """

    anchor = None
    validating = False

    def anchor_option(self):
        """The option's name, when it is set."""
        wanted = (self.opt.get('train') or {}).get('anchor')
        return OPTION if self.is_train and wanted is not None else ''

    def make_anchor(self):
        """Copy the start network, once its weights are stored.

        Raises:
            ValueError: another value than ``start``, or a choice among ground truths beside it.
        """
        if not self.anchor_option():
            return
        check_choice(OPTION, self.opt['train']['anchor'], ('start',))
        if self.opt['train'].get('gt_selection') is not None:
            raise ValueError(f'{OPTION} and train.gt_selection exclude each other: both make the target')
        self.anchor = copy.deepcopy(self._validated_network()).eval().requires_grad_(False)
        if self.opt['path'].get('resume_state') is not None:
            self.load_network(self.anchor, str(self._start_path()), True, 'params')

    def feed_data(self, data):
        if self.anchor is None:
            super().feed_data(data)
            return
        # Real-ESRGAN's models make the LR image themselves.
        degrades = hasattr(self, 'usm_sharpener') and self.opt.get('high_order_degradation', True)
        if 'lq' not in data or (degrades and not self.validating):
            raise ValueError(f'{OPTION} trains on given LR images, but base_model {self.opt["base_model"]!r} makes '
                             'them from a ground truth: set high_order_degradation: false')  # fmt: skip
        if 'gt' not in data and hasattr(self, 'gt'):
            del self.gt  # of the batch before
        super().feed_data(data)
        if not self.validating:
            with torch.no_grad():
                space = next((loss.space for loss in self.loss_sums.values()), Space())
                self.gt = self.gt_usm = self.anchor(self.lq).clamp(space.low, space.high)  # as a ground truth is

    def optimize_parameters(self, current_iter):
        for loss in self.loss_sums.values():
            loss.set_lq(self.lq)
        super().optimize_parameters(current_iter)

    def validation(self, *args, **options):
        self.validating = True
        try:
            super().validation(*args, **options)
        finally:
            self.validating = False
