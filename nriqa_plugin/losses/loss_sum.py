"""A weighted sum of loss terms for the slot where a framework expects its pixel loss."""

import functools
import inspect
import logging
import math
import operator

import torch
from torch import nn

from nriqa_plugin.checks import (
    check_flag,
    check_keys,
    check_number,
    checks_options,
    import_dotted,
    in_place,
    unknown_name,
)
from nriqa_plugin.losses.colour_loss import ColourLoss
from nriqa_plugin.losses.gradnorm import GradNorm
from nriqa_plugin.losses.iqa_loss import WARN_EVERY, FRIQALoss, NRIQALoss
from nriqa_plugin.losses.known_gradient import with_known_gradient
from nriqa_plugin.losses.lr_consistency import LRConsistencyLoss
from nriqa_plugin.losses.mdf_loss import MDFLoss
from nriqa_plugin.losses.pixel_loss import CharbonnierLoss
from nriqa_plugin.losses.presets import with_preset
from nriqa_plugin.losses.smoothness import TVLoss
from nriqa_plugin.losses.space import Space
from nriqa_plugin.losses.table_weights import is_paper, paper_weight
from nriqa_plugin.losses.term import Term, check_takes_target, default_name, placed_terms
from nriqa_plugin.losses.vgg_loss import VGGLoss

OWN_LOSSES = {
    'NRIQALoss': NRIQALoss,
    'FRIQALoss': FRIQALoss,
    'VGGLoss': VGGLoss,
    'MDFLoss': MDFLoss,
    'ColourLoss': ColourLoss,
    'TVLoss': TVLoss,
    'LRConsistencyLoss': LRConsistencyLoss,
}
PLAIN_LOSSES = {'L1Loss': nn.L1Loss, 'MSELoss': nn.MSELoss, 'CharbonnierLoss': CharbonnierLoss}
SCHEDULE = ('start_iter', 'stop_iter', 'warmup_iter', 'every')
TERM_KEYS = ('weight', 'name', *SCHEDULE)

logger = logging.getLogger('nriqa_plugin')


