"""Several judges with weights as one judge: harder to game than any of them alone."""

import math

import torch
from torch import nn

from nriqa_plugin.checks import check_keys, check_number, tensors_hash
from nriqa_plugin.iqa.scorer import Scorer, create_scorer

KEYS = ('metric', 'weight', 'weights', 'options', 'range')


class Ensemble(Scorer):
    r"""Weighted mean of judges on the unit scale, :math:`\sum_i w_i u_i / \sum_i w_i`; **higher is better**.

    :math:`u_i` is judge i's score mapped to [0, 1] with 1 the best end of its range (:meth:`Scorer.unit`), so judges
    of different directions and units mix; only the weights' ratios matter. As one weight outgrows the others, the
    ensemble becomes that judge's unit score. A range that is approximate (``~0, ~100`` in pyiqa) may be left a
    little, and [0, 1] with it; so may a ``range`` of your own, which stands for the judge's and is needed where that
    is infinite (``{metric: niqe, weight: 1.0, range: [2, 12]}``). Where one judge is undefined (NaN), the ensemble is.

    Args:
        judges (list[dict]): at least two, each ``{metric, weight, weights?, options?, range?}``: the judge as
            :func:`create_scorer` names it, a positive number, its local weights file and its further options; or in
            short ``{metric: weight}``, for example ``[{musiq: 1.0}, {nima: 8.0}]``. Mind ``weight`` and ``weights``.

    Shapes: as the judges': all of them score images ``(N, 3, H, W)`` or all of them clips ``(N, T, 3, H, W)``, and
    all of them or none want a reference; returns ``(N,)``. The shortest side is the largest that one of them needs.

    Attributes:
        shares (dict[str, float]): every judge's weight divided by the sum of weights, by its name.

    Raises:
        ValueError: fewer than two judges, one named twice, one without a finite range, full-reference mixed with
            no-reference judges or video with image judges, a weight that is missing or not positive, an unknown key.
        TypeError: a weight that is not a number, or ``options`` that are not a mapping.
    """

    name = 'ensemble'
    higher_better = True
    score_range = (0.0, 1.0)

    def __init__(self, judges=None):
        super().__init__()
        if not isinstance(judges, (list, tuple)) or len(judges) < 2:
            got = '' if judges is None else f', got {judges!r}'
            raise ValueError('the judge ensemble needs the option judges: at least two, for example '
                             f'[{{musiq: 1.0}}, {{nima: 8.0}}]{got}')  # fmt: skip
        entries = [_entry(f'judges[{i}]', entry) for i, entry in enumerate(judges)]
        members = [create_scorer(e['metric'], e.get('weights'), **e.get('options', {})) for e in entries]
        ranges = [
            tuple(entry['range']) if 'range' in entry else judge.score_range
            for judge, entry in zip(members, entries, strict=True)
        ]
        _check_members(members, ranges)
        self.ranges = {judge.name: ends for judge, ends in zip(members, ranges, strict=True)}
        total = math.fsum(entry['weight'] for entry in entries)
        self.shares = {judge.name: e['weight'] / total for judge, e in zip(members, entries, strict=True)}
        self.judges = nn.ModuleList(members)
        self.notes = tuple(dict.fromkeys(note for judge in members for note in judge.notes))
        self.needs_reference = members[0].needs_reference
        self.temporal = members[0].temporal
        self.min_side = max(judge.min_side for judge in members)
        mute = [judge for judge in members if not judge.differentiable]
        self.differentiable = not mute
        self.no_gradient = '; '.join(f'{judge.name}: {judge.no_gradient or "no usable gradient"}' for judge in mute)

    def check(self, pred, ref=None):
        """As in :class:`Scorer`, and what every judge itself asks of the images."""
        super().check(pred, ref)
        for judge in self.judges:
            judge.check(*self._inside(pred, ref))

    def raw_scores(self, pred, ref=None, bf16=False):
        """As in :class:`Scorer`; every judge keeps its own precision and its own ``crop_border``."""
        pred, ref = self._inside(pred, ref)
        shares = zip(self.judges, self.shares.values(), strict=True)
        parts = [share * self._unit(judge, judge.raw_scores(pred, ref, bf16)) for judge, share in shares]
        return torch.stack([part.to(self.dtype) for part in parts]).sum(0)

    def _unit(self, judge, scores):
        low, high = self.ranges[judge.name]
        share = (scores - low) / (high - low)
        return share if judge.higher_better else 1 - share

    def _inside(self, pred, ref):
        """What the judges see: the images without the ensemble's ``crop_border``."""
        if not self.crop_border:
            return pred, ref
        inside = (..., *[slice(self.crop_border, -self.crop_border)] * 2)
        return pred[inside], ref[inside] if self.needs_reference else None

    def weights_hash(self):
        """12 hex digits for the judges, their options and weights and their shares, whatever their order."""
        inner = sorted((judge.name, self.shares[judge.name], judge.weights_hash(), *self._own_range(judge))
                       for judge in self.judges)  # fmt: skip
        return tensors_hash((), repr((type(self).__name__, sorted(self.plain_options()), inner)))

    def _own_range(self, judge):
        return [self.ranges[judge.name]] if self.ranges[judge.name] != tuple(judge.score_range) else []

    def _tensors(self):
        # The judges keep theirs out of every state_dict, from which the base class would read them.
        for judge in self.judges:
            yield from ((f'{judge.name}.{key}', tensor) for key, tensor in judge._tensors())

    def extra_repr(self):
        return f'{super().extra_repr()}, shares {self.shares}'


