"""Which of K candidate ground truths to train on, as pure functions of scores.

SMA, SMP and AMO are those of "Augmenting Perceptual Super-Resolution via Image Quality Predictors", arXiv 2504.18524:
``I ~ P[S_I | softmax_tau(Q(S_I))]`` over all candidates (SMA) or over those that people called positive (SMP), and the
best patch (AMO). Every function gives the index of the chosen candidate, ``(N,)`` int64 on the CPU.

Common arguments:

- ``scores`` (Tensor): ``(N, K)``, higher is better (turn a lower-is-better judge around before). A score that is not
  finite makes its candidate invalid.
- ``valid`` (Tensor): ``(N, K)`` bool, which candidates exist.
- ``positive`` (Tensor): ``(N, K)`` bool, which ones a majority of people called better than the original.
- ``tau`` (float): temperature in the judge's own units. As tau -> 0 sampling becomes argmax (and is, at 0), as
  tau -> infinity it becomes uniform (and is, at ``math.inf``).
- ``generator`` (torch.Generator): of the CPU; every function that samples draws one number per row.

All raise a ``ValueError`` that names the row when no candidate is left in it. Ties go to the first of the best.
"""

import math

import torch

METHODS = ('original', 'random', 'upos', 'sma', 'smp', 'amo')
SCORED = ('sma', 'smp', 'amo')  # these need scores, the others none
OF_POSITIVES = ('upos', 'smp')


def original(valid):
    """Candidate 0 of every row."""
    _check('valid', valid, torch.bool)
    return usable(valid[:, :1]).long().squeeze(1) - 1


def random(valid, generator):
    """One of all candidates, each as likely as the other."""
    return _sample(torch.zeros(valid.shape, dtype=torch.float64), usable(valid), generator)


def upos(valid, positive, generator):
    """One of the positive candidates, each as likely as the other."""
    return random(_positives(valid, positive), generator)


def sma(scores, valid, tau, generator):
    """One of all candidates with the probabilities ``softmax(scores / tau)``."""
    _check_tau(tau)
    kept = usable(valid, scores)
    scores = torch.where(kept, scores.detach().cpu().double(), -math.inf)
    if tau == 0:
        return scores.argmax(1)
    # The best score is taken off first, so that no tau, however small, can overflow.
    logits = torch.where(kept, (scores - scores.amax(1, keepdim=True)) / tau, 0)
    return _sample(logits, kept, generator)


def smp(scores, valid, positive, tau, generator):
    """As :func:`sma`, over the positive candidates."""
    return sma(scores, _positives(valid, positive), tau, generator)


def amo(scores, valid):
    """The best candidate of every row."""
    return sma(scores, valid, 0, None)


def usable(valid, scores=None):
    """``valid`` without the candidates whose score is not finite, on the CPU.

    Raises:
        ValueError: wrong shapes, or a row in which no candidate is left.
        TypeError: ``valid`` that is not bool, ``scores`` that are no floating-point tensor.
    """
    _check('valid', valid, torch.bool)
    kept = valid.cpu()
    if scores is not None:
        _check('scores', scores)
        if scores.shape != valid.shape:
            raise ValueError(f'scores are {tuple(scores.shape)}, valid is {tuple(valid.shape)}')
        kept = kept & torch.isfinite(scores.detach().cpu())
    rows = torch.nonzero(~kept.any(1)).flatten().tolist()
    if rows:
        why = 'its scores are NaN or infinite' if valid.cpu()[rows[0]].any() else 'none of them is valid'
        raise ValueError(f'no ground truth to choose in row {rows[0]} of the batch: {why}')
    return kept


def _positives(valid, positive):
    _check('positive', positive, torch.bool)
    if positive.shape != valid.shape:
        raise ValueError(f'positive is {tuple(positive.shape)}, valid is {tuple(valid.shape)}')
    both = valid.cpu() & positive.cpu()
    rows = torch.nonzero(~both.any(1)).flatten().tolist()
    if rows:
        raise ValueError(f'no positive ground truth in row {rows[0]} of the batch: leave such sets out')
    return both


def _sample(logits, kept, generator):
    """One index per row with ``softmax(logits)`` over the kept ones, by inverting the distribution function."""
    weights = torch.where(kept, logits, -math.inf).softmax(1)
    steps = weights.cumsum(1)
    total = steps[:, -1:]
    draws = torch.rand(len(kept), 1, generator=generator, dtype=torch.float64)
    # Below the total even after rounding: the first step above the draw is one that really rises, a kept candidate.
    draws = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
    return (steps > draws).to(torch.uint8).argmax(1)


def _check(name, tensor, dtype=None):
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2:
        got = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f'{name} must be a tensor (N, K), got {got}')
    if dtype is None and not tensor.is_floating_point():
        raise TypeError(f'{name} must be floating point, got {tensor.dtype}')
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f'{name} must be {dtype}, got {tensor.dtype}')


def _check_tau(tau):
    if isinstance(tau, bool) or not isinstance(tau, (int, float)):
        raise TypeError(f'tau must be a number, got {tau!r}')
    if not tau >= 0:
        raise ValueError(f'tau must be 0 (argmax) or more, got {tau!r}')
