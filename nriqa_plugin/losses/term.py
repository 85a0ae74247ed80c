"""One term of a sum: a loss, its weight, and when it acts."""

import inspect

import torch
from torch import nn

from nriqa_plugin.checks import check_number

NOT_A_TARGET = ('weight', 'mask', 'target_is_real', 'is_disc')


class Term(nn.Module):
    """One term of a :class:`LossSum`: a loss, its weight and its schedule."""

    def __init__(self, name, loss, weight, where, start_iter=0, stop_iter=None, warmup_iter=0, every=1):
        super().__init__()
        self.name, self.loss, self.weight = name, loss, weight
        self.start_iter = check_number(f'{where}.start_iter', start_iter, low=0, integer=True)
        self.warmup_iter = check_number(f'{where}.warmup_iter', warmup_iter, low=0, integer=True)
        self.every = check_number(f'{where}.every', every, low=1, integer=True)
        self.stop_iter = stop_iter
        if stop_iter is not None:
            check_number(f'{where}.stop_iter', stop_iter, low=start_iter + 1, integer=True)
        self.register_buffer('dropped', torch.zeros((), dtype=torch.long), persistent=False)

    @property
    def scheduled(self):
        """Whether the weight depends on the iteration."""
        return bool(self.start_iter or self.stop_iter or self.warmup_iter or self.every > 1)

    def weight_at(self, iteration):
        """The weight at an iteration (starting at 1); 0 while the term is asleep."""
        age = iteration - self.start_iter
        if age < 1 or (self.stop_iter is not None and iteration > self.stop_iter) or iteration % self.every:
            return 0.0
        return self.weight * min(1.0, age / self.warmup_iter) if self.warmup_iter else self.weight


def check_takes_target(loss):
    """Refuse a loss whose second argument is not the ground truth (``WeightedTVLoss``, ``GANLoss``).

    Raises:
        ValueError: naming the argument.
    """
    function = loss.forward if isinstance(loss, nn.Module) else loss
    names = list(inspect.signature(function).parameters)
    if len(names) < 2 or names[1] in NOT_A_TARGET:
        got = names[1] if len(names) > 1 else 'no second argument'
        raise ValueError(f'a term is called as loss(pred, target), but here the second argument is {got!r}')


def placed_terms(terms):
    """``(where, name, term)`` of a list or a mapping of terms; a list gives no names."""
    if isinstance(terms, (list, tuple)):
        placed = [(f'terms[{index}]', None, term) for index, term in enumerate(terms)]
    elif isinstance(terms, dict):
        placed = [(f'terms.{name}', str(name), term) for name, term in terms.items() if term is not None]
    else:
        placed = []
    if not placed:
        raise ValueError(f'terms must be a non-empty list of {{type, weight, ...}}, or a mapping of names to such, '
                         f'got {terms!r}')  # fmt: skip
    return placed


def default_name(type_name, loss):
    """The name of a term that is given none: its judge's, or its type."""
    if hasattr(loss, 'scorer'):
        return loss.scorer.name
    return type_name.rpartition(':')[2].removesuffix('Loss').lower()