def one_judge(metric=None, weights=None, options=None, ensemble=None):
    """What :func:`create_scorer` builds for an option file's ``metric`` or, instead, its ``ensemble``.

    Args:
        metric, weights, options: of one judge.
        ensemble (list[dict] | None): several judges as one, as ``judges`` of :class:`Ensemble`.

    Returns:
        tuple[str, str | None, dict]: metric, weights and options.

    Raises:
        ValueError: none or both of ``metric`` and ``ensemble``; weights beside ``ensemble``, whose judges have
            their own.
        TypeError: ``options`` that are no mapping.
    """
    if (metric is None) == (ensemble is None):
        got = 'neither' if metric is None else f'metric {metric!r} and ensemble {ensemble!r}'
        raise ValueError(f'give one judge as metric or several as ensemble, got {got}')
    if not isinstance(options or {}, dict):
        raise TypeError(f'options must be a mapping such as {{net: squeeze}}, got {options!r}')
    options = dict(options or {})
    if ensemble is None:
        return metric, weights, options
    if weights is not None or 'judges' in options:
        raise ValueError('ensemble: its judges have weights and options of their own; give them there, not beside it')
    return 'ensemble', None, {**options, 'judges': ensemble}


def _entry(where, entry):
    """One judge's options in the long form, checked."""
    if not isinstance(entry, dict) or not entry:
        raise ValueError(f'ensemble: {where} must be {{metric, weight, ...}} or {{metric: weight}}, got {entry!r}')
    if len(entry) == 1 and not set(entry) & set(KEYS):
        ((metric, weight),) = entry.items()
        entry = {'metric': metric, 'weight': weight}
    check_keys(f'ensemble: {where} (one judge per entry)', entry, KEYS)
    for key in ('metric', 'weight'):
        if key not in entry:
            raise ValueError(f'ensemble: {where} lacks {key!r}, got {entry!r}')
    weight = check_number(f'ensemble: {where}.weight', entry['weight'])
    if weight <= 0:
        raise ValueError(f'ensemble: {where}.weight must be positive, got {weight}: direction is handled inside')
    if not isinstance(entry.get('options', {}), dict):
        raise TypeError(f'ensemble: {where}.options must be a mapping, got {entry["options"]!r}')
    if 'range' in entry:
        _check_range(f'ensemble: {where}.range', entry['range'])
    return entry


def _check_range(where, ends):
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        raise ValueError(f'{where} must be two numbers, the lowest and the highest score, got {ends!r}')
    low, high = (check_number(where, end) for end in ends)
    if low >= high:
        raise ValueError(f'{where} must rise from the lowest to the highest score, got {ends!r}')


def _check_members(members, ranges):
    """Refuse judges that have no common scale or do not look at the same thing."""
    names = [judge.name for judge in members]
    for judge, ends in zip(members, ranges, strict=True):
        if names.count(judge.name) > 1:
            raise ValueError(f'ensemble: judge {judge.name!r} is named twice; give it one weight')
        if not all(map(math.isfinite, ends)):
            raise ValueError(
                f'ensemble: judge {judge.name!r} has no finite range, but {judge.score_range}, so it has no unit scale '
                'on which it could be mixed with others; give it one (range: [2, 12]) or make it a term of its own'
            )
    opposites = {'needs_reference': ('full-reference', 'no-reference'), 'temporal': ('video', 'image')}
    for attribute, (kind, other) in opposites.items():
        of_kind = [judge.name for judge in members if getattr(judge, attribute)]
        if 0 < len(of_kind) < len(members):
            others = ', '.join(name for name in names if name not in of_kind)
            raise ValueError(f'ensemble: {kind} judges ({", ".join(of_kind)}) and {other} judges ({others}) do not '
                             'mix; make them terms of their own')  # fmt: skip
