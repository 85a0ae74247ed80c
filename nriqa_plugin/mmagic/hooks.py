"""``PerceptualHook``: what our losses need from mmengine's training loop."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict

from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.step_guard import StepGuard
from nriqa_plugin.losses.training_state import unchanged_random
from nriqa_plugin.mmagic.basicvsrpp import check_lq_size
from nriqa_plugin.mmagic.multigt import MultiGTPreprocessor
from nriqa_plugin.mmagic.resume import ResumeState
from nriqa_plugin.mmagic.start_checks import bare_model, check_channel_order, check_losses, check_metrics, own_losses


class PerceptualHook(Hook):
    """Terms in the log, no step that is not finite, exact resume, and checks before the first step.

    ``default_hooks = dict(perceptual=dict(type='PerceptualHook'))`` in a config; it has no options.

    - Every term's value goes to the message hub, and so to log, TensorBoard and wandb, as ``loss_<name>``, its
      gradient norm (with ``grad_norms=True``) as ``grad_<name>``, the number of times it was not finite as
      ``dropped_<name>``, its learnt weight (with ``balance``) as ``weight_<name>``. A name that the host logs itself
      gets the slot in front: ``loss_pixel_loss_<name>``.
    - A step of an optimizer whose gradients are not finite is dropped, alike on every rank, and counted as
      ``skipped_steps``; 10 in a row are an error. (Under float16 AMP mmengine's loss scaler drops them already.)
    - Counters and torch's generators are saved and restored; validation leaves no trace in the generators.

    Raises:
        ValueError: before the first step, see :mod:`nriqa_plugin.mmagic.start_checks` and
            :func:`nriqa_plugin.mmagic.basicvsrpp.check_lq_size`.
    """

    def __init__(self):
        self.resume_state = ResumeState()
        self.guards = {}

    def before_train(self, runner):
        model = bare_model(runner)
        check_losses(model)
        check_metrics(runner)
        self.losses = own_losses(model)
        if isinstance(model.data_preprocessor, MultiGTPreprocessor):
            model.data_preprocessor.set_work_dir(runner.work_dir)
        self.sums = {slot: loss for slot, loss in self.losses.items() if isinstance(loss, LossSum)}
        for loss in self.sums.values():
            loss.nonfinite = 'propagate'  # the whole step is dropped
            loss.set_network(_generator(model))
        for name, wrapper in _wrappers(runner.optim_wrapper).items():
            self.guards[name] = StepGuard(blame=self._blame)
            self.guards[name].attach(wrapper.optimizer)
        self._tell_inputs(model)
        self.resume_state.restore_counters(self.losses, self.guards)
        if runner.iter and hasattr(model, 'step_counter') and 'step_counter' not in model.state_dict():
            model.step_counter.fill_(runner.iter)  # GAN models and EDVR do not save theirs, BasicVSR does
        self.first_batch = True

    def _tell_inputs(self, model):
        """Let terms that compare with the network's input (``LRConsistencyLoss``) see it."""
        wanting = [loss for loss in self.sums.values() if any(hasattr(term.loss, 'set_lq') for term in loss.terms)]
        if not wanting:
            return
        if not isinstance(getattr(model, 'generator', None), torch.nn.Module):
            raise ValueError(f'LRConsistencyLoss: {type(model).__name__} has no generator whose input it could see')

        def tell(generator, inputs):
            if generator.training:
                for loss in wanting:
                    loss.set_lq(inputs[0])

        model.generator.register_forward_pre_hook(tell)

    def _blame(self):
        dropped = {f'{name} ({slot})': n for slot, loss in self.sums.items() for name, n in loss.dropped().items()}
        return f'; terms that were not finite so far: {dropped}' if dropped else ''

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.first_batch:
            check_channel_order(bare_model(runner), data_batch)
            check_lq_size(_generator(bare_model(runner)), runner.train_dataloader, data_batch)
            self.resume_state.restore_random()
            self.first_batch = False
        # The norms are seen in the middle of the backward pass, where the host has already scaled the loss.
        wrappers = _wrappers(runner.optim_wrapper)
        self.scale = _loss_scale(wrappers.get('generator') or next(iter(wrappers.values())))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = {}
        for slot, loss in self.sums.items():
            dropped = {term.name: term.dropped for term in loss.terms}
            norms = {name: norm / self.scale for name, norm in loss.grad_norms.items()}
            weights = {name: loss.values[name].new_tensor(weight) for name, weight in loss.weights.items()}
            kinds = (('loss', loss.values), ('grad', norms), ('dropped', dropped), ('weight', weights))
            for kind, values in kinds:
                for name, value in values.items():
                    key = f'{kind}_{name}'
                    taken = key in scalars or key in (outputs or {})
                    scalars[f'{kind}_{slot}_{name}' if taken else key] = value
            loss.values, loss.grad_norms, loss.weights = {}, {}, {}
        if scalars:  # one transfer for all of them
            numbers = torch.stack([value.double() for value in scalars.values()]).tolist()
            for key, number in zip(scalars, numbers, strict=True):
                if number or not key.startswith('dropped_'):
                    runner.message_hub.update_scalar(f'train/{key}', number)
        if skipped := sum(guard.skipped for guard in self.guards.values()):
            runner.message_hub.update_scalar('train/skipped_steps', skipped)
        if self.resume_state.is_due(runner):
            self.resume_state.gather_random()

    def after_train_epoch(self, runner):
        self.resume_state.gather_random()

    def before_val(self, runner):
        self.resume_state.gather_random()  # a new best value makes mmengine write a checkpoint after this
        self.before_validation = unchanged_random()
        self.before_validation.__enter__()

    def after_val(self, runner):
        self.before_validation.__exit__()

    def before_save_checkpoint(self, runner, checkpoint):
        for loss in self.losses.values():
            loss.report_counts()
        self.resume_state.save(checkpoint, self.losses, self.guards)

    def after_load_checkpoint(self, runner, checkpoint):
        if runner._resume:
            self.resume_state.load(checkpoint)


def _generator(model):
    """The network that makes the images; the whole model where it has none of that name."""
    generator = getattr(model, 'generator', model)
    return generator.module if is_model_wrapper(generator) else generator


def _wrappers(optim_wrapper):
    """``{name: OptimWrapper}``; GAN models have several."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return dict(optim_wrapper.items())
    return {'generator': optim_wrapper}


def _loss_scale(wrapper):
    """By how much mmengine multiplies the loss before the backward pass."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    scale = scaler.get_scale() if scaler is not None and scaler.is_enabled() else 1.0
    return scale * float(wrapper.scale_loss(torch.ones(())))