@checks_options
class LossSum(nn.Module):
    """``sum_i w_i(iteration) * L_i(pred, target)`` as one tensor, with every term known by name.

    Args:
        terms (list[dict] | dict[str, dict | None]): each ``{type, weight, name?, start_iter?, stop_iter?,
            warmup_iter?, every?, ...}``; the remaining keys go to the loss. As a mapping every key is the name of a
            term, so that one option of one term can be overridden from outside (``--force_yml``, inherited
            configs), and a term of ``None`` is left out. ``type`` is one of ours, a framework's registered loss
            (through the adapters), or ``package.module:factory``. ``weight`` >= 0 says how much the term matters;
            direction is handled inside the losses; the text ``paper`` takes a judge's published weight, see
            :func:`nriqa_plugin.losses.table_weights.table_weight`. A term acts after ``start_iter`` and up to
            ``stop_iter`` iterations, its weight rises linearly over ``warmup_iter`` iterations, and with ``every: n``
            it is scored at the iterations that n divides (not rescaled). ``name`` defaults to the judge's name or the
            type.
        space (dict | None): what the network speaks, see :class:`nriqa_plugin.losses.space.Space`; our losses get
            RGB in [0, 1], a framework's own losses get the tensors as they come.
        grad_norms (bool): keep the norm of each term's weighted gradient with respect to ``pred``.
        balance (dict | None): ``{method: gradnorm, ...}`` learns the weights from ``weight`` on, see
            :class:`nriqa_plugin.losses.gradnorm.GradNorm`; ``weights`` then holds those of the last call.
        preset (str | None), presets (str | None): the name of a sum and the file that holds it; ``terms``, ``balance``
            and ``grad_norms`` then only say what is different, see :func:`nriqa_plugin.losses.presets.with_preset`.

    A non-finite term or a term with a non-finite gradient is dropped, counted in ``dropped`` and named in a warning;
    with ``nonfinite = 'propagate'`` (set by our training models, which skip the optimizer's step) it is only counted.

    Raises:
        ValueError, TypeError: at construction, naming the term and the option.
    """

    def __init__(self, terms=None, space=None, grad_norms=None, balance=None, preset=None, presets=None):
        super().__init__()
        if preset is not None or presets is not None:
            given = {'terms': terms, 'grad_norms': grad_norms, 'balance': balance}
            given = with_preset({**given, 'preset': preset, 'presets': presets})
            terms, grad_norms, balance = (given[key] for key in ('terms', 'grad_norms', 'balance'))
        terms = placed_terms(terms)
        self.space = Space(space)
        self.grad_norms_wanted = check_flag('grad_norms', False if grad_norms is None else grad_norms)
        self.nonfinite = 'drop'
        self.iteration = 0
        self.counts_itself = True
        self.terms = nn.ModuleList(self._build_term(where, name, term) for where, name, term in terms)
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two terms are named {name!r}; give one of them its own 'name'")
        self.balance = None if balance is None else GradNorm(self.terms, balance)
        self.values = {}
        self.grad_norms = {}
        self.weights = {}
        self.reported = {}

    def find_loss(self, type_name):
        """The class or factory behind a term's ``type``; the adapters look into their framework's registry too."""
        if ':' in type_name:
            return import_dotted('loss', type_name)
        known = {**PLAIN_LOSSES, **OWN_LOSSES}
        if type_name not in known:
            raise unknown_name('loss type', type_name, known)
        return known[type_name]

    def _build_term(self, where, name, term):
        if not isinstance(term, dict) or 'type' not in term or 'weight' not in term:
            hint = '; to leave it out write null' if term in ('none', 'None') else ''
            raise ValueError(f"{where} must be a mapping with 'type' and 'weight', got {term!r}{hint}")
        options = dict(term)
        type_name = options.pop('type')
        where = f'{where} ({type_name})'
        weight = options.pop('weight')
        from_table = is_paper(f'{where}.weight', weight)
        if not from_table and check_number(f'{where}.weight', weight) < 0:
            raise ValueError(f'{where}.weight must not be negative, got {weight}: the direction of a judge is handled '
                             'inside, a higher weight always means that the term matters more')  # fmt: skip
        if name is not None and 'name' in options:
            raise ValueError(f'{where}.name: the key {name!r} is the name of this term already')
        name = options.pop('name', name)
        schedule = {key: options.pop(key) for key in SCHEDULE if key in options}
        if 'space' in options:
            raise ValueError(f'{where}: give space to LossSum, not to a term')
        loss = self._build_loss(where, type_name, options)
        if from_table:
            with in_place(f'{where}.weight'):
                weight = paper_weight(loss)
        return Term(name or default_name(type_name, loss), loss, weight, where, **schedule)

    def _build_loss(self, where, type_name, options):
        with in_place(where):
            factory = self.find_loss(type_name)
            if inspect.isclass(factory):
                accepted = inspect.signature(factory).parameters
                if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
                    self._check_options(type_name, options, accepted)
            loss = factory(**options)
            check_takes_target(loss)
        return loss

    @staticmethod
    def _check_options(type_name, options, accepted):
        try:
            check_keys(type_name, options, (*accepted, *TERM_KEYS))
        except ValueError as error:
            if 'metric' not in accepted:
                raise
            raise ValueError(f"{error}; the judge's own options go into options: {{...}}") from error

    def set_iteration(self, iteration):
        """Tell the iteration (starting at 1); without it the sum counts its own training calls."""
        self.iteration, self.counts_itself = iteration, False

    def set_lq(self, lq):
        """Tell the network's input of the next call, for the terms that compare with it; in ``space``."""
        for term in self.terms:
            if hasattr(term.loss, 'set_lq'):
                term.loss.set_lq(self.space.to_unit_rgb(lq))

    def set_network(self, network):
        """Tell the network, for ``balance`` that names a layer of it; its weights are not kept alive."""
        if self.balance is not None:
            self.balance.layer.set_network(network)

    def forward(self, pred, target=None):
        """The weighted sum.

        Args:
            pred (Tensor): the network's output, ``(N, C, H, W)`` or ``(N, T, C, H, W)``.
            target (Tensor | None): ground truth of the same shape.

        Returns:
            Tensor: 0-d. Afterwards ``values`` holds every active term's detached value (before its weight) and, after
            ``backward()`` with ``grad_norms``, ``grad_norms`` the norm of its weighted gradient. With ``balance``,
            ``weights`` holds the weights that were used, and those of the next call may differ.
        """
        if self.counts_itself and torch.is_grad_enabled():
            self.iteration += 1
            if self.iteration == 1:
                self._warn_counting()
        self.values, self.grad_norms, self.weights = {}, {}, {}
        learning = self.balance is not None and torch.is_grad_enabled() and pred.requires_grad
        gradients = {} if learning and self.balance.is_due() else None
        contributions = []
        for term in self.terms:
            weight = term.weight_at(max(1, self.iteration))  # 0: called without gradients before any training
            if weight == 0:
                continue
            if self.balance is not None:
                weight *= self.balance.factors[term.name]
                self.weights[term.name] = weight
            with in_place(f'term {term.name!r}'):
                contributions.append(self._contribution(term, weight, pred, target, gradients))
        if gradients is not None:
            self.balance.update(pred, self.values, gradients)
        if self.iteration % WARN_EVERY == 0:
            self.report_counts()
        # With every term asleep the result still has to be connected, since the host calls backward().
        return functools.reduce(operator.add, contributions) if contributions else pred.sum() * 0

    def _contribution(self, term, weight, pred, target, gradients=None):
        view = pred.view_as(pred)
        if hasattr(term.loss, 'set_iteration'):
            term.loss.set_iteration(self.iteration)
        value_of = functools.partial(self._value, term.loss)
        if gradients is None:
            value = value_of(view, target)
        else:
            value, gradients[term.name] = with_known_gradient(value_of, view, target)
        self.values[term.name] = value.detach()
        finite = _finite(value.detach())
        if finite is not True:
            term.dropped.add_(~finite)
        if view.requires_grad:
            view.register_hook(lambda gradient: self._watch_gradient(term, finite, gradient))
        weighted = value * weight
        return weighted if finite is True or self.nonfinite != 'drop' else torch.where(finite, weighted, 0)

    def _value(self, loss, pred, target):
        if getattr(loss, 'unit_rgb', False):
            target = target if target is None else self.space.to_unit_rgb(target)
            pred = self.space.to_unit_rgb(pred)
        value = loss(pred, target)
        if isinstance(value, (tuple, list)):  # the frameworks' (perceptual, style) pairs
            value = sum(part for part in value if part is not None)
        if not isinstance(value, torch.Tensor) or value.dim() != 0:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"must return one number, got {got}; a loss needs reduction 'mean' or 'sum' here")
        return value

    def _watch_gradient(self, term, value_was_finite, gradient):
        half = gradient.dtype in (torch.float16, torch.bfloat16)
        norm = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32 if half else None)
        if self.grad_norms_wanted:
            self.grad_norms[term.name] = norm
        finite = _finite(norm)
        if finite is True and value_was_finite is True:
            return gradient
        finite, value_was_finite = (torch.as_tensor(flag, device=norm.device) for flag in (finite, value_was_finite))
        term.dropped.add_(value_was_finite & ~finite)
        if self.nonfinite == 'drop':
            return torch.where(finite, gradient, 0)
        # A value can be infinite while its gradient is not: the NaN reaches every rank with the reduced gradients.
        return torch.where(value_was_finite, gradient, torch.nan)

    def dropped(self):
        """How often each term was not finite so far: ``{name: count}``, only those that ever were."""
        counts = {term.name: int(term.dropped) for term in self.terms}
        return {name: count for name, count in counts.items() if count}

    def _warn_counting(self):
        scheduled = [term.name for term in self.terms if term.scheduled]
        if scheduled:
            logger.warning('nobody tells LossSum the iteration: the schedules of %s count calls and start anew when '
                           'training is resumed (BasicSR: use model_type: PerceptualModel)', scheduled)  # fmt: skip

    def report_counts(self):
        """Warn of terms that were not finite, and of images that their judges left out, since the last report."""
        counts = self.dropped()
        if counts != self.reported:
            self.reported = counts
            logger.warning('LossSum, iteration %d: terms that were not finite so far: %s', self.iteration, counts)
        for term in self.terms:
            if hasattr(term.loss, 'report_counts'):
                term.loss.report_counts()

    def loss_state(self):
        """Iteration, counters and learnt weights of terms, for an exact resume (no judge's weights)."""
        inner = {term.name: term.loss.loss_state() for term in self.terms if hasattr(term.loss, 'loss_state')}
        learnt = {} if self.balance is None else {'balance': self.balance.state()}
        return {'iteration': self.iteration, 'dropped': self.dropped(), 'terms': inner, **learnt}

    def load_loss_state(self, state):
        """Restore :meth:`loss_state`; terms that the state does not know start at zero."""
        self.iteration, self.reported = state['iteration'], dict(state['dropped'])
        if self.balance is not None:
            if 'balance' in state:
                self.balance.load_state(state['balance'])
            else:
                logger.warning('the training state was saved without balance: its weights begin at their start')
        elif 'balance' in state:
            logger.warning('the training state was saved with balance, which is gone: the weights are those of the '
                           'options again, not the learnt ones')  # fmt: skip
        for term in self.terms:
            term.dropped.fill_(state['dropped'].get(term.name, 0))
            if term.name in state['terms'] and hasattr(term.loss, 'load_loss_state'):
                term.loss.load_loss_state(state['terms'][term.name])


def _finite(number):
    """Whether a 0-d tensor is finite: ``True`` or a flag. Only on a CPU one may look: it would stall a GPU's queue."""
    if number.device.type == 'cpu' and math.isfinite(number.item()):
        return True
    return torch.isfinite(number)
