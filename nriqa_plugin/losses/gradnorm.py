"""GradNorm: weights of a sum's terms that keep the gradients of all terms at comparable size while they train."""

import math

import torch
from torch import distributed

from nriqa_plugin.checks import check_choice, check_keys, check_number, in_place
from nriqa_plugin.losses.iqa_loss import IQALoss
from nriqa_plugin.losses.shared_layer import SharedLayer

METHODS = ('gradnorm',)
DEFAULTS = {'alpha': 1.5, 'lr': 0.025, 'wrt': 'last_layer', 'every': 1, 'initial': 1, 'ratio_limits': (0.1, 10.0),
            'weight_limits': (0.01, 100.0)}  # fmt: skip
LONGEST_STEP = math.log(1e4)  # of the logarithm, before lr: one odd batch moves a weight by 1e4 ** lr at most


class GradNorm:
    r"""Weights :math:`w_i` of T terms that are learnt beside the network (Chen et al., GradNorm, ICML 2018).

    With :math:`g_i` the norm of the gradient of term i at the last shared layer and :math:`G_i = w_i g_i`, every
    update moves :math:`G_i` towards :math:`\bar G r_i^\alpha` (the paper's Eqs. 1 and 2), where
    :math:`r_i = \tilde L_i / \mathrm{mean}_j \tilde L_j` is the inverse training rate and
    :math:`\tilde L_i = L_i / L_i(0)`; then the weights are rescaled to their sum at the start. Where every start weight
    is 1 this is the paper's sum T; published start weights keep their meaning, for the sum as a whole does not change.

    Three things are not as in the paper, which fails on judges:

    - :math:`L_i` is positive and falls as quality rises, whatever the sign of the term: for a judge it is the distance
      of the score to the best end of its range. The paper's formula on negative terms is NaN as soon as a ratio is.
    - :math:`\tilde L_i` stays within ``ratio_limits``, and a weight within ``weight_limits`` times its start.
    - The step is taken in logarithms, :math:`w_i \leftarrow w_i (\bar G r_i^\alpha / G_i)^{lr}`, which is gradient
      descent on half the squared difference of the logarithms with the target held constant. It has the paper's fixed
      point. Descent on its L1 distance takes steps of length :math:`g_i`, which make a weight negative where terms
      differ by orders of magnitude, and would need Adam's state.

    As ``alpha`` -> 0 all terms get equal gradient norms; a larger one gives more to terms that fall slowly. First-order
    gradients are enough. A term asleep by its schedule, not finite, or without a gradient keeps its weight; one that
    warms up is balanced at its full weight. With a single term nothing changes. Values and norms are averaged over the
    processes of distributed training, so that all hold the same weights.

    Args:
        alpha (float): >= 0, the strength of the pull towards equal training rates; the paper's 1.5 for VSR.
        lr (float): in (0, 1], of the weights.
        wrt (str): ``last_layer`` (the weight that is nearest to the prediction in its autograd graph), ``output`` (the
            prediction itself), or the name of a layer or parameter of the network.
        every (int): update at every n-th call with gradients, the first one included; between, a step costs what it
            does without balance. No common divisor with a term's ``every``: they would never meet.
        initial (int): :math:`L_i(0)` is the mean over the first so many updates; the paper's 1 is one batch's.
        ratio_limits, weight_limits (list[float]): ``[low, high]`` with 0 < low <= 1 <= high.

    Raises:
        ValueError, TypeError: naming the option; a judge whose best score is infinite and has no ``stop_at``; a term
            that no update would see.
    """

    def __init__(self, terms, option):
        if not isinstance(option, dict) or 'method' not in option:
            raise ValueError(f'balance must be a mapping such as {{method: gradnorm}}, got {option!r}')
        check_choice('balance.method', option['method'], METHODS)
        check_keys('balance', option, ('method', *DEFAULTS))
        option = {**DEFAULTS, **option}
        self.alpha = check_number('balance.alpha', option['alpha'], low=0)
        self.lr = check_number('balance.lr', option['lr'], low=1e-6, high=1)
        self.every = check_number('balance.every', option['every'], low=1, integer=True)
        self.initial = check_number('balance.initial', option['initial'], low=1, integer=True)
        self.ratio_limits = _limits('balance.ratio_limits', option['ratio_limits'])
        self.weight_limits = _limits('balance.weight_limits', option['weight_limits'])
        self.layer = SharedLayer(option['wrt'])
        self.start, self.offset = {}, {}
        for term in terms:
            if term.weight > 0:  # one of weight 0 never acts
                with in_place(f'balance: term {term.name!r}'):
                    self._check_meets(term.every)
                    self.start[term.name], self.offset[term.name] = term.weight, distance_offset(term.loss)
        self.factors = dict.fromkeys(self.start, 1.0)
        self.first = dict.fromkeys(self.start, (0.0, 0))  # sum and number of the values that L(0) is the mean of
        self.calls = 0

    def _check_meets(self, every):
        # Updates are at calls 1, 1 + balance.every, ..., the term at the iterations that its own number divides.
        if math.gcd(every, self.every) > 1:
            raise ValueError(f'its every: {every} and balance.every: {self.every} have a common divisor, so that no '
                             'update would ever see it; choose numbers without one')  # fmt: skip

    def is_due(self):
        """Count a call with gradients; whether the weights are updated in it."""
        self.calls += 1
        return (self.calls - 1) % self.every == 0

    def update(self, pred, values, gradients):
        """Take one step with the weights.

        Args:
            pred (Tensor): the network's output, still in its graph.
            values (dict[str, Tensor]): 0-d, of the terms that act now, before their weights.
            gradients (dict[str, Tensor | None]): theirs with respect to ``pred``; None for a term without one.
        """
        names = list(self.factors)
        acting = [name for name in names if name in values]
        # None of these operations wakes the CPU up: a GPU delivers all numbers at once.
        table = pred.new_zeros(2, len(names), dtype=torch.float64)
        for name, norm in zip(acting, self.layer.norms(pred, [gradients[name] for name in acting]), strict=True):
            table[0, names.index(name)], table[1, names.index(name)] = norm, values[name]
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(table)
            table = table / distributed.get_world_size()
        norms, values = (dict(zip(names, row, strict=True)) for row in table.tolist())
        self._step(
            {
                name: (norms[name], values[name] + self.offset[name])
                for name in acting
                if math.isfinite(norms[name]) and math.isfinite(values[name]) and norms[name] > 0
            }
        )

    def _step(self, measured):
        """``{name: (g, L)}`` of the terms that take part."""
        for name, (_, value) in measured.items():
            total, count = self.first[name]
            if count < self.initial:
                if value <= 0:
                    raise ValueError(f'balance: the loss of term {name!r} starts at {value:.4g} (its distance to the '
                                     'best score, if it is a judge); gradnorm needs one that falls to 0 from above; '
                                     'scale it so, or leave the term out')  # fmt: skip
                self.first[name] = (total + value, count + 1)
        if len(measured) < 2:
            return
        low, high = self.ratio_limits
        weights = {name: self.start[name] * self.factors[name] for name in measured}
        ratios = {}
        for name, (_, value) in measured.items():
            total, count = self.first[name]
            ratios[name] = min(max(value * count / total, low), high)
        mean_ratio = sum(ratios.values()) / len(ratios)
        mean_norm = sum(weights[name] * norm for name, (norm, _) in measured.items()) / len(measured)
        moved = {}
        for name, (norm, _) in measured.items():
            target = math.log(mean_norm) + self.alpha * math.log(ratios[name] / mean_ratio)
            step = target - math.log(weights[name] * norm)
            moved[name] = weights[name] * math.exp(self.lr * min(max(step, -LONGEST_STEP), LONGEST_STEP))
        bounds = {name: tuple(self.start[name] * limit for limit in self.weight_limits) for name in moved}
        for name, weight in _rescaled(moved, bounds, sum(weights.values())).items():
            self.factors[name] = weight / self.start[name]

    def state(self):
        """What a resumed run needs: numbers, lists and dicts only."""
        return {
            'factors': dict(self.factors),
            'first': {k: list(v) for k, v in self.first.items()},
            'calls': self.calls,
        }

    def load_state(self, state):
        """Restore :meth:`state`.

        Raises:
            ValueError: it was saved with other terms, whose weights would not add up to the same sum.
        """
        if state['factors'].keys() != self.factors.keys():
            raise ValueError(f'resume: balance was saved with the terms {sorted(state["factors"])}, now there are '
                             f'{sorted(self.factors)}')  # fmt: skip
        self.factors, self.calls = dict(state['factors']), state['calls']
        self.first = {name: tuple(value) for name, value in state['first'].items()}


