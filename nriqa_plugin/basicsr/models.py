"""``model_type: PerceptualModel``: any BasicSR model with schedules, guards, exact resume and best checkpoints."""

import contextlib
import difflib
import os
import shutil
import zipfile
from collections import OrderedDict

from basicsr.utils.registry import MODEL_REGISTRY

from nriqa_plugin.basicsr import cpu
from nriqa_plugin.basicsr.basicvsrpp import check_gt_size
from nriqa_plugin.basicsr.blur import contiguous_blur
from nriqa_plugin.basicsr.gt_free import AnchorMixin
from nriqa_plugin.basicsr.lora import check_same_base, reach_base_options, rightly_absent
from nriqa_plugin.basicsr.multigt import MultiGTMixin
from nriqa_plugin.basicsr.resume import ResumeState
from nriqa_plugin.basicsr.schedulers import create_scheduler, undo_warmup
from nriqa_plugin.basicsr.validation import ValidationMixin
from nriqa_plugin.checks import check_number, load_weights, unknown_name
from nriqa_plugin.losses import LossSum, check_slot
from nriqa_plugin.losses.step_guard import StepGuard


def PerceptualModel(opt):
    """Build ``base_model`` (default ``SRModel``) with :class:`PerceptualMixin` on top.

    Args:
        opt (dict): BasicSR's options; ours are ``base_model``, ``train.clip_grad_norm``, ``train.gt_selection``,
            ``val.save_best``, ``val.artifact_alarm``, PyTorch's schedulers in ``train.scheduler``, metrics of type
            ``calculate_loss`` and, in relative-gain metrics, ``baseline: start``.

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


class PerceptualMixin(AnchorMixin, MultiGTMixin, ValidationMixin):
    """What our losses need from a training loop, laid over the host's own; no loop is copied."""

    def __init__(self, opt):
        check_spelling(opt)
        opt.setdefault('base_model', 'SRModel')
        opt['val'] = opt.get('val') or {}
        opt['val'].setdefault('metrics', None)
        self.check_metrics(opt)
        self.torch_schedulers = []
        reach_base_options(opt)
        with cpu.cuda_calls_stay_on_cpu(opt['num_gpu'] == 0):
            super().__init__(opt)

    def init_training_settings(self):
        check_warmup(self.opt['train'])
        super().init_training_settings()
        check_gt_size(self.get_bare_model(self.net_g), self.opt)
        check_same_base(self.get_bare_model(self.net_g), getattr(self, 'net_g_ema', None))
        slots = {name[4:]: part for name, part in vars(self).items() if name.startswith('cri_')}
        check_slot('pixel', slots.get('pix'))
        check_slot('perceptual', slots.get('perceptual'))
        self.own_losses = {slot: part for slot, part in slots.items() if hasattr(part, 'loss_state')}
        self.loss_sums = {slot: part for slot, part in self.own_losses.items() if isinstance(part, LossSum)}
        for loss in self.loss_sums.values():
            loss.nonfinite = 'propagate'  # the whole step is dropped, alike on every rank
            loss.set_network(self.get_bare_model(self.net_g))
        self.make_gt_sampler()
        guards = {name: self._guard(name) for name in vars(self) if name.startswith('optimizer_')}
        self.step_guards = guards
        self.resumed = False
        self.resume_state = ResumeState(self)
        self.schedulers.append(self.resume_state)  # rides the host's save and resume
        self.store_start_weights()
        self.make_anchor()

    def setup_schedulers(self):
        """The schedulers of the host, or of a copy of it that has more, else PyTorch's own by name."""
        train = self.opt['train']
        option = dict(train['scheduler'])
        with contextlib.suppress(NotImplementedError):  # the host knows no such type
            super().setup_schedulers()
            return
        ours = [create_scheduler(one, option, train.get('total_iter')) for one in self.optimizers]
        self.schedulers.extend(ours)
        self.torch_schedulers = ours

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        if current_iter > 1:
            undo_warmup(self.torch_schedulers)
        super().update_learning_rate(current_iter, warmup_iter=warmup_iter)

    def _guard(self, optimizer_name):
        clip = self.opt['train'].get('clip_grad_norm') if optimizer_name == 'optimizer_g' else None
        guard = StepGuard(clip, self._blame)
        guard.attach(getattr(self, optimizer_name))
        return guard

    def _blame(self):
        dropped = {}
        for slot, loss in self.loss_sums.items():
            dropped.update({f'{name} ({slot})': count for name, count in loss.dropped().items()})
        return f'; terms that were not finite so far: {dropped}' if dropped else ''

    def model_to_device(self, net):
        return cpu.to_device(self, net, super().model_to_device)

    def feed_data(self, data):
        if self.is_train:
            self.resume_state.restore_torch()
        self.note_image(data)
        with cpu.cuda_calls_stay_on_cpu(self.opt['num_gpu'] == 0), contiguous_blur(self):
            super().feed_data(data)
        if not hasattr(self, 'lq'):
            raise ValueError(f'PerceptualModel: base_model {self.opt["base_model"]!r} does not restore images (no lq)')
        # On a CPU these are the caller's own tensors, whose shape video models change in place right after.
        self.lq = self.lq.view_as(self.lq)
        if hasattr(self, 'gt'):
            self.gt = self.gt.view_as(self.gt)

    def optimize_parameters(self, current_iter):
        for loss in self.own_losses.values():
            loss.set_iteration(current_iter)
        self._freeze_flow_after_resume(current_iter)
        super().optimize_parameters(current_iter)

    def _freeze_flow_after_resume(self, current_iter):
        """The host's ``fix_flow`` freezes at iteration 1 only, which a resumed run never sees."""
        if self.resumed and 1 < current_iter < (getattr(self, 'fix_flow_iter', None) or 0):
            for name, parameter in self.net_g.named_parameters():
                if 'spynet' in name or 'edvr' in name:
                    parameter.requires_grad_(False)
        self.resumed = False

    def reduce_loss_dict(self, loss_dict):
        """Adds every term's value, its gradient norm when asked for and its learnt weight to what the host logs."""
        for slot, loss in self.loss_sums.items():
            weights = {name: loss.values[name].new_tensor(weight) for name, weight in loss.weights.items()}
            for kind, values in (('l', loss.values), ('grad', loss.grad_norms), ('w', weights)):
                for name, value in values.items():
                    key = f'{kind}_{name}'
                    loss_dict[f'{kind}_{slot}_{name}' if key in loss_dict else key] = value
            loss.values, loss.grad_norms, loss.weights = {}, {}, {}
        self.log_gt_choice(loss_dict)
        log = super().reduce_loss_dict(loss_dict)
        skipped = sum(guard.skipped for guard in self.step_guards.values())
        return OrderedDict(log, skipped_steps=skipped) if skipped else log

    def resume_training(self, resume_state):
        super().resume_training(resume_state)
        self.resumed = True
        self.load_history(resume_state['iter'])

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """As the host's, but no code in the file can run, and a resumed run finds its own checkpoint.

        With a bare state dict (``param_key_g: ~``) the host would look for another bare one in the checkpoints that
        it has written itself, and for the moving average it would find nothing at all.
        """
        state = load_weights(f'the weights of {type(self.get_bare_model(net)).__name__}', load_path)
        if isinstance(state, dict) and 'params' in state:
            param_key = param_key or 'params'
        elif isinstance(state, dict) and param_key not in state:
            param_key = None
        super().load_network(net, load_path, strict, param_key)

    def _print_different_keys_loading(self, crt_net, load_net, strict=True):
        """As the host's, but silent about what a plain file or an adapter rightly lacks."""
        absent = rightly_absent(self.get_bare_model(crt_net), load_net)
        load_net.update(absent)
        super()._print_different_keys_loading(crt_net, load_net, strict)
        for key in absent:
            del load_net[key]

    def save_network(self, net, net_label, current_iter, param_key='params'):
        with self._renamed_when_complete('models', expected=True):
            super().save_network(net, net_label, current_iter, param_key)

    def save_training_state(self, epoch, current_iter):
        for loss in self.own_losses.values():
            loss.report_counts()
        self.resume_state.gather_random()
        with self._renamed_when_complete('training_states', expected=current_iter != -1):  # -1: the host saves none
            super().save_training_state(epoch, current_iter)

    @contextlib.contextmanager
    def _renamed_when_complete(self, key, expected):
        """Let the host write into a hidden folder, then rename: a killed run leaves no half checkpoint."""
        folder = self.opt['path'][key]
        partial = os.path.join(folder, f'.partial_{self.opt["rank"]}')
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed while writing
        os.makedirs(partial)
        self.opt['path'][key] = partial
        try:
            yield
            if expected and self.opt['rank'] == 0 and not os.listdir(partial):
                raise OSError(f'no checkpoint could be written to {folder} (permissions, disk full?)')
            for name in os.listdir(partial):
                if not zipfile.is_zipfile(os.path.join(partial, name)):  # the host goes on after a failed write
                    raise OSError(f'{name} could not be written to {folder} (disk full?); the earlier file is kept')
                os.replace(os.path.join(partial, name), os.path.join(folder, name))
        finally:
            self.opt['path'][key] = folder
            shutil.rmtree(partial, ignore_errors=True)


