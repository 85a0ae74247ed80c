"""How hard each term of a sum pulls on the network's output, and the weights that make it pull as hard as wanted."""

import contextlib
import math
import statistics
from dataclasses import dataclass, field

import torch

from nriqa_plugin.checks import check_number, unknown_name
from nriqa_plugin.losses.iqa_loss import FRIQALoss, NRIQALoss
from nriqa_plugin.losses.loss_sum import OWN_LOSSES
from nriqa_plugin.losses.mdf_loss import MDFLoss
from nriqa_plugin.losses.table_weights import weight_by_rule
from nriqa_plugin.losses.vgg_loss import VGGLoss

# On RLFN a CNNIQA that pulled 3 to 5 times as hard as the pixel loss trained well, also beside an LPIPS at 7; ten times
# harder it was gamed (README, "Does it help?").
DEFAULT_SHARE = 3.0
GAMED = 10.0  # between the two
OWN = tuple(OWN_LOSSES.values())


@dataclass(frozen=True)
class Proposal:
    """What was measured of one term and the weight that follows.

    Attributes:
        name (str): of the term.
        weight (float): the present one.
        value (float): mean of the term's values before its weight; judges of which more is better are negative.
        norm (float): mean over the batches of the Euclidean norm of the term's gradient with respect to the whole
            batch ``pred`` at weight 1.
        spread (float): standard deviation over mean of these norms; NaN with less than two batches.
        pull (float): ``weight * norm`` over that of the anchor: how hard the term pulls now.
        share (float | None): how hard it shall pull; None: it stays as it is.
        proposed (float | None): the weight for that, three digits; None: it stays as it is.
        by_rule (float | None): what the rule of Table I gives for a judge's value, which looks at no gradient; None
            where the rule does not hold.
        anchor (bool): the term that pulls with 1.
        judge (bool): a no-reference judge, which can be gamed.
        every (int): the term acts at the iterations that this divides; all other numbers hold at those.
        left_out (int): batches on which its value or gradient was not finite.
    """

    name: str
    weight: float
    value: float
    norm: float
    spread: float
    pull: float
    share: float | None
    proposed: float | None
    by_rule: float | None
    anchor: bool
    judge: bool
    every: int
    left_out: int


@dataclass
class Measured:
    """Values and gradient norms of one term at weight 1, one number per batch on which both are finite."""

    term: torch.nn.Module
    values: list = field(default_factory=list)
    norms: list = field(default_factory=list)
    batches: int = 0

    @property
    def norm(self):
        """Mean: the steps of a training add up, and a batch without a gradient (``stop_at``) counts as none.

        It was also steadier than the median: from eight batches of photographs CNNIQA's mean varies by 28 %, its median
        by 35 %.
        """
        return statistics.fmean(self.norms) if self.norms else math.nan

    @property
    def pull(self):
        """Norm of the weighted gradient."""
        return self.term.weight * self.norm


class Gauge:
    """Measures the terms of a sum batch by batch, as its training uses them but at weight 1 and without schedules.

    Crops and random changes before a judge are those of the iterations 1, 2, ...; the sum is left as it was.

    Args:
        loss (LossSum): on the device of the batches.
    """

    def __init__(self, loss):
        self.loss = loss
        self.terms = [Measured(term) for term in loss.terms]

    def add(self, pred, target, lq=None):
        """Measure one batch.

        Args:
            pred (Tensor): the network's output, ``(N, C, H, W)`` or ``(N, T, C, H, W)``, in the sum's ``space``.
            target (Tensor): ground truth of the same shape.
            lq (Tensor | None): the network's input, for terms that compare with it.

        Raises:
            ValueError, TypeError: a term cannot take these tensors; naming it.
        """
        leaf = pred.detach().clone().requires_grad_()
        with _at_full_strength(self.loss), torch.enable_grad():
            self.loss.set_iteration(self.terms[0].batches + 1)
            if lq is not None:
                self.loss.set_lq(lq)
            total = self.loss(leaf, target)
            total = total[0] if isinstance(total, tuple) else total  # LossPair
            (total + 0 * leaf.sum()).backward()
            for part in self.terms:
                name = part.term.name
                value = self.loss.values[name].item()
                # Without an entry the gradient never reached pred.
                norm = float(self.loss.grad_norms.get(name, 0))
                part.batches += 1
                if math.isfinite(value) and math.isfinite(norm):
                    part.values.append(value)
                    part.norms.append(norm)


