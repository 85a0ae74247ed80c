"""``LossMetric``: the validation loss, so that ``save_best`` can keep the checkpoint with the lowest one."""

import torch
from mmagic.evaluation.metrics.base_sample_wise_metric import BaseSampleWiseMetric
from mmengine.model import is_model_wrapper

from nriqa_plugin.checks import in_place
from nriqa_plugin.losses.validation_loss import validation_loss
from nriqa_plugin.mmagic.losses import LossSum
from nriqa_plugin.mmagic.metrics import image_name


class LossMetric(BaseSampleWiseMetric):
    """Mean loss over the images of a data set, ``objective`` among the results; lower is better.

    ``dict(type='LossMetric')`` in ``val_evaluator`` and ``checkpoint=dict(save_best='objective', rule='less')``. Images
    are taken as they would be saved: rounded to 8 bits. All terms count with their full weight, whatever their
    schedules say at this iteration; the training's own loss is left as it is. See
    :func:`nriqa_plugin.losses.validation_loss.validation_loss`.

    Args:
        terms (list[dict] | dict | None): of a ``LossSum``; None takes the model's own ``pixel_loss``.
        space (dict | None): of that ``LossSum``; the model's own loss gets what its ``data_preprocessor`` makes of
            images.
        gt_key, pred_key, collect_device, prefix: as in mmagic's own metrics.

    Raises:
        ValueError, TypeError: wrong terms; a model without ``pixel_loss``; an image without ground truth.
    """

    metric = 'objective'  # mmengine's logs average whatever is called loss over ten validations

    def __init__(self, terms=None, space=None, gt_key='gt_img', pred_key='pred_img', collect_device='cpu', prefix=None):
        super().__init__(gt_key, pred_key, collect_device=collect_device, prefix=prefix)
        if terms is None and space is not None:
            raise ValueError('LossMetric: space belongs to terms; the model brings its own')
        with in_place('LossMetric'):
            self.own_loss = None if terms is None else LossSum(terms=terms, space=space)
        self.model = None

    def prepare(self, module, dataloader):
        """mmagic's evaluator calls this before the first validation."""
        super().prepare(module, dataloader)
        self.model = module.module if is_model_wrapper(module) else module
        if self.own_loss is None and getattr(self.model, 'pixel_loss', None) is None:
            raise ValueError(f'LossMetric: {type(self.model).__name__} has no pixel_loss; give terms=[...]')
        if self.own_loss is not None:
            self.own_loss.to(next(self.model.parameters()).device)

    def directions(self):
        """``{key among the results: whether higher is better}``."""
        return {f'{self.prefix}/{self.metric}' if self.prefix else self.metric: False}

    def process(self, data_batch, data_samples):
        """Take the loss of a batch of data samples, BGR, 0 to 255, ``(..., C, H, W)``."""
        if self.model is None:
            raise ValueError("LossMetric: the model is unknown; use val_evaluator = dict(type='Evaluator', ...) and "
                             "val_cfg = dict(type='MultiValLoop') of mmagic")  # fmt: skip
        for data in data_samples:
            with in_place(f'validation of image {image_name(data)}'):
                if self.gt_key not in data:
                    raise ValueError(f'LossMetric: the data sample has no {self.gt_key!r}: load the ground truth')
                pred, target = self._as_trained(data['output'][self.pred_key]), self._as_trained(data[self.gt_key])
                loss = self.model.pixel_loss if self.own_loss is None else self.own_loss
                self.results.append({self.metric: validation_loss(loss, pred, target)})

    def evaluate(self, size=None):
        """Both mmagic's evaluator, which gives no size, and mmengine's may call this."""
        self.size = self.size if size is None else size
        return super().evaluate()

    def _as_trained(self, images):
        """8-bit images as the loss gets them in training: ``(1, C, H, W)`` or ``(1, T, C, H, W)``."""
        device = next(self.model.parameters()).device
        images = images.to(device, torch.float32).clamp(0, 255).round()[None]
        colour = images.shape[-3] == 3
        if self.own_loss is not None:
            unit = (images.flip(-3) if colour else images) / 255
            return self.own_loss.space.from_unit_rgb(unit)
        space = getattr(self.model.pixel_loss, 'space', None)
        if colour and not (space is not None and space.bgr):
            images = images.flip(-3)
        return self.model.data_preprocessor._do_norm(images)