OWN_OPTIONS = (
    ('', 'base_model'),
    ('train', 'clip_grad_norm'),
    ('train', 'gt_selection'),
    ('train', 'anchor'),
    ('val', 'save_best'),
    ('val', 'artifact_alarm'),
)


def check_warmup(train):
    """Refuse a ``warmup_iter`` that the host would compare with the iteration in vain.

    Raises:
        TypeError: no number; ``--force_yml`` reads ``-1`` as text.
        ValueError: below -1.
    """
    iterations = train.get('warmup_iter', -1)
    if isinstance(iterations, str):
        raise TypeError(f'train.warmup_iter must be a number, got the text {iterations!r} (--force_yml reads negative '
                        'numbers as text); write 0 for no warm-up')  # fmt: skip
    check_number('train.warmup_iter', iterations, low=-1)


def check_spelling(opt):
    """Refuse keys that look like a misspelt option of ours; the host ignores every key it does not know.

    Raises:
        ValueError: naming both.
    """
    for section, ours in OWN_OPTIONS:
        keys = (opt.get(section) or {}) if section else opt
        for wrong in difflib.get_close_matches(ours, [key for key in keys if key != ours], cutoff=0.8):
            raise ValueError(f'unknown option {wrong!r}{f" in {section}" if section else ""}; did you mean {ours!r}?')