def propose(measured, shares=None, anchor=None, default=DEFAULT_SHARE):
    """Weights with which every term pulls as hard as wanted.

    A term pulls with its weight times its gradient norm; shares are multiples of the anchor's pull: a share of 0.5
    makes a term pull half as hard as the pixel loss. A judge's share is ``default`` unless it is named; other
    terms, and terms of weight 0, keep their weight unless they are named; a share of 0 gives weight 0.

    Args:
        measured (list[Measured]): :attr:`Gauge.terms`, of one sum or several.
        shares (dict[str, float] | None): name of a term -> share >= 0.
        anchor (str | None): name of the term that pulls with 1 and keeps its weight; default: the first pixel loss,
            that is the first term of positive weight that is none of our judges and ``VGGLoss``, ``ColourLoss``,
            ``TVLoss``.
        default (float): share of the judges that are not named.

    Returns:
        list[Proposal]: in the order of ``measured``.

    Raises:
        ValueError: unknown name, negative share, no anchor, or a term that needs a weight has no finite or no nonzero
            gradient.
    """
    shares = dict(shares or {})
    first = _anchor([part.term for part in measured], shares, anchor)
    base = next(part for part in measured if part.term is first)
    if not base.pull > 0:
        raise ValueError(f'the anchor {first.name!r}: {_fault(base)}')
    rows = []
    for part in measured:
        term = part.term
        share = 1.0 if term is first else shares.get(term.name, default if _is_judge(term) and term.weight else None)
        proposed = None if share is None or term is first else _weight(part, share, base.pull)
        value = statistics.fmean(part.values) if part.values else math.nan
        rows.append(
            Proposal(
                name=term.name,
                weight=term.weight,
                value=value,
                norm=part.norm,
                spread=_spread(part.norms),
                pull=part.pull / base.pull,
                share=share,
                proposed=proposed,
                by_rule=_by_rule(term, value),
                anchor=term is first,
                judge=isinstance(term.loss, NRIQALoss),
                every=term.every,
                left_out=part.batches - len(part.norms),
            )
        )
    return rows


def check_shares(terms, shares=None, anchor=None):
    """Raise what :func:`propose` would refuse before anything is measured."""
    _anchor(terms, dict(shares or {}), anchor)


def _anchor(terms, shares, name):
    names = [term.name for term in terms]
    for known in names:
        if names.count(known) > 1:
            raise ValueError(f"two terms are named {known!r}; give one of them its own 'name'")
    for other, share in shares.items():
        if other not in names:
            raise unknown_name('term in share:', other, names)
        check_number(f'share of {other}', share, low=0)
    if name is None:
        name = next((term.name for term in terms if term.weight and not isinstance(term.loss, OWN)), None)
    if name is None:
        raise ValueError(
            'shares are multiples of the pull of a pixel loss, but no term of positive weight is one '
            f'(terms: {", ".join(names)}); add one, or name another term as the anchor'
        )
    if name not in names:
        raise unknown_name('term as anchor:', name, names)
    found = terms[names.index(name)]
    if not found.weight:
        raise ValueError(f'the anchor {name!r} has weight 0: it does not pull at all')
    if name in shares:
        raise ValueError(f'share of {name}: it is the anchor, which pulls with 1')
    return found


def _is_judge(term):
    # These share the judges' code, but are a distance to the target as the pixel loss is.
    return isinstance(term.loss, (NRIQALoss, FRIQALoss)) and not isinstance(term.loss, (VGGLoss, MDFLoss))


def _weight(part, share, pull):
    """The weight, in three digits: batches differ by more."""
    if share == 0:
        return 0.0
    if not part.norm > 0:
        raise ValueError(f'term {part.term.name!r}: {_fault(part)}; a share of 0 turns it off')
    weight = float(f'{share * pull / part.norm:.3g}')
    if not 0 < weight < math.inf:
        raise ValueError(f'term {part.term.name!r}: a gradient norm of {part.norm:g} is out of reach of any weight')
    return weight


def _fault(part):
    if not part.batches:
        return 'there was no batch to measure it on'
    if not part.norms:
        return f'its value or gradient is not finite on any of {part.batches} batches'
    return (f'its gradient is zero on all of {part.batches} batches, so that no weight gives it a share '
            '(does every image pass its stop_at, does the network return the target?)')  # fmt: skip


def _spread(norms):
    return statistics.stdev(norms) / statistics.fmean(norms) if len(norms) > 1 and any(norms) else math.nan


def _by_rule(term, value):
    if not _is_judge(term) or term.loss.scale != 'native' or not abs(value) > 0:
        return None
    return weight_by_rule(abs(value))


@contextlib.contextmanager
def _at_full_strength(loss):
    """Every term at weight 1, none asleep, nothing dropped or balanced, norms kept; afterwards all as before."""
    parts = [loss, *loss.terms, *(term.loss for term in loss.terms if isinstance(term.loss, torch.nn.Module))]
    before = [(part, {key: value for key, value in vars(part).items() if key[0] != '_'}) for part in parts]
    state = loss.loss_state()
    loss.nonfinite, loss.grad_norms_wanted, loss.balance = 'propagate', True, None
    for term in loss.terms:
        term.weight, term.start_iter, term.stop_iter, term.warmup_iter, term.every = 1.0, 0, None, 0, 1
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).update(attributes)
        loss.load_loss_state(state)