def distance_offset(loss):
    """What to add to the value of a loss to get its distance to the best value that it can have.

    Raises:
        ValueError: it is a judge whose best score is infinite, as PSNR's.
    """
    if not isinstance(loss, IQALoss) or loss.scale == 'unit':
        return 0.0
    best = loss.scorer.score_range[1 if loss.scorer.higher_better else 0]
    if not math.isfinite(best):
        best = loss.stop_at
        if not isinstance(best, (int, float)):
            raise ValueError(f'the best score of the judge {loss.scorer.name} is infinite, so gradnorm cannot tell how '
                             'far it has come: set stop_at to the score that is good enough')  # fmt: skip
    return loss.loss_weight * (best if loss.scorer.higher_better else -best)


def _limits(option, value):
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f'{option} must be [low, high], got {value!r}')
    low, high = (check_number(option, limit) for limit in value)
    if not 0 < low <= 1 <= high:
        raise ValueError(f'{option} must be [low, high] with 0 < low <= 1 <= high, got {value!r}')
    return low, high


def _rescaled(weights, bounds, total):
    """``weights`` times one factor, each held within its ``bounds``, so that their sum is ``total``.

    There is such a factor whenever ``total`` lies between the sums of the bounds, as it does for weights that were
    within them before.
    """
    low, high = -60.0, 60.0  # of the factor's logarithm

    def at(exponent):
        factor = math.exp(exponent)
        return {name: min(max(weight * factor, bounds[name][0]), bounds[name][1]) for name, weight in weights.items()}

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) < total else (low, middle)
    found = at((low + high) / 2)
    free = [name for name, weight in found.items() if bounds[name][0] < weight < bounds[name][1]]
    if free:  # what bisection leaves of rounding
        held = sum(weight for name, weight in found.items() if name not in free)
        share = (total - held) / sum(found[name] for name in free)
        found.update({name: found[name] * share for name in free})
    return found
