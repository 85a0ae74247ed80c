"""Thurstone's Case V: from how often one condition was preferred to another to a scale in JND (just noticeable steps).

``P(i over j) = Phi((q_i - q_j) / 1.4826)``, so that a difference of 1 JND is preferred by 75 % (Thurstone, Psychol.
Review 34, 1927; scaling as in Perez-Ortiz and Mantiuk, arXiv 1712.03686, and the MDF paper). Pure functions of counts;
everything is batched, since a bootstrap fits thousands of scales. They need scipy (extra ``report``).
"""

import math

import numpy as np

from nriqa_plugin.checks import check_number, import_extra

JND = 1.4826  # 1 / Phi^-1(0.75)
PRIOR = 10.0  # JND
STEPS, HALVINGS, TOLERANCE = 100, 40, 1e-10


def win_probability(difference):
    """The share that prefers a condition which is better by so many JND."""
    return _special().ndtr(np.asarray(difference, dtype=np.float64) / JND)


def thurstone(counts, prior=PRIOR):
    """The most likely scale of each table of counts.

    Args:
        counts (array): ``(..., k, k)``: how often the condition of the row was preferred to that of the column; ties
            count half for either side.
        prior (float): standard deviation in JND of a normal prior on every score around 0. It keeps the scores of
            unanimous conditions finite and each connected part of the comparisons centred; 10 JND, of which nobody
            would need to ask, hardly touches anything else. Infinity is plain maximum likelihood.

    Returns:
        array: ``(..., k)`` in JND, higher is better; the mean over every connected part is 0.

    Raises:
        ValueError: counts that are negative, not finite or not square; without a prior, counts without a finite
            maximum (see :func:`has_maximum`).
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise ValueError(f'counts must be (..., k, k) with at least two conditions, got {counts.shape}')
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError('counts must be finite and not negative')
    precision = 0.0 if prior == math.inf else 1 / check_number('prior', prior, low=1e-6) ** 2
    shape, k = counts.shape[:-2], counts.shape[-1]
    counts = counts.reshape(-1, k, k) * (1 - np.eye(k))
    if not precision and not has_maximum(counts).all():
        raise ValueError('without a prior there is no finite scale: some conditions have won or lost every comparison '
                         'with all others')  # fmt: skip
    scores = np.zeros(counts.shape[:2])
    todo = np.arange(len(counts))
    for _ in range(STEPS):
        if not len(todo):
            return scores.reshape(*shape, k)
        step = _newton_step(counts[todo], scores[todo], precision)
        length = _step_length(counts[todo], scores[todo], step, precision)
        scores[todo] += length[:, None] * step
        scores[todo] -= _part_means(counts[todo], scores[todo])
        todo = todo[np.abs(length[:, None] * step).max(axis=1) > TOLERANCE]
    raise ArithmeticError(f'{len(todo)} of {len(counts)} scales have not settled after {STEPS} steps')


def log_likelihood(counts, scores):
    """``sum_ij C_ij log P(i over j)``, shape (...,)."""
    z = (scores[..., :, None] - scores[..., None, :]) / JND
    return (counts * _special().log_ndtr(z)).sum(axis=(-2, -1))


def parts(counts):
    """Which connected part of the comparisons every condition is in; between parts nothing can be said.

    Args:
        counts (array): ``(k, k)``.

    Returns:
        array: ``(k,)`` of integers, in the order of the conditions.
    """
    reached = reachable(np.asarray(counts)[None] + np.asarray(counts).T[None])[0]
    first = reached.argmax(axis=1)  # the first condition that is in the same part
    return np.unique(first, return_inverse=True)[1]


def has_maximum(counts):
    """Whether the likelihood has a finite maximum in every connected part: everybody loses to everybody over steps."""
    forward = reachable(counts)
    return (forward == forward.swapaxes(-1, -2)).all(axis=(-2, -1))


def reachable(counts):
    """``(..., k, k)`` of bool: from which condition one gets to which over counts that are not 0."""
    k = counts.shape[-1]
    reached = (counts > 0) | np.eye(k, dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(k)))):
        reached = np.matmul(reached.astype(np.float32), reached.astype(np.float32)) > 0
    return reached


def covariance(counts, scores, prior=PRIOR):
    """Covariance of a scale from the curvature of its posterior, as if votes were independent, ``(..., k, k)``."""
    precision = 0.0 if prior == math.inf else 1 / prior**2
    _, curvature = _slope_and_curvature(np.asarray(counts, dtype=np.float64), scores, precision)
    return np.linalg.pinv(curvature, hermitian=True)


def _newton_step(counts, scores, precision):
    """Newton's step for the log posterior, ``(B, k)``; it is concave, so the step climbs."""
    slope, curvature = _slope_and_curvature(counts, scores, precision)
    if not precision:  # the scale of every part may be shifted at will: hold its mean
        curvature = curvature + reachable(counts)
    return np.linalg.solve(curvature, slope[..., None])[..., 0]


def _slope_and_curvature(counts, scores, precision):
    """Gradient of the log posterior and its negated second derivatives."""
    z = (scores[..., :, None] - scores[..., None, :]) / JND
    # phi / Phi by logarithms: far in the tail both are 0.
    ratio = np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - _special().log_ndtr(z))
    pull = counts * ratio / JND
    slope = pull.sum(axis=-1) - pull.sum(axis=-2) - precision * scores
    bend = counts * ratio * (z + ratio) / JND**2
    bend = bend + bend.swapaxes(-1, -2)
    return slope, np.eye(counts.shape[-1]) * (bend.sum(axis=-1) + precision)[..., None] - bend


def _step_length(counts, scores, step, precision):
    """Half the step until the log posterior does not fall; ``(B,)``."""

    def posterior(q):
        return log_likelihood(counts, q) - 0.5 * precision * (q**2).sum(axis=1)

    before, length = posterior(scores), np.ones(len(step))
    for _ in range(HALVINGS):
        worse = posterior(scores + length[:, None] * step) < before - 1e-12 * np.abs(before)
        if not worse.any():
            break
        length[worse] /= 2
    return length


def _part_means(counts, scores):
    """The mean score of every condition's part, ``(B, k)``."""
    together = reachable(counts + counts.swapaxes(1, 2)).astype(np.float64)
    return np.einsum('bij,bj->bi', together, scores) / together.sum(axis=2)


def _special():
    return import_extra('scipy.special', 'report', 'the JND scale')
