"""``model_type: PerceptualModel``: any BasicSR model with schedules, guards, exact resume and best checkpoints."""

import contextlib
import os
from collections import OrderedDict

from basicsr.utils.registry import MODEL_REGISTRY

from nriqa_plugin.basicsr import cpu
from nriqa_plugin.basicsr.resume import ResumeState
from nriqa_plugin.basicsr.validation import ValidationMixin
from nriqa_plugin.checks import unknown_name
from nriqa_plugin.losses import LossPair, LossSum
from nriqa_plugin.losses.iqa_loss import IQALoss
from nriqa_plugin.losses.step_guard import StepGuard


def PerceptualModel(opt):
    """Build ``base_model`` (default ``SRModel``) with :class:`PerceptualMixin` on top.

    Args:
        opt (dict): BasicSR's options; ours are ``base_model``, ``train.clip_grad_norm``, ``val.save_best`` and, in
            relative-gain metrics, ``baseline: start``.

    Raises:
        ValueError: unknown base model, or metric options that cannot work.
    """
    name = opt.get('base_model', 'SRModel')
    names = [n for n, _ in MODEL_REGISTRY if n != 'PerceptualModel']
    found = name if name in names else f'{name}_basicsr'
    if found not in names:
        raise unknown_name('base_model', name, names)
    base = MODEL_REGISTRY.get(found)
    return type(f'Perceptual{base.__name__}', (PerceptualMixin, base), {})(opt)


class PerceptualMixin(ValidationMixin):
    """What our losses need from a training loop, laid over the host's own; no loop is copied."""

    def __init__(self, opt):
        opt['val'] = opt.get('val') or {}
        opt['val'].setdefault('metrics', None)
        self.check_metrics(opt)
        with cpu.cuda_calls_stay_on_cpu(opt['num_gpu'] == 0):
            super().__init__(opt)

    def init_training_settings(self):
        super().init_training_settings()
        parts = [part for name, part in vars(self).items() if name.startswith('cri_')]
        self._check_slots()
        self.timed_losses = [part for part in parts if hasattr(part, 'set_iteration')]
        self.loss_sums = [part for part in parts if hasattr(part, 'loss_state')]
        for loss in self.loss_sums:
            loss.nonfinite = 'propagate'  # the whole step is dropped, alike on every rank
        guards = {name: self._guard(name) for name in vars(self) if name.startswith('optimizer_')}
        self.step_guards = guards
        self.resume_state = ResumeState(self)
        self.schedulers.append(self.resume_state)  # rides the host's save and resume
        self.store_start_weights()

    def _check_slots(self):
        loss = getattr(self, 'cri_perceptual', None)
        if isinstance(loss, (IQALoss, LossSum)) and not isinstance(loss, LossPair):
            raise ValueError(
                f'train.perceptual_opt wants the pair (perceptual, style), {type(loss).__name__} gives one number: '
                'write {type: LossPair, terms: [...]} there'
            )
        if isinstance(getattr(self, 'cri_pix', None), LossPair):
            raise ValueError('train.pixel_opt wants one number, LossPair gives a pair: write type: LossSum there')

    def _guard(self, optimizer_name):
        clip = self.opt['train'].get('clip_grad_norm') if optimizer_name == 'optimizer_g' else None
        guard = StepGuard(clip, self._blame)
        guard.attach(getattr(self, optimizer_name))
        return guard

    def _blame(self):
        dropped = {}
        for loss in self.loss_sums:
            dropped.update(loss.dropped())
        return f'; terms that were not finite so far: {dropped}' if dropped else ''

    def model_to_device(self, net):
        return cpu.to_device(self, net, super().model_to_device)

    def feed_data(self, data):
        if self.is_train:
            self.resume_state.restore_torch()
        self.note_image(data)
        with cpu.cuda_calls_stay_on_cpu(self.opt['num_gpu'] == 0):
            super().feed_data(data)
        # On a CPU these are the caller's own tensors, whose shape video models change in place right after.
        self.lq = self.lq.view_as(self.lq)
        if hasattr(self, 'gt'):
            self.gt = self.gt.view_as(self.gt)

    def optimize_parameters(self, current_iter):
        for loss in self.timed_losses:
            loss.set_iteration(current_iter)
        super().optimize_parameters(current_iter)

    def reduce_loss_dict(self, loss_dict):
        """Adds every term's value, and its gradient norm when asked for, to what the host logs."""
        for loss in self.loss_sums:
            loss_dict.update({f'l_{name}': value for name, value in loss.values.items()})
            loss_dict.update({f'grad_{name}': norm for name, norm in loss.grad_norms.items()})
            loss.values, loss.grad_norms = {}, {}
        log = super().reduce_loss_dict(loss_dict)
        skipped = sum(guard.skipped for guard in self.step_guards.values())
        return OrderedDict(log, skipped_steps=skipped) if skipped else log

    def resume_training(self, resume_state):
        super().resume_training(resume_state)
        self.load_history(resume_state['iter'])

    def save_network(self, net, net_label, current_iter, param_key='params'):
        with self._renamed_when_complete('models'):
            super().save_network(net, net_label, current_iter, param_key)

    def save_training_state(self, epoch, current_iter):
        with self._renamed_when_complete('training_states'):
            super().save_training_state(epoch, current_iter)

    @contextlib.contextmanager
    def _renamed_when_complete(self, key):
        """Let the host write into a hidden folder, then rename: a killed run leaves no half checkpoint."""
        folder = self.opt['path'][key]
        partial = os.path.join(folder, f'.partial_{self.opt["rank"]}')
        os.makedirs(partial, exist_ok=True)
        self.opt['path'][key] = partial
        try:
            yield
            for name in os.listdir(partial):
                os.replace(os.path.join(partial, name), os.path.join(folder, name))
        finally:
            self.opt['path'][key] = folder
            with contextlib.suppress(OSError):
                os.rmdir(partial)
