"""Training from LR images alone in mmagic: the start network's own output takes the place of the ground truth."""

import copy
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from nriqa_plugin.checks import atomic_path, fill_weights, load_weights
from nriqa_plugin.losses.space import Space
from nriqa_plugin.mmagic.multigt import MultiGTPreprocessor
from nriqa_plugin.mmagic.start_checks import bare_model, own_losses

FILE = 'anchor.pth'


class AnchorHook(Hook):
    """The target of every loss is what the generator gave for this input at the start, cut off at the ends
    of the range; no ground truth is loaded.

    ``default_hooks = dict(anchor=dict(type='AnchorHook'))`` in a config; it has no options. Terms against the target
    (L1, LPIPS) tie the trained generator to itself before the training; put an ``LRConsistencyLoss`` beside them,
    which ties the output to its input. The start generator is a frozen copy, kept in ``<work_dir>/anchor.pth`` for
    resuming. Validation is as it was.

    Raises:
        ValueError: the model has no ``generator``, its preprocessor chooses among ground truths, or the batches have no
            images to give the generator.
        FileNotFoundError: a resumed run lacks the file.
    """

    def __init__(self):
        self.anchor = self.handle = None

    def before_train(self, runner):
        model = bare_model(runner)
        generator = getattr(model, 'generator', None)
        if not isinstance(generator, torch.nn.Module):
            raise ValueError(f'AnchorHook: {type(model).__name__} has no generator to copy')
        if isinstance(model.data_preprocessor, MultiGTPreprocessor):
            raise ValueError('AnchorHook and MultiGTPreprocessor exclude each other: both make the target')
        if is_model_wrapper(generator):  # of a GAN in distributed training
            generator = generator.module
        self.space = next((loss.space for loss in own_losses(model).values() if hasattr(loss, 'space')), Space())
        self.anchor = copy.deepcopy(generator).eval().requires_grad_(False)
        file = Path(runner.work_dir) / FILE
        if runner.iter or runner.epoch:
            fill_weights('AnchorHook', file, self.anchor, load_weights('AnchorHook: the resumed run', file))
        elif is_main_process():
            with atomic_path(file) as temporary:
                torch.save(self.anchor.state_dict(), temporary)
        self.handle = model.data_preprocessor.register_forward_hook(self._give_target, with_kwargs=True)

    def _give_target(self, preprocessor, args, options, output):
        if not (options.get('training', args[1] if len(args) > 1 else False)):
            return
        images, samples = output.get('inputs'), output.get('data_samples')
        if not isinstance(images, torch.Tensor) or samples is None:
            raise ValueError('AnchorHook: the batches must have inputs (one tensor) and data_samples, '
                             f'got {type(images).__name__} and {type(samples).__name__}')  # fmt: skip
        with torch.no_grad():
            target = self.anchor(images).clamp(self.space.low, self.space.high)  # as a ground truth is
        samples.set_tensor_data({'gt_img': target})

    def after_train(self, runner):
        if self.handle is not None:
            self.handle.remove()
